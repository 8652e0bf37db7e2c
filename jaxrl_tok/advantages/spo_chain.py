"""Advantages of segments that end at uncertain tokens, from Monte-Carlo values."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.scores import final_state_values, spread


def spo_chain(
    rewards: Float[Array, "P G"],
    old_logprobs: Float[Array, "P G T"],
    segment_ids: Int[Array, "P G T"],
    state_values: Float[Array, "P G S1"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    threshold: float = 0.9,
) -> Float[Array, "P G T"]:
    """Change of the estimated value over a segment, given to those of its tokens that were not nearly certain.

        A[p,g,t] = V[p,g,k+1] - V[p,g,k] if exp(old_logprobs[p,g,t]) <= threshold else 0,   k = segment_ids[p,g,t]

    SPO, Guo et al. 2025, https://arxiv.org/abs/2505.23564. The segments are those of `spo_cutpoints`, made into ids
    by `boundary_segments`; V[k] is the mean reward of 9 rollouts from the state before segment k, and V after the
    last segment the reward. Segments between which no value was estimated (NaN) are one; before the first known value
    the advantage is 0, and so is it for tokens before the first segment, as in the authors' code, which does not
    value the prompt unless the first token is uncertain. Then come whitening (`spo_whiten`, in the slot `reshape`)
    and the weight `probability_mask`, which leaves out a probability equal to the threshold too. Relative to the
    values and not to the group: equal rewards do not give 0.

    Raises:
        ConfigError: `threshold` is not positive.

    Fidelity: code.
    Degenerate: threshold > 1 credits all tokens of fixed segments; then, with one segment, r - V(prompt).
    """
    if threshold <= 0:
        raise ConfigError(f"spo_chain: threshold = {threshold!r} must be above 0, or no token gets credit")
    mask = mask if valid is None else mask & valid[:, :, None]
    values = jnp.moveaxis(final_state_values(rewards, segment_ids, state_values, mask), 2, 0)
    before, after = _known(values[:-1], reverse=False), _known(values[1:], reverse=True)
    differences = jnp.where(jnp.isnan(before) | jnp.isnan(after), 0, after - before)
    uncertain = mask & (old_logprobs <= math.log(threshold))
    return spread(segment_ids, jnp.moveaxis(differences, 0, 2), uncertain)


def _known(values: Float[Array, "S P G"], *, reverse: bool) -> Float[Array, "S P G"]:
    """Last known value at or before each state, or with `reverse` the next at or after it; NaN where there is none."""

    def carry(known: Array, value: Array) -> tuple[Array, Array]:
        value = jnp.where(jnp.isnan(value), known, value)
        return value, value

    return jax.lax.scan(carry, values[-1] if reverse else values[0], values, reverse=reverse)[1]
