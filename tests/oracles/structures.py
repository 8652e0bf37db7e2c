"""Credit of trees, segments and steps, one completion, step and token at a time."""

import math

import numpy as np


def places(mask, valid):
    """Trained tokens of completions that exist."""
    return [tuple(place) for place in np.argwhere(mask & valid[:, :, None])]


def std(values, ddof=1):
    mean = sum(values) / len(values)
    return (sum((v - mean) ** 2 for v in values) / max(len(values) - ddof, 1)) ** 0.5


def to_tokens(ids, numbers, mask, valid):
    """`numbers[p][g][s]` to the tokens of segment s."""
    out = np.zeros(mask.shape)
    for p, g, t in places(mask, valid):
        if 0 <= ids[p, g, t] < len(numbers[p][g]):
            out[p, g, t] = numbers[p][g][ids[p, g, t]]
    return out


def relative(rewards, *, eps=None, others=False):
    """Rewards of one group minus their mean, over std + eps, or against the others'."""
    n = len(rewards)
    if n < 2 or len(set(rewards)) == 1:
        return [0.0] * n
    if others:
        return [r - (sum(rewards) - r) / (n - 1) for r in rewards]
    mean = sum(rewards) / n
    return [(r - mean) / (1 if eps is None else std(rewards) + eps) for r in rewards]


def by_completion(method, rewards, valid, **options):
    """A group's numbers at the places of its completions, 0 elsewhere."""
    out = np.zeros(valid.shape)
    for p in range(len(valid)):
        group = [g for g in range(valid.shape[1]) if valid[p, g]]
        for g, x in zip(group, method([float(rewards[p, g]) for g in group], **options), strict=True):
            out[p, g] = x
    return out


# Trees


def children(parents, n):
    return [c for c, parent in enumerate(parents) if parent == n]


def leaves(parents, rewards, n):
    """Rewards of the leaves under a node."""
    below = children(parents, n)
    if not below:
        return [] if math.isnan(rewards[n]) else [float(rewards[n])]
    return [r for c in below for r in leaves(parents, rewards, c)]


def tree_value(parents, rewards, n, average):
    below = leaves(parents, rewards, n)
    if not below:
        return None
    if average == "leaves" or not children(parents, n):
        return sum(below) / len(below)
    values = [tree_value(parents, rewards, c, average) for c in children(parents, n)]
    values = [v for v in values if v is not None]
    return sum(values) / len(values)


def edges(parents, rewards, *, siblings=False, eps=1e-8):
    values = [tree_value(parents, rewards, n, "children") for n in range(len(parents))]
    out = [0.0] * len(parents)
    for n, parent in enumerate(parents):
        if parent >= 0 and values[n] is not None:
            out[n] = values[n] - values[parent]
            if siblings:
                out[n] /= std([values[c] for c in children(parents, parent) if values[c] is not None], ddof=0) + eps
    return out


def tree_rl(parents, rewards):
    values = [tree_value(parents, rewards, n, "leaves") for n in range(len(parents))]
    return [
        (2 * values[n] - values[0] - values[parent]) / len(leaves(parents, rewards, n)) ** 0.5
        if parent >= 0 and values[n] is not None
        else 0.0
        for n, parent in enumerate(parents)
    ]


def tree_rl_released(parents, rewards, lengths, *, norm="token", weighted=True, use_state_value=True):
    """Sums of leave-one-out rewards go up, a mean comes off, and roots divide them."""
    every = leaves(parents, rewards, 0)
    own = {}
    for n in range(len(parents)):
        if parents[n] > -2 and not children(parents, n) and not math.isnan(rewards[n]):
            own[n] = rewards[n] - (sum(every) - rewards[n]) / (len(every) - 1)
    total, count = [0.0] * len(parents), [0] * len(parents)
    for leaf, x in own.items():
        n = leaf
        while n >= 0:
            total[n] += x
            count[n] += 1
            n = parents[n]
    weights = {"token": lengths, "step": [1] * len(parents), "none": [0] * len(parents)}[norm]
    over = sum(w * c for w, c in zip(weights, count, strict=True))
    mean = sum(w * x for w, x in zip(weights, total, strict=True)) / over if over else 0.0
    state = [(x - mean * c) / c / (c**0.5 if weighted else 1) if c else 0.0 for x, c in zip(total, count, strict=True)]
    return [
        state[n] - state[parent] + (state[n] if use_state_value else 0) if parent >= 0 and count[n] else 0.0
        for n, parent in enumerate(parents)
    ]


# Monte-Carlo values


