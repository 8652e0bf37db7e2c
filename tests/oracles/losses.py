"""Losses of one token at a time."""

import math

import numpy as np


def kl(logprob, ref_logprob, estimator):
    d = float(logprob) - float(ref_logprob)
    return {"k1": d, "k2": d * d / 2, "k3": math.exp(-d) + d - 1, "abs": abs(d)}[estimator]


def ppo_clip(log_ratio, low, high, advantages, token_weights, mask, *, dual_clip=None):
    out = np.zeros(mask.shape)
    for b, t in np.argwhere(mask):
        ratio, advantage = math.exp(log_ratio[b, t]), float(advantages[b, t])
        inside = min(max(ratio, float(low[b, t])), float(high[b, t]))
        loss = max(-ratio * advantage, -inside * advantage)
        if dual_clip is not None and advantage < 0:
            loss = min(loss, -dual_clip * advantage)
        out[b, t] = loss * float(token_weights[b, t])
    return out
