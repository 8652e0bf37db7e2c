"""Advantage relative to all visits of the prompt, not to its last group alone."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok import masked
from jaxrl_tok.types import Leaf, pytree


@pytree
class PromptStatistics:
    """Rewards of each prompt over its visits so far."""

    mean: Leaf  # f[N]
    std: Leaf  # f[N]
    visits: Leaf  # f[N], how many there were


def dcpo_smooth(
    state: PromptStatistics,
    rewards: Float[Array, "P G"],
    prompt_ids: Int[Array, " P"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    axis_name: str | None = None,
) -> tuple[Float[Array, "P G T"], PromptStatistics]:
    """The smaller of two mixtures of the reward standardised within its group and over all visits of its prompt.

        A[p,g,t] = the one of smaller magnitude of  z_c / i + (1 - 1/i) z_n  and  z_n / i + (1 - 1/i) z_c
        z_n = (r - m) / s,   m, s = mean and std of the group;   z_c = (r - M_i) / S_i,   i = number of the visit
        M_i = ((i-1) M_{i-1} + m) / i,   S_i^2 = ((i-1) S_{i-1}^2 + s^2) / i + (i-1) (m - M_{i-1})^2 / i^2

    DCPO, https://arxiv.org/abs/2509.02333, without an eps: where a std is 0 its z is 0. `std` is the unbiased one.
    On the first visit this is GRPO without eps; later a group of equal rewards has an advantage where its reward
    differs from what it was. Fewer than two valid completions give 0 and are no visit; the released code refuses
    them. A prompt that stands twice in a batch makes two visits: both see the history before the batch and
    themselves, and afterwards both are in it. A std below the rounding of its mean counts as 0. The released scripts
    leave the history out. Inside `shard_map` every shard holds the whole table, and `axis_name` is needed.

    Fidelity: code.
    Degenerate: on the first visit of every prompt it is `grpo` with eps = 0.
    """
    valid = jnp.ones_like(rewards, bool) if valid is None else valid
    rewards = jnp.where(valid, rewards, 0)
    visited = jnp.sum(valid, axis=1) > 1
    constant = masked.is_constant(rewards, valid, axis=1)
    mean = masked.mean(rewards, valid, axis=1)
    std = jnp.where(constant, 0, masked.std(rewards, valid, axis=1))
    before = PromptStatistics(*(x[prompt_ids][:, None] for x in (state.mean, state.std, state.visits)))
    i = before.visits + 1
    over_all = (before.visits * before.mean + mean) / i
    variance = (before.visits * before.std**2 + std**2) / i + before.visits * (mean - before.mean) ** 2 / i**2
    of_all = _root(variance)
    now = jnp.where(constant, 0, (rewards - mean) / jnp.where(std > 0, std, 1))
    spread = of_all > 16 * jnp.finfo(rewards.dtype).eps * jnp.abs(over_all)
    ever = jnp.where(spread, (rewards - over_all) / jnp.where(spread, of_all, 1), 0)
    first, second = ever / i + (1 - 1 / i) * now, now / i + (1 - 1 / i) * ever
    smaller = jnp.where(jnp.abs(first) < jnp.abs(second), first, second)
    advantages = masked.per_token(jnp.where(visited[:, None] & valid, smaller, 0), mask)
    return advantages, _after(state, prompt_ids, mean[:, 0], std[:, 0], visited, axis_name)


def init(*, num_prompts: int) -> PromptStatistics:
    """Returns the table of a data set of which nothing was visited."""
    zeros = jnp.zeros((num_prompts,), jnp.result_type(float))
    return PromptStatistics(mean=zeros, std=zeros, visits=zeros)


def _after(
    state: PromptStatistics,
    prompt_ids: Int[Array, " P"],
    mean: Float[Array, " P"],
    std: Float[Array, " P"],
    visited: Bool[Array, " P"],
    axis_name: str | None,
) -> PromptStatistics:
    """Adds a batch's visits, of which several may be of one prompt, in whatever order they stand."""

    def summed(x: Float[Array, " P"]) -> Float[Array, " N"]:
        table = jnp.zeros_like(state.mean).at[prompt_ids].add(jnp.where(visited, x, 0).astype(state.mean.dtype))
        return table if axis_name is None else jax.lax.psum(table, axis_name)

    visits = state.visits + summed(jnp.ones_like(mean))
    n = jnp.maximum(visits, 1)
    new_mean = (state.visits * state.mean + summed(mean)) / n
    away = summed(std**2 + (mean - new_mean[prompt_ids]) ** 2)
    variance = (state.visits * (state.std**2 + (state.mean - new_mean) ** 2) + away) / n
    seen = visits > state.visits
    return PromptStatistics(
        mean=jnp.where(seen, new_mean, state.mean),
        std=jnp.where(seen, _root(variance), state.std),
        visits=visits,
    )


def _root(variance: Float[Array, "..."]) -> Float[Array, "..."]:
    """Square root with a finite gradient at 0."""
    return jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1)), 0)