def differences(values, rewards):
    """Of one completion; a value that is missing is what follows it."""
    values = [float(v) for v in values]
    if math.isnan(values[-1]):
        values[-1] = 0.0
    out = [0.0] * len(rewards)
    for k in reversed(range(len(rewards))):
        if math.isnan(values[k]):
            values[k] = rewards[k] + values[k + 1]
        out[k] = rewards[k] + values[k + 1] - values[k]
    return out


def with_outcome(reward, ids, values, mask):
    """State values up to the last segment, then the reward."""
    used = [int(i) for i, m in zip(ids, mask, strict=True) if m]
    n = max(used, default=-1) + 1
    return [float(v) for v in values[:n]] + [float(reward)]


def vine_ppo(rewards, ids, values, mask, valid):
    def of(p, g):
        known = with_outcome(rewards[p, g], ids[p, g], values[p, g], mask[p, g] & valid[p, g])
        return differences(known, [0.0] * (len(known) - 1))

    numbers = [[of(p, g) for g in range(mask.shape[1])] for p in range(mask.shape[0])]
    return to_tokens(ids, numbers, mask, valid)


def spo_chain(rewards, logprobs, ids, values, mask, valid, *, threshold=0.9):
    """Walks along the known values, as long as there was one before."""
    out = np.zeros(mask.shape)
    for p, g, t in places(mask, valid):
        if ids[p, g, t] < 0 or math.exp(logprobs[p, g, t]) > threshold:
            continue
        known = with_outcome(rewards[p, g], ids[p, g], values[p, g], mask[p, g])
        before = [v for v in known[: ids[p, g, t] + 1] if not math.isnan(v)]
        after = [v for v in known[ids[p, g, t] + 1 :] if not math.isnan(v)]
        if before:
            out[p, g, t] = after[0] - before[-1]
    return out


def whiten(x, sample, mask):
    """Over `sample`, applied to `mask`."""
    values = [float(v) for v in x[sample]]
    mean, spread = sum(values) / len(values), std(values)
    return np.where(mask, (x - mean) / (spread**2 + 1e-8) ** 0.5, 0)


# Steps


def step_returns(rewards, exists, gamma):
    out = np.zeros(exists.shape)
    for p, g, k in np.argwhere(exists):
        out[p, g, k] = sum(
            gamma ** (j - k) * float(rewards[p, g, j]) for j in range(k, exists.shape[2]) if exists[p, g, j]
        )
    return out


def anchor(returns, states, exists, *, eps=None):
    out = np.zeros(exists.shape)
    for p, g, k in np.argwhere(exists):
        same = [tuple(i) for i in np.argwhere(exists[p] & (states[p] == states[p, g, k]))]
        values = [float(returns[p][i]) for i in same]
        out[p, g, k] = relative(values, eps=eps)[same.index((g, k))]
    return out


def other_steps(rewards, exists):
    out = np.zeros(exists.shape)
    for p in range(len(exists)):
        group = [tuple(i) for i in np.argwhere(exists[p])]
        for i, x in zip(group, relative([float(rewards[p][i]) for i in group], others=True), strict=True):
            out[p][i] = x
    return out


def first_steps(rewards, exists):
    out = np.zeros(exists.shape)
    for p in range(len(exists)):
        firsts = [float(rewards[p, g][exists[p, g]][0]) for g in range(exists.shape[1]) if exists[p, g].any()]
        n = len(firsts)
        for g, k in np.argwhere(exists[p]):
            out[p, g, k] = n / (n - 1) * (float(rewards[p, g, k]) - sum(firsts) / n) if n > 1 else 0.0
    return out


def min_form(rewards, temperature):
    """Of one completion's steps."""
    weights = [math.exp(-r / temperature) for r in rewards]
    return [w / sum(weights) * r for w, r in zip(weights, rewards, strict=True)]


