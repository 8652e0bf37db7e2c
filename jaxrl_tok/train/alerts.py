"""What goes wrong silently elsewhere, as warnings with a remedy. Pure: metrics in, lines out."""

from collections.abc import Mapping

# A sampler and a trainer that agree are within rounding of each other: 1e-4 in float32, percents in bfloat16.
RATIO_TOLERANCE = {"float32": 0.01, "bfloat16": 0.2}
# Of the mean token, in nats: more than rounding on any device, less than what a policy has learned soon.
ADAPTER_TOLERANCE = 0.05
STEPS_WITHOUT_END = 3


def alerts(metrics: Mapping[str, float], *, dtype: str, steps_without_end: int) -> dict[str, str]:
    """Returns a line for each thing a user would want to know of this step, by kind.

    `steps_without_end` is the number of steps so far in which no completion ended by itself.
    """
    found = {}
    if metrics.get("completions/clipped_ratio") == 1:
        found["truncated"] = (
            "every completion was cut at its limit, so none was finished: raise rollout.max_tokens (with rollout = "
            '"brpo" its budgets), or train on answers first (warmup.steps)'
        )
    if steps_without_end >= STEPS_WITHOUT_END:
        found["no end token"] = (
            f"no completion has produced an end token in {steps_without_end} steps: check that the tokenizer's "
            "end token is the one the model was trained to stop with"
        )
    if metrics.get("frac_reward_zero_std") == 1:
        found["no variance"] = (
            "every group has one value of the reward, so no advantage differs from zero: the task is too easy or "
            "too hard, or the reward is constant"
        )
    ratio = ratio_off(metrics)
    if ratio > RATIO_TOLERANCE[dtype]:
        found["ratio"] = (
            f"before the first update the ratio of trainer to sampler is off 1 by {ratio:.3g}: the two do not "
            "compute the same distribution (weights, temperature, filters, precision)"
        )
    return found


def ratio_off(metrics: Mapping[str, float]) -> float:
    """Returns by how much the ratio of trainer to sampler is off 1 at most, before the step's first update."""
    return max(abs(metrics.get(f"sampling/importance_sampling_ratio/{end}", 1.0) - 1) for end in ("min", "max"))
