"""Advantage relative to the recent means of all groups, for trajectories that are replayed."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked
from jaxrl_tok.errors import ConfigError
from jaxrl_tok.types import Leaf, pytree


@pytree
class RecentMeans:
    """The last group means, in a ring."""

    means: Leaf  # f[size], NaN where none was written yet
    position: Leaf  # i32[], where the next one goes


def spear_replay(
    state: RecentMeans,
    rewards: Float[Array, "P G"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    record: bool = True,
    positive_only: bool = True,
    axis_name: str | None = None,
) -> tuple[Float[Array, "P G T"], RecentMeans]:
    """Reward minus the median of the recent groups' mean rewards, kept where it is positive, for every token.

        A[p,g,t] = max(r[p,g] - median of the last `size` group means, 0)

    SPEAR, https://arxiv.org/abs/2509.22601: a trajectory that was good when it was sampled is imitated again only
    if it is still better than what the policy does now. `record` adds this batch's means to the ring first: set it
    for fresh groups, and leave it out for replayed ones, which say nothing of the policy of now. `positive_only =
    false` keeps negative advantages. There is no division by a std, and equal rewards do not give 0: the baseline is
    not the group's. Without any mean in the ring it is 0. A group without a valid completion has no mean. Inside
    `shard_map` every shard holds the whole ring, and `axis_name` is needed.

    Raises:
        ConfigError: `size` is below 1.

    Fidelity: code. As the formulas of the released code; which trajectories are stored is the program's.
    Degenerate: size = 1 and one group a batch gives `dr_grpo`, of which positive_only keeps the positive part.
    """
    valid = jnp.ones_like(rewards, bool) if valid is None else valid
    if record:
        state = _recorded(state, masked.mean(rewards, valid, axis=1)[:, 0], jnp.any(valid, axis=1), axis_name)
    known = jnp.any(~jnp.isnan(state.means))
    baseline = jnp.nanmedian(jnp.where(known, state.means, 0)).astype(rewards.dtype)
    advantages = jnp.where(valid & known, rewards - baseline, 0)
    advantages = jnp.maximum(advantages, 0) if positive_only else advantages
    return masked.per_token(advantages, mask), state


def init(*, size: int = 10_240) -> RecentMeans:
    """Returns an empty ring."""
    if size < 1:
        raise ConfigError(f"spear_replay: size = {size!r} must be at least 1")
    return RecentMeans(means=jnp.full((size,), jnp.nan), position=jnp.int32(0))


def _recorded(
    state: RecentMeans, means: Float[Array, " P"], present: Bool[Array, " P"], axis_name: str | None
) -> RecentMeans:
    """Writes the present means behind one another, over the shards in their order; of too many the last ones."""
    size = state.means.shape[0]
    ordinal, total = jnp.cumsum(present, dtype=jnp.int32), jnp.sum(present, dtype=jnp.int32)
    if axis_name is not None:
        totals = jax.lax.all_gather(total, axis_name)
        before = jnp.arange(totals.shape[0]) < jax.lax.axis_index(axis_name)
        ordinal = ordinal + jnp.sum(jnp.where(before, totals, 0), dtype=jnp.int32)
        total = jax.lax.psum(total, axis_name)
    written = present & (ordinal > total - size)
    place = jnp.where(written, (state.position + ordinal - 1) % size, size)

    def scattered(x: Float[Array, " P"]) -> Float[Array, " N"]:
        ring = jnp.zeros_like(state.means).at[place].add(x.astype(state.means.dtype), mode="drop")
        return ring if axis_name is None else jax.lax.psum(ring, axis_name)

    new = scattered(jnp.ones_like(means)) > 0
    return RecentMeans(
        means=jnp.where(new, scattered(jnp.where(written, means, 0)), state.means),
        position=(state.position + total) % size,
    )
