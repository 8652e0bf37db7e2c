"""Every metric that a run writes: its name, what it means, its unit; printed, it is `docs/metrics.md`.

Names are TRL's where TRL has one for the same thing. `python -m jaxrl_tok.io.metric_names` prints the page.
"""

import re
from collections.abc import Iterable

METRICS: dict[str, tuple[str, str]] = {
    "step": ("updates of the rollout loop that are done; 0 is the model before the first", "steps"),
    "reward": ("mean of the weighted rewards, over completions that have one", "reward"),
    "reward_std": ("standard deviation of the rewards within a group, mean over groups", "reward"),
    "rewards/{name}/mean": ("mean score of one reward function, before its weight", "reward"),
    "rewards/{name}/std": ("standard deviation of its scores over the batch", "reward"),
    "rewards/{name}/scored": ("completions it gave a score", "completions"),
    "rewards/{name}/abstained": ("completions it had no opinion on (`None`)", "completions"),
    "rewards/{name}/timed_out": ("completions it did not finish in time", "completions"),
    "rewards/{name}/crashed": ("completions it raised on, or gave no finite number for", "completions"),
    "frac_reward_zero_std": ("groups whose rewards are all equal", "share of groups"),
    "frac_trainable": (
        "completions that the update learns from: scored, and kept by the filter",
        "share of completions",
    ),
    "completions/mean_length": ("tokens of a completion, its end token included", "tokens"),
    "completions/min_length": ("shortest completion of the batch", "tokens"),
    "completions/max_length": ("longest completion of the batch", "tokens"),
    "completions/clipped_ratio": ("completions cut off by their limit", "share of completions"),
    "entropy": ("entropy of the policy's next-token distribution, mean over trained tokens", "nats"),
    "kl": ("divergence from the reference, mean over trained tokens", "nats"),
    "critic/values/mean": ("the critic's values, mean over trained tokens", "reward"),
    "critic/returns/mean": ("what they are to be", "reward"),
    "expert_balance": ("how unevenly tokens use the experts: 1 = evenly, E = all the same one", "ratio"),
    "clip_ratio/low_mean": (
        "tokens whose ratio is under its lower bound while the advantage is negative",
        "share of tokens",
    ),
    "clip_ratio/high_mean": (
        "tokens whose ratio is over its upper bound while the advantage is positive",
        "share of tokens",
    ),
    "clip_ratio/region_mean": ("tokens with either", "share of tokens"),
    "loss": ("what is minimised: the weighted sum of the terms", "loss"),
    "loss/{term}": ("one term, before its weight", "loss"),
    "grad_norm": ("global norm of the gradient, before clipping", "norm"),
    "learning_rate": ("step size of the last update", "1"),
    "sampling/sampling_logp_difference/mean": (
        "|log-prob when scored - when sampled|, mean over tokens",
        "nats",
    ),
    "sampling/sampling_logp_difference/max": ("the largest of them", "nats"),
    "sampling/importance_sampling_ratio/min": ("smallest ratio of scored to sampled probability", "ratio"),
    "sampling/importance_sampling_ratio/mean": ("mean ratio over tokens", "ratio"),
    "sampling/importance_sampling_ratio/max": ("largest ratio", "ratio"),
    "rollout/rounds": ("rounds in which the batch was sampled", "rounds"),
    "rollout/prompts": ("prompts drawn for it, those that gave way to others too", "prompts"),
    "rollout/completions": ("completions sampled for it, those of such prompts too", "completions"),
    "rollout/reward": ("mean reward of all of these", "reward"),
    "num_tokens": (
        "prompt and completion tokens since the run began; what branches share counts once, rollouts for values too",
        "tokens",
    ),
    "num_sampled_tokens": ("tokens sampled for rollouts since the main part began; counted as in num_tokens", "tokens"),
    "eval/greedy": ("held-out questions that the greedy completion answers", "share of questions"),
    "eval/avg@{k}": ("share of k samples that are right, mean over held-out questions", "share of samples"),
    "eval/pass@{k}": ("chance that one of k samples is right, unbiased", "share of questions"),
    "eval/maj@{k}": ("held-out questions whose most frequent answer of k is right", "share of questions"),
    "time/step": ("the whole step", "s"),
    "time/rollout": ("sampling completions", "s"),
    "time/reward": ("waiting for rewards", "s"),
    "time/score": ("scoring under the old policy and the reference", "s"),
    "time/update": ("gradient and optimizer", "s"),
    "time/eval": ("held-out evaluation", "s"),
    "time/checkpoint": ("how long the loop waited for a save to begin", "s"),
    "perf/tokens_per_second": ("completion tokens over the time of the whole step", "tokens/s"),
}

PAGE = """# Metrics

One object of `metrics.jsonl` holds one step; TensorBoard has the same names. They are TRL's
where TRL has one for the same thing. `{{name}}` stands for a reward function, `{{term}}` for a loss, `{{k}}`
for a number of samples. A name is there only on the steps that measured it. NaN and infinities are `null` in
`metrics.jsonl`, and `nonfinite` says which.

Two runs of the same config on the same machine write the same values, except under `time/` and `perf/`.

`python -m jaxrl_tok.io.metric_names` prints this page.

| name | what | unit |
|---|---|---|
{rows}
"""

_PATTERNS = [re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(name))) for name in METRICS]


def undocumented(names: Iterable[str]) -> list[str]:
    """Returns the names that the table does not have."""
    return sorted(name for name in names if not any(pattern.fullmatch(name) for pattern in _PATTERNS))


def page() -> str:
    """Returns the text of `docs/metrics.md`."""
    rows = (f"| `{name}` | {what.replace('|', chr(92) + '|')} | {unit} |" for name, (what, unit) in METRICS.items())
    return PAGE.format(rows="\n".join(rows))


if __name__ == "__main__":
    print(page(), end="")
