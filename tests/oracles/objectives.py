"""Ratios, clips, losses and reshaped advantages, one token and one completion at a time."""

import math

import numpy as np


def trained(mask, b):
    return [t for t in range(mask.shape[1]) if mask[b, t]]


def mean(values):
    return sum(values) / len(values)


def std(values):
    centre = mean(values)
    return (sum((v - centre) ** 2 for v in values) / (len(values) - 1)) ** 0.5


def segment(logprobs, old_logprobs, segment_ids, mask, items=None):
    """Log-ratio of each token's segment; with ids all 0 that of the completion."""
    out = np.zeros(mask.shape)
    for b, t in np.argwhere(mask):
        own = segment_ids[b, t] if items is None else min(segment_ids[b, t], items)
        same = [t]
        if own >= 0:
            ids = segment_ids[b] if items is None else np.minimum(segment_ids[b], items)
            same = [u for u in trained(mask, b) if ids[u] == own]
        out[b, t] = min(mean([float(logprobs[b, u]) - float(old_logprobs[b, u]) for u in same]), 10)
    return out


def hybrid(logprobs, old_logprobs, advantages, mask, weights, bounds):
    """`weights[b,t]` is the share of the token's ratio; bounds are token low, high, sequence low, high."""
    out = np.zeros(mask.shape)
    whole = segment(logprobs, old_logprobs, np.zeros(mask.shape, int), mask)
    for b, t in np.argwhere(mask):
        mix = 0.0
        branches = ((math.exp(float(logprobs[b, t]) - float(old_logprobs[b, t])), bounds[:2]),
                    (math.exp(whole[b, t]), bounds[2:]))  # fmt: skip
        for share, (ratio, (low, high)) in zip((weights[b, t], 1 - weights[b, t]), branches, strict=True):
            mix += share * (min(ratio, high) if advantages[b, t] > 0 else max(ratio, low))
        out[b, t] = math.log(mix)
    return out


def dcpo_bounds(logprob, epsilon_low, epsilon_high, cap):
    q = math.exp(logprob)
    low = (1 + math.sqrt(max(1 - 4 * epsilon_low / q, 0))) / 2
    return low, min((1 + math.sqrt(1 + 4 * epsilon_high / q)) / 2, cap)


def low_entropy(entropy, mask, quantile):
    out = np.zeros(mask.shape, bool)
    for b in range(len(mask)):
        values = [float(entropy[b, t]) for t in trained(mask, b)]
        for t in trained(mask, b):
            out[b, t] = entropy[b, t] <= np.quantile(values, quantile)
    return out


def covariance(logprobs, advantages, mask):
    places = np.argwhere(mask)
    of = {name: mean([float(x[b, t]) for b, t in places]) for name, x in (("p", logprobs), ("a", advantages))}
    out = np.zeros(mask.shape)
    for b, t in places:
        out[b, t] = (float(advantages[b, t]) - of["a"]) * (float(logprobs[b, t]) - of["p"])
    return out


def best(values, candidates, k):
    """The k candidates with the highest values."""
    places = sorted((tuple(p) for p in np.argwhere(candidates)), key=lambda p: -values[p])
    out = np.zeros(candidates.shape, bool)
    for place in places[:k]:
        out[place] = True
    return out


def gmpo(log_ratio, low, high, advantages, mask):
    """Loss of each completion."""
    out = np.zeros(len(mask))
    for b in range(len(mask)):
        logs = []
        for t in trained(mask, b):
            x, a = float(log_ratio[b, t]), float(advantages[b, t])
            bound = min(max(x, math.log(low[b, t])), math.log(high[b, t]))
            logs.append(min(x, bound) if a > 0 else max(x, bound) if a < 0 else 0.0)
        if logs:
            out[b] = -mean([float(advantages[b, t]) for t in trained(mask, b)]) * math.exp(mean(logs))
    return out


def segment_mean(x, segment_ids, mask):
    out = np.zeros(mask.shape)
    for b, t in np.argwhere(mask):
        ids = segment_ids[b]
        same = [u for u in trained(mask, b) if ids[u] == ids[t]] if ids[t] >= 0 else [t]
        out[b, t] = mean([float(x[b, u]) for u in same])
    return out


def thr_scores(hidden, errors, correct, mask, valid):
    out = np.zeros(mask.shape)
    for p, g, t in np.argwhere(mask & valid[:, :, None]):
        for k, u in np.argwhere(mask[p] & (valid[p] & correct[p])[:, None]):
            errors_meet = sum(float(a) * float(b) for a, b in zip(errors[p, g, t], errors[p, k, u], strict=True))
            states_meet = sum(float(a) * float(b) for a, b in zip(hidden[p, g, t], hidden[p, k, u], strict=True))
            out[p, g, t] += errors_meet * states_meet
    return out


def dcpo(history, rewards, prompt_ids, valid):
    """Advantages, and the history after: for each prompt the mean and std of every visit so far."""
    out, after = np.zeros(valid.shape), {key: list(visits) for key, visits in history.items()}
    for p, prompt in enumerate(map(int, prompt_ids)):
        group = [float(r) for r, v in zip(rewards[p], valid[p], strict=True) if v]
        if len(group) < 2:
            continue
        visit = (mean(group), std(group))
        after.setdefault(prompt, []).append(visit)
        of_all, i = pooled([*history.get(prompt, []), visit]), len(history.get(prompt, [])) + 1
        for g in np.flatnonzero(valid[p]):
            now, ever = ((float(rewards[p, g]) - m) / s if s > 1e-9 else 0.0 for m, s in (visit, of_all))
            mixtures = ever / i + (1 - 1 / i) * now, now / i + (1 - 1 / i) * ever
            out[p, g] = min(mixtures, key=abs)
    return out, after


def pooled(visits):
    """Mean and std over visits that count the same: that of their means plus the mean of their variances."""
    centre = mean([m for m, _ in visits])
    return centre, math.sqrt(mean([s**2 + (m - centre) ** 2 for m, s in visits]))
