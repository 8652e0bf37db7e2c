"""Selections of tokens by entropy, by sorting."""

import math

import numpy as np


def largest(values, k):
    """Marks k entries of a list, the first ones of equal values."""
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    return [i in set(order[:k]) for i in range(len(values))]


def high_entropy(entropy, mask, *, fraction, scope):
    out = np.zeros(mask.shape, bool)
    if scope == "response":
        for p in range(mask.shape[0]):
            for g in range(mask.shape[1]):
                n = int(mask[p, g].sum())
                k = math.ceil(np.float32(fraction) * np.float32(n))
                out[p, g][mask[p, g]] = largest(list(entropy[p, g][mask[p, g]]), k)
        return out
    values = entropy[mask]
    if scope == "batch":
        out[mask] = largest(list(values), max(1, math.floor(fraction * len(values))))
    else:
        out[mask] = values >= np.quantile(values, 1 - fraction)
    return out
