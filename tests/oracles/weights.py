"""Token weights, and the filter, clip and scores that go with them, completion by completion and token by token."""

import math

import numpy as np


def rows(mask):
    """Every completion's index, and the places of its trained tokens."""
    for p in range(mask.shape[0]):
        for g in range(mask.shape[1]):
            yield p, g, [t for t in range(mask.shape[2]) if mask[p, g, t]]


def first_largest(values, k):
    """Indices of the k largest, of equal ones the first."""
    return sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]


def top(x, mask, fraction):
    """Per completion, ceil(float32 product) of the trained tokens."""
    out = np.zeros(mask.shape, bool)
    for p, g, places in rows(mask):
        k = math.ceil(np.float32(fraction) * np.float32(len(places)))
        for i in first_largest([x[p, g, t] for t in places], k):
            out[p, g, places[i]] = True
    return out


def dgpo(hellinger, entropy, mask, *, vocab_size, temperature, kappa):
    out = np.zeros(mask.shape)
    for p, g, places in rows(mask):
        powers = [
            math.exp(hellinger[p, g, t] * (entropy[p, g, t] / math.log(vocab_size)) ** kappa / temperature)
            for t in places
        ]
        for t, power in zip(places, powers, strict=True):
            out[p, g, t] = len(places) * power / sum(powers)
    return out


def d3s_tokens(advantages, entropy, mask, fraction):
    places = list(zip(*np.nonzero(mask), strict=True))
    keys = [abs(advantages[i]) * entropy[i] for i in places]
    out = np.zeros(mask.shape)
    for i in first_largest(keys, max(1, math.floor(fraction * len(keys)))):
        out[places[i]] = 1
    return out


def vppo(context, old, mask, *, fraction, floor):
    dependency = np.zeros(mask.shape)
    for p, g, places in rows(mask):
        for t in places:
            d = min(max(context[p, g, t] - old[p, g, t], -20), 20)
            dependency[p, g, t] = min(math.exp(d) - d - 1, 10)
    means = {(p, g): np.mean(dependency[p, g, places]) for p, g, places in rows(mask) if places}
    low, high = min(means.values()), max(means.values())
    z = {i: (mean - low) / (high - low) for i, mean in means.items()}
    out = np.where(top(dependency, mask, fraction), 1.0, 0.0)
    for i in z:
        out[i] *= floor + (1 - floor) * z[i] / (np.mean(list(z.values())) + 1e-8)
    return out


def tw_grpo(divergence, mask, alpha, as_released=False):
    out = np.zeros(mask.shape)
    for p in range(mask.shape[0]):
        present = mask[p].any(axis=0)
        k = np.where(present, divergence[p], 0.0)
        seen = k if as_released else k[present]
        for g in range(mask.shape[1]):
            for t in np.flatnonzero(mask[p, g]):
                out[p, g, t] = 1 + (alpha - 1) * (k[t] - seen.min()) / (seen.max() - seen.min() + 1e-8)
    return out


def group_divergence(logprobs, mask, valid, as_released=False):
    prompts, group, length, vocabulary = logprobs.shape
    out = np.zeros((prompts, length))
    for p in range(prompts):
        for t in range(length):
            who = [g for g in range(group) if valid[p, g] and (as_released or mask[p, g, t])]
            of = [logprobs[p, g, t] if mask[p, g, t] else np.full(vocabulary, -math.log(vocabulary)) for g in who]
            for row in of:
                for v in range(vocabulary):
                    d = min(max(np.mean([other[v] for other in of]) - row[v], -11), 11)
                    out[p, t] += (math.exp(d) - d - 1) / len(who)
    return out


def erpo_gate(entropy, mask, gamma):
    out = np.zeros(mask.shape)
    for p in range(mask.shape[0]):
        values = entropy[p][mask[p]]
        for g, t in zip(*np.nonzero(mask[p]), strict=True):
            z = (entropy[p, g, t] - values.mean()) / values.std(ddof=1)
            out[p, g, t] = 1 / (1 + math.exp(-gamma * z))
    return out


def importance(old, sampler, mask, *, level="token", mode="truncate", low=0.0, high=2.0, normalize=False):
    """Truncated or masked importance weights of tokens or completions."""
    out, weights = np.zeros(mask.shape), []
    for p, g, places in rows(mask):
        d = [old[p, g, t] - sampler[p, g, t] for t in places]
        logs = d if level == "token" else [sum(d)] * len(d)
        for t, x in zip(places, logs, strict=True):
            k = math.exp(min(max(x, -20), 20))
            out[p, g, t] = min(max(k, low), high) if mode == "truncate" else k * (low <= k <= high)
        weights += [out[p, g, t] for t in (places if level == "token" else places[:1])]
    return out / np.mean(weights) if normalize else out


