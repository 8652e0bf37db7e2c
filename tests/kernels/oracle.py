"""Token scoring in float64 NumPy, a row at a time, written from the formulas."""

import numpy as np


def logits(hidden, head, inv_temperature, soft_cap):
    """Gives z[n, v] and dz/draw, for head [D, V]."""
    raw = np.asarray(hidden, np.float64) @ np.asarray(head, np.float64)
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
