"""Advantages from outcomes, returns and critics, one completion and one token at a time, in float64."""

import math
from statistics import fmean

import numpy as np


def trained(mask, valid):
    return np.asarray(mask) & np.asarray(valid)[:, :, None]


def members(valid, p):
    return [g for g in range(valid.shape[1]) if valid[p, g]]


def per_token(numbers, mask, valid):
    out = np.zeros(mask.shape)
    for p, g, t in np.argwhere(trained(mask, valid)):
        out[p, g, t] = numbers[p][g]
    return out


def of_groups(rewards, mask, valid, credit):
    """Gives every token credit(the group's valid rewards, place of this one, their lengths)."""
    numbers = [[0.0] * valid.shape[1] for _ in range(valid.shape[0])]
    for p in range(valid.shape[0]):
        group = members(valid, p)
        values = [float(rewards[p, g]) for g in group]
        lengths = [int(mask[p, g].sum()) for g in group]
        for place, g in enumerate(group):
            numbers[p][g] = credit(values, place, lengths)
    return numbers


def centred(values, place, _lengths=None):
    return 0.0 if len(set(values)) == 1 else values[place] - sum(values) / len(values)


def spread(values):
    """Unbiased standard deviation, 1 where there is none."""
    mean = fmean(values) if values else 0.0
    variance = sum((v - mean) ** 2 for v in values) / max(len(values) - 1, 1)
    return math.sqrt(variance) if variance > 0 else 1.0


def whiten(x, mask, valid, form="verl"):
    places = np.argwhere(trained(mask, valid))
    values = [float(x[p, g, t]) for p, g, t in places]
    out = np.zeros(mask.shape)
    if len(set(values)) < 2:
        return out
    n, mean = len(values), fmean(values)
    squares = sum((v - mean) ** 2 for v in values)
    scale = math.sqrt(squares / (n - 1) + 1e-8) if form == "verl" else math.sqrt(max(squares / n, 1e-8))
    for p, g, t in places:
        out[p, g, t] = (float(x[p, g, t]) - mean) / scale
    return out


def reward_to_go(token_rewards, mask, valid, *, gamma=1.0, holes="discount"):
    out, mask = np.zeros(mask.shape), trained(mask, valid)
    for p, g in np.ndindex(mask.shape[:2]):
        ahead = 0.0
        for t in reversed(range(mask.shape[2])):
            if mask[p, g, t]:
                ahead = out[p, g, t] = float(token_rewards[p, g, t]) + gamma * ahead
            elif holes != "skip":
                ahead = gamma * ahead if holes == "discount" else 0.0
    return out


def outcome_token_rewards(rewards, mask, valid):
    out = np.zeros(mask.shape)
    for p, g in np.argwhere(trained(mask, valid).any(axis=2)):
        out[p, g, np.flatnonzero(mask[p, g])[-1]] = rewards[p, g]
    return out


def recursion(rewards, values, gamma, lam):
    """Advantages and returns of one sequence of steps."""
    advantages, ahead, value_ahead = [], 0.0, 0.0
    for r, v in zip(reversed(rewards), reversed(values), strict=True):
        ahead = r + gamma * value_ahead - v + gamma * lam * ahead
        value_ahead = v
        advantages.insert(0, ahead)
    return advantages, [a + v for a, v in zip(advantages, values, strict=True)]


def gae(token_rewards, values, mask, valid, *, gamma=1.0, lam=1.0, holes="skip"):
    out, mask = np.zeros((2, *mask.shape)), trained(mask, valid)
    for p, g in np.ndindex(mask.shape[:2]):
        kept = mask[p, g]
        steps = np.flatnonzero(kept) if holes == "skip" else np.arange(len(kept))
        numbers = ([float(x[p, g, t]) if kept[t] else 0.0 for t in steps] for x in (token_rewards, values))
        for i, result in enumerate(recursion(*numbers, gamma, lam)):
            for t, number in zip(steps, result, strict=True):
                out[i, p, g, t] = number if kept[t] else 0.0
    return out


def ngrams(mask, valid, n, as_released=False):
    out = np.zeros(mask.shape, int)
    for p, g in np.argwhere(trained(mask, valid).any(axis=2)):
        places = np.flatnonzero(mask[p, g])
        starts = [*places[::n], places[-1]]
        for t in starts if as_released else set(starts):
            out[p, g, t] += 1
    return out


def surprised(ref_logprobs, mask, valid):
    out = np.zeros(mask.shape, bool)
    for p, g in np.argwhere(trained(mask, valid).any(axis=2)):
        places = np.flatnonzero(mask[p, g])
        perplexities = [math.exp(-float(ref_logprobs[p, g, t])) for t in places]
        starts = [i for i in range(len(places) - 1) if perplexities[i + 1] > perplexities[i]]
        out[p, g, places[[0, *starts, -1]]] = True
    return out


WEIGHTS = {
    "equal": lambda n: [1 / n] * n,
    "unit": lambda n: [0.0] * (n - 1) + [1.0],
    "position": lambda n: [1 / k / sum(1 / j for j in range(1, n + 1)) for k in range(1, n + 1)],
}


