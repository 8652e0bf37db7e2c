"""Processors of logits in float64, row by row and token by token."""

import math

import numpy as np


def token_bias(logits, bias, ids):
    out = np.array(logits, np.float64)
    for b in range(len(out)):
        for v in set(ids):
            out[b, v] += bias[b]
    return out


def triangle(position, period):
    """By its three pieces: up in a quarter of the period, down in a half, up in the last quarter."""
    x = position % period / period
    if x <= 0.25:
        return x / 0.25
    if x <= 0.75:
        return 1 - (x - 0.25) / 0.5 * 2
    return -1 + (x - 0.75) / 0.25


def cyclic_reflex(logits, positions, thinking, ids, amplitude, period):
    waves = [amplitude * triangle(int(t), period) if on else 0.0 for t, on in zip(positions, thinking, strict=True)]
    return token_bias(logits, waves, ids)


def banned(logits, ids, rows):
    out = np.array(logits, np.float64)
    for b in range(len(out)):
        for v in ids:
            if rows[b]:
                out[b, v] = -math.inf
    return out


def entropy(row):
    p = np.exp(row - np.max(row))
    p = p / p.sum()
    return -sum(x * math.log(x) for x in p if x > 0)


def temperature(h, base, entropies, strength, quantile, as_released):
    """Of one token with entropy h, on the scale of a batch before."""
    logs = sorted(math.log(max(x, 1e-8)) for x in entropies)
    pivot = logs[round(quantile * (len(logs) - 1))]
    x = math.log(max(h, 1e-8)) - pivot
    extent = max(logs) - pivot if x > 0 else pivot - min(logs)
    x = max(-1.0, min(1.0, x / extent)) if extent > 0 else 0.0
    return base * (1 + strength * (abs(x) if as_released else x))


def budget(logits, remaining, tokens, at, is_thinking):
    """Samples greedily, a row at a time: `is_thinking` tells from a row's tokens so far whether it still is.

    `logits[t]` are those at step t. Gives each row's tokens, and which of them were forced.
    """
    drawn, forced = [], []
    for b in range(logits.shape[1]):
        row, marks, queue, started = [], [], [], False
        for t in range(len(logits)):
            if not started and is_thinking(row) and remaining[b] - t <= at:
                started, queue = True, list(tokens)
            marks.append(bool(queue))
            row.append(queue.pop(0) if queue else int(np.argmax(logits[t, b])))
        drawn.append(row)
        forced.append(marks)
    return np.array(drawn), np.array(forced)