def min_form_returns(outcomes, ids, rewards, exists, mask, valid, k1, *, temperature=0.1, baseline="token"):
    """Returns, and where there is one, with a verifier's weight of 1 and 0.01 of the KL penalty."""
    returns, inside = np.zeros(mask.shape), np.zeros(mask.shape, bool)
    weighted = {
        (p, g): min_form([float(r) for r in rewards[p, g][exists[p, g]]], temperature)
        for p, g in np.argwhere(valid).tolist()
    }
    for p, g, t in places(mask, valid):
        own = [u for u in range(mask.shape[2]) if mask[p, g, u] and ids[p, g, u] == ids[p, g, t]]
        if ids[p, g, t] < 0 or t == own[-1]:
            continue
        others = [k for k in range(mask.shape[1]) if valid[p, k] and k != g]
        steps = weighted[p, g]
        sizes = [int(sum(mask[p, g] & (ids[p, g] == s))) - 1 for s in range(len(steps))]
        if baseline == "token":
            length = sum(int(mask[p, k].sum()) for k in others)
            b = sum(sum(weighted[p, k]) for k in others) / length if length else 0.0
        else:
            means = [sum(weighted[p, k]) / len(weighted[p, k]) for k in others if weighted[p, k]]
            b, sizes = (sum(means) / len(means) if means else 0.0), [1] * len(steps)
        to_go = sum(x - b * n for s, (x, n) in enumerate(zip(steps, sizes, strict=True)) if s >= ids[p, g, t])
        outcome = float(outcomes[p, g]) - sum(float(outcomes[p, k]) for k in others) / len(others) if others else 0.0
        penalty = sum(float(k1[p, g, u]) for u in range(t, mask.shape[2]) if mask[p, g, u])
        returns[p, g, t], inside[p, g, t] = to_go + outcome - 0.01 * penalty, True
    return returns, inside


# Judges, budgets, ranks


def capo_rewards(rewards, ids, wrong, mask, valid, *, outcome=2.0, process=1.0):
    """`wrong[p,g,s]` after the vote."""
    out = np.zeros(mask.shape)
    for p, g, t in places(mask, valid):
        out[p, g, t] = outcome * rewards[p, g]
        if ids[p, g, t] >= 0 and wrong[p, g, ids[p, g, t]]:
            out[p, g, t] -= process
    return out


def over_group_tokens(values, mask, valid, eps):
    out = np.zeros(mask.shape)
    for p in range(len(mask)):
        group = [tuple(i) for i in np.argwhere(mask[p] & valid[p, :, None])]
        for i, x in zip(group, relative([float(values[p][i]) for i in group], eps=eps), strict=True):
            out[p][i] = x
    return out


def tp_grpo(rewards, ids, wrong, mask, valid, *, alpha, eps=1e-6):
    outcome = by_completion(relative, rewards, valid, eps=eps)
    out = np.zeros(mask.shape)
    for p, g, t in places(mask, valid):
        group = [float(rewards[p, k]) > 0.5 for k in range(mask.shape[1]) if valid[p, k]]
        cost = alpha * sum(group) / len(group)
        is_wrong = ids[p, g, t] >= 0 and wrong[p, g, ids[p, g, t]]
        if rewards[p, g] > 0.5:
            out[p, g, t] = outcome[p, g] - (cost if is_wrong else 0.0)
        elif is_wrong:
            out[p, g, t] = outcome[p, g]
    return out


def brpo(scores, prior, *, baseline="brpo"):
    """Of one group's `[G, M, A]`."""
    group, budgets = scores.shape[:2]
    prior = [float(x) / sum(map(float, prior)) for x in prior]
    mean = [[sum(map(float, scores[g, m])) / scores.shape[2] for m in range(budgets)] for g in range(group)]
    returns = [[sum(prior[j] * mean[g][j] for j in range(m, budgets)) for m in range(budgets)] for g in range(group)]
    out = np.zeros((group, budgets))
    for g in range(group):
        for m in range(budgets):
            earlier = sum(2.0**i * mean[g][i] for i in range(m)) / max(sum(2.0**i for i in range(m)), 1)
            v1 = earlier * sum(prior[m:])
            v2 = sum(returns[k][m] for k in range(group)) / group
            mixed = (m * v1 + (budgets - m) * v2) / budgets
            out[g, m] = returns[g][m] - {"brpo": mixed, "v1only": v1, "v2only": v2, "none": 0.0}[baseline]
    return out


def rank_grpo(ids, rewards, finished, mask, valid, *, shaping=0.1, eps=1e-4):
    items = rewards.shape[2]
    out = np.zeros(mask.shape)
    for p, g, t in places(mask, valid):
        group = [k for k in range(mask.shape[1]) if valid[p, k]]
        trained = [u for u in range(mask.shape[2]) if mask[p, g, u]]
        k = ids[p, g, t]
        if finished[p, g] and t == trained[-1]:
            found = max(ids[p, g, u] for u in trained) + 1
            out[p, g, t] = shaping if found == items else -shaping
        elif k >= items:
            out[p, g, t] = -shaping
        elif k >= 0:
            out[p, g, t] = relative([float(rewards[p, i, k]) for i in group], eps=eps)[group.index(g)]
    return out


def groundedprm(final, verdicts):
    n = len(verdicts)
    return sum(v * (n - i) / n**2 for i, v in enumerate(verdicts)) + final / n if n else final
