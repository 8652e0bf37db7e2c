"""What a step's rollouts and rewards say, as metrics. Host arrays in, floats out."""

from collections.abc import Mapping

import numpy as np


def rollout_metrics(mask: np.ndarray, truncated: np.ndarray) -> dict[str, float]:
    """Lengths and truncation of `[P, G, T]` completions; TRL's names."""
    lengths = mask.sum(-1)
    return {
        "completions/mean_length": float(lengths.mean()),
        "completions/min_length": float(lengths.min()),
        "completions/max_length": float(lengths.max()),
        "completions/clipped_ratio": float(truncated.mean()),
    }


def reward_metrics(
    rewards: np.ndarray, valid: np.ndarray, parts: np.ndarray, outcomes: Mapping[str, Mapping[str, int]]
) -> dict[str, float]:
    """Reward `[P, G]` over valid samples, its parts `[P, G, K]`, groups without variance, and outcome counts."""
    metrics = {"reward": _mean(rewards[valid]), "reward_std": _group_std(rewards, valid)}
    groups = [row[ok] for row, ok in zip(rewards, valid, strict=True) if ok.any()]
    dead = [bool((row == row[0]).all()) for row in groups]
    metrics["frac_reward_zero_std"] = _mean(np.array(dead, float))
    for k, (name, counts) in enumerate(outcomes.items()):
        column = parts[..., k][np.isfinite(parts[..., k])]
        metrics[f"rewards/{name}/mean"] = _mean(column)
        metrics[f"rewards/{name}/std"] = float(column.std()) if column.size else 0.0
        for outcome, number in counts.items():
            metrics[f"rewards/{name}/{outcome}"] = number
    return metrics


def _group_std(rewards: np.ndarray, valid: np.ndarray) -> float:
    """The mean over groups of the standard deviation within the group."""
    stds = [row[ok].std(ddof=1) for row, ok in zip(rewards, valid, strict=True) if ok.sum() > 1]
    return _mean(np.array(stds))


def _mean(x: np.ndarray) -> float:
    return float(x.mean()) if x.size else 0.0
