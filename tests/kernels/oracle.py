"""Token scoring in float64 NumPy, a row at a time, written from the formulas."""

import numpy as np


def logits(hidden, head, inv_temperature, soft_cap, dtype=np.float64):
    """Gives z[n, v] and dz/draw, for head [D, V]."""
    raw = np.asarray(hidden, dtype) @ np.asarray(head, dtype)
    slope = np.ones_like(raw)
    if soft_cap is not None:
        slope = 1 - np.tanh(raw / soft_cap) ** 2
        raw = soft_cap * np.tanh(raw / soft_cap)
    return raw * inv_temperature[:, None], slope * inv_temperature[:, None]


def score(hidden, head, targets, inv_temperature, soft_cap=None, thresholds=None):
    """Gives logprobs, entropy and lse over the kept tokens, and what `gradients` needs."""
    z, slope = logits(hidden, head, np.asarray(inv_temperature, np.float64), soft_cap)
    results, probs = np.zeros((3, len(z))), np.zeros_like(z)
    for n, row in enumerate(z):
        if targets[n] < 0:
            continue
        kept = np.ones(len(row), bool)
        if thresholds is not None:
            kept = row - np.log(np.exp(row - row.max()).sum()) - row.max() >= thresholds[n]
            kept[targets[n]] = True
        largest = row[kept].max()
        lse = largest + np.log(np.exp(row[kept] - largest).sum())
        probs[n, kept] = np.exp(row[kept] - lse)
        p = probs[n][probs[n] > 0]
        results[:, n] = row[targets[n]] - lse, -(p * np.log(p)).sum(), lse
    return results, (z, slope, probs)


def gradients(hidden, head, targets, state, cotangents):
    """Gives the gradients of hidden and head [D, V] for cotangents of (logprobs, entropy, lse)."""
    z, slope, probs = state
    g = np.zeros_like(z)
    for n, p in enumerate(probs):
        if targets[n] < 0:
            continue
        some = p > 0
        g_logprobs, g_entropy, g_lse = (np.float64(c[n]) for c in cotangents)
        entropy = -(p[some] * np.log(p[some])).sum()
        g[n, some] = p[some] * (g_lse - g_logprobs - g_entropy * (np.log(p[some]) + entropy))
        g[n, targets[n]] += g_logprobs
    g = g * slope
    return g @ np.asarray(head, np.float64).T, np.asarray(hidden, np.float64).T @ g


def statistics(z, targets):
    """Gives every further statistic of each row, from its logits alone; 0 where the target is ignored."""
    names = ("max_logit", "argmax", "target_logit", "sum_logits", "sum_p2", "sum_p2_logp", "varentropy")
    found = {name: np.zeros(len(z)) for name in (*names, "top2_gap", "rank", "mass_above")}
    for n, (row, y) in enumerate(zip(z, targets, strict=True)):
        if y < 0:
            continue
        logp = row - row.max() - np.log(np.exp(row - row.max()).sum())
        p, order = np.exp(logp), np.argsort(-row, kind="stable")
        entropy = -(p * logp).sum()
        above = row > row[y]
        values = row.max(), order[0], row[y], row.sum(), (p**2).sum(), (p**2 * logp).sum()
        gap = row[order[0]] - row[order[1]] if len(row) > 1 else np.inf
        values += (p * (logp + entropy) ** 2).sum(), gap, 1 + above.sum(), p[above].sum()
        for name, value in zip(found, values, strict=True):
            found[name][n] = value
    return found


def divergences(logp, logr, beta):
    """Gives each divergence of rows of log-probs, and its gradient by the logits of the first."""
    p, r = np.exp(logp), np.exp(logr)
    mixture = (1 - beta) * p + beta * r
    root = np.sqrt(p * r)

    def rows(x):
        return x.sum(axis=1, keepdims=True)

    def centred(slope):
        return p * (slope - rows(p * slope))

    log_m = np.log(mixture)
    values = {
        "kl_policy_ref": rows(p * (logp - logr)),
        "kl_ref_policy": rows(r * (logr - logp)),
        "squared_hellinger": rows((np.sqrt(p) - np.sqrt(r)) ** 2) / 2,
        "jsd": (1 - beta) * rows(p * (logp - log_m)) + beta * rows(r * (logr - log_m)),
        "total_variation": rows(np.abs(p - r)) / 2,
    }
    gradients = {
        "kl_policy_ref": centred(logp - logr),
        "kl_ref_policy": p - r,
        "squared_hellinger": (p * rows(root) - root) / 2,
        "jsd": (1 - beta) * centred(logp - log_m),
        "total_variation": centred(np.sign(p - r)) / 2,
    }
    return {kind: x[:, 0] for kind, x in values.items()}, gradients
