"""Group-relative advantages, one completion and one token at a time."""

import numpy as np


def members(valid, p):
    return [g for g in range(valid.shape[1]) if valid[p, g]]


def group_relative(rewards, mask, valid, *, divide_by_std, eps=1e-6, singleton="zero", others_only=False):
    out = np.zeros(mask.shape)
    for p in range(mask.shape[0]):
        group = members(valid, p)
        values = [float(rewards[p, g]) for g in group]
        for g in group:
            if len(group) == 1:
                advantage = float(rewards[p, g]) if singleton == "raw" else 0.0
                advantage = advantage / (1 + eps) if divide_by_std else advantage
            elif len(set(values)) == 1:
                advantage = 0.0
            elif others_only:
                others = [float(rewards[p, k]) for k in group if k != g]
                advantage = float(rewards[p, g]) - sum(others) / len(others)
            else:
                mean = sum(values) / len(values)
                advantage = float(rewards[p, g]) - mean
                if divide_by_std:
                    variance = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
                    advantage /= variance**0.5 + eps
            for t in range(mask.shape[2]):
                if mask[p, g, t]:
                    out[p, g, t] = advantage
    return out


def shares_prefix(tokens, mask, valid, p, g, k, length):
    """Do completions g and k agree on, and train on, their first `length` tokens?"""
    return bool(valid[p, k]) and all(
        mask[p, g, t] and mask[p, k, t] and tokens[p, g, t] == tokens[p, k, t] for t in range(length)
    )


def prefix_tree_values(tokens, rewards, mask, valid):
    """Before, after, count before, count after."""
    out = np.zeros((4, *mask.shape))
    for p, g, t in np.argwhere(mask & valid[:, :, None]):
        for i, length in ((0, t), (1, t + 1)):
            sharers = [k for k in range(mask.shape[1]) if shares_prefix(tokens, mask, valid, p, g, k, length)]
            if sharers:
                out[i, p, g, t] = sum(float(rewards[p, k]) for k in sharers) / len(sharers)
            out[2 + i, p, g, t] = len(sharers)
    return out


def tempo(tokens, rewards, mask, valid, *, eps=1e-6, use_std=True):
    before, after, *_ = prefix_tree_values(tokens, rewards, mask, valid)
    out = np.zeros(mask.shape)
    for p in range(mask.shape[0]):
        group = members(valid, p)
        values = [float(rewards[p, g]) for g in group]
        if len(set(values)) < 2:
            continue
        mean = sum(values) / len(values)
        std = (sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5
        for g in group:
            for t in range(mask.shape[2]):
                if mask[p, g, t]:
                    out[p, g, t] = float(rewards[p, g]) - mean + after[p, g, t] - before[p, g, t]
                    out[p, g, t] /= std + eps if use_std else 1
    return out