def ma_gae(token_rewards, values, boundaries, mask, valid, *, gamma=1.0, lam=0.95, pooling="equal", as_released=False):
    """Advantages and returns of each token's macro action; a boundary of 2 puts an empty one before it."""
    out = np.zeros((2, *mask.shape))
    for p, g in np.argwhere(trained(mask, valid).any(axis=2)):
        macros = []
        for i, t in enumerate(np.flatnonzero(mask[p, g])):
            if boundaries[p, g, t] == 2:
                macros.append([])
            if i == 0 or boundaries[p, g, t]:
                macros.append([])
            macros[-1].append(t)

        def pooled(x, macro, p=p, g=g):
            weights = WEIGHTS[pooling](len(macro)) if macro else []
            return sum(w * float(x[p, g, t]) for w, t in zip(weights, macro, strict=True))

        rewards = [
            pooled(token_rewards, macro) if as_released else sum(float(token_rewards[p, g, t]) for t in macro)
            for macro in macros
        ]
        results = recursion(rewards, [pooled(values, macro) for macro in macros], gamma, lam)
        for i, numbers in enumerate(results):
            for macro, number in zip(macros, numbers, strict=True):
                out[i, p, g, macro] = number
    return out


def opo(values, place, lengths):
    if len(set(values)) == 1:
        return 0.0
    return values[place] - sum(n * v for n, v in zip(lengths, values, strict=True)) / max(sum(lengths), 1)


def pass_at_k(values, place, _lengths, *, eps=1e-6, use_std=True):
    others = values[:place] + values[place + 1 :]
    if not others or values[place] <= max(others):
        return 0.0
    return (values[place] - max(others)) / (spread(values) + eps if use_std else 1.0)


def max_rl(values, place, _lengths):
    mean = fmean(values)
    return centred(values, place) / mean if mean > 0 else 0.0


def gpg_share(rewards, valid, alpha):
    groups = [[float(rewards[p, g]) for g in members(valid, p)] for p in range(valid.shape[0])]
    if alpha == "verl":
        flags = [r != 0 for group in groups for r in group]
    else:
        flags = [len(set(group)) > 1 and spread(group) > 1e-5 for group in groups if group]
    return sum(flags) / len(flags) if any(flags) else 1.0


def beta_parameters(rewards, valid):
    groups = [[float(rewards[p, g]) for g in members(valid, p)] for p in range(valid.shape[0])]
    rates = [fmean(group) for group in groups if group]
    if len(set(rates)) < 2:
        return 1.0, 1.0
    mu = fmean(rates)
    size = mu * (1 - mu) / spread(rates) ** 2 - 1
    return max(1.0, 1 + size * mu / 3), max(1.0, 1 + size * (1 - mu) / 3)


def beta_density(x, alpha, beta):
    whole = math.gamma(alpha) * math.gamma(beta) / math.gamma(alpha + beta)
    return x ** (alpha - 1) * (1 - x) ** (beta - 1) / whole


def bnpo(values, place, _lengths, *, alpha, beta):
    if len(set(values)) == 1:
        return 0.0
    return centred(values, place) * min(1 / beta_density(fmean(values), alpha, beta), 1e6)


def gdpo_scores(reward_parts, mask, valid, weights, eps):
    """Weighted sum of the standardised parts of each completion."""
    total = np.zeros(valid.shape)
    for k, weight in enumerate(weights):
        part = of_groups(
            reward_parts[..., k], mask, valid, lambda values, i, _: centred(values, i) / (spread(values) + eps)
        )
        total += weight * np.array(part)
    return total


def standardised_rows(x, valid, eps):
    values = [float(v) for v in x[valid]]
    return np.where(valid, (x - fmean(values)) / (spread(values) + eps), 0)


def rarer_rewards(rewards, format_ids, progress, valid):
    out = np.zeros(valid.shape)
    for p in range(valid.shape[0]):
        group = members(valid, p)
        for g in group:
            alike = sum(1 for k in group if format_ids[p, k] == format_ids[p, g])
            fading = 0.5 * (1 + math.cos(math.pi * float(progress)))
            out[p, g] = float(rewards[p, g]) * (1 + (len(group) / alike - 1) * fading)
    return out


def kimi(rewards, lengths, valid):
    out = np.zeros(valid.shape)
    for p in range(valid.shape[0]):
        group = members(valid, p)
        longest, shortest = (f([int(lengths[p, g]) for g in group], default=0) for f in (max, min))
        for g in group:
            if longest > shortest:
                score = 0.5 - (int(lengths[p, g]) - shortest) / (longest - shortest)
                out[p, g] = score if rewards[p, g] > 0 else min(0.0, score)
    return out


def rto(rewards, old, ref, dpo, mask, valid, *, dpo_coef, dpo_clip, kl_coef, reward_clip):
    out = outcome_token_rewards(np.clip(rewards, -reward_clip, reward_clip), mask, valid)
    for at in map(tuple, np.argwhere(trained(mask, valid))):
        preference = dpo_coef * (float(dpo[at]) - float(ref[at]))
        if dpo_clip > 0:
            preference = max(-dpo_clip, min(dpo_clip, preference))
        out[at] += preference - kl_coef * (float(old[at]) - float(ref[at]))
    return out


def value_clip(values, old_values, returns, mask, clip):
    out = np.zeros(mask.shape)
    for at in map(tuple, np.argwhere(mask)):
        v, old, target = float(values[at]), float(old_values[at]), float(returns[at])
        moved = max(old - clip, min(old + clip, v))
        out[at] = 0.5 * max((v - target) ** 2, (moved - target) ** 2)
    return out