def mismatch_mask(old, sampler, mask, *, level, estimator, low, high, as_released=False):
    out = np.zeros(mask.shape)
    for p, g, places in rows(mask):
        d = [min(max(old[p, g, t] - sampler[p, g, t], -20), 20) for t in places]
        k = {
            "k1": [-x if as_released else x for x in d],
            "k2": [x * x / 2 for x in d],
            "k3": [math.exp(x) - 1 - x for x in d],
        }[estimator]
        if level != "token" and k:
            one = {"sequence_sum": sum, "sequence_mean": np.mean, "sequence_max": max}[level](k)
            k = [one] * len(k)
        for t, x in zip(places, k, strict=True):
            out[p, g, t] = math.log(low) <= x <= math.log(high) if estimator == "k1" else x <= high
    return out


def rhythm(distance, received, mask, *, mode, fraction, amplify, handover, window, near, far):
    """Weights where the advantage is not negative. `near` and `far` are the thresholds of distance and change."""
    change = np.zeros(mask.shape)
    for p, g, places in rows(mask):
        for t in places:
            if t + 1 in places:
                change[p, g, t] = abs(distance[p, g, t] - distance[p, g, t + 1])
    chosen = top(change if mode == "local" else received, mask, fraction)
    out = np.where(mask, 1 + (amplify - 1) * chosen, 0.0)
    if mode != "coupled":
        return out
    for p, g, places in rows(mask):
        intros = set()
        for t in places:
            before = [u for u in range(max(0, t - window), t) if u in places]
            if not chosen[p, g, t] or not before:
                continue
            greatest = max(change[p, g, u] for u in before)
            if distance[p, g, t] <= near and greatest >= far:
                out[p, g, t] -= (amplify - 1) * handover
                intros.add(next(u for u in before if change[p, g, u] == greatest))
        for u in intros:
            out[p, g, u] += (amplify - 1) * handover
    return out


def stare(logprobs, advantages, mask, *, fraction, positive, negative=1.0):
    out = np.where(mask, 1.0, 0.0)
    for sign, weight in ((1, positive), (-1, negative)):
        places = [i for i in zip(*np.nonzero(mask), strict=True) if sign * advantages[i] > 0]
        if places:
            k = max(1, int(fraction * len(places) + 0.999999))
            for i in first_largest([-logprobs[i] for i in places], k):
                out[places[i]] = weight
    return out


def normalized_entropy(entropy, mask, *, quantile, as_released=False):
    x = np.log(np.maximum(entropy[mask], 1e-8))
    ordered = sorted(x)
    x = x - ordered[round(quantile * (len(x) - 1))]  # Python rounds half to even
    above, below = [v for v in x if v > 0], [v for v in x if v < 0]
    scaled = [v / max(above) if v > 0 else v / min(below) * (1 if as_released else -1) if v < 0 else 0.0 for v in x]
    out = np.zeros(mask.shape)
    out[mask] = scaled
    return out


def hapo_redistribute(ratio, low, high, h, mask, beta):
    out = np.zeros(mask.shape)
    for i in zip(*np.nonzero(mask), strict=True):
        lo, hi = 1 - low[i], high[i] - 1  # the epsilons, of which the band has half
        inside = 1 - lo / 2 < ratio[i] < 1 + hi / 2
        out[i] = 1 + beta * h[i] if (h[i] > 0) != inside else 1.0
    return out


def largest_variance(values, n):
    """The largest variance of any n of the values, over the splits into upper and lower end."""
    ordered = sorted(values)
    return max(np.var(ordered[: n - i] + ordered[len(ordered) - i :]) for i in range(n + 1))


def flow(attention, question, answer):
    """One sequence: reach, inflow, throughput, by the paper's two sweeps."""
    n = len(question)
    reach = [1.0 if answer[i] else 0.0 for i in range(n)]
    for i in reversed(range(n)):
        if not answer[i]:
            reach[i] = sum(attention[k, i] * reach[k] for k in range(i + 1, n))
    inflow, out = [q / max(sum(question), 1) for q in question], [0.0] * n
    for i in range(n):
        if not answer[i] and reach[i] > 0:
            for k in range(i + 1, n):
                passed = inflow[i] * attention[k, i] * reach[k] / reach[i]
                inflow[k] += passed
                out[i] += passed
    return np.array(reach), np.array(inflow), np.array(inflow) + np.array(out)
