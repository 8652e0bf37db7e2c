"""Group-relative advantage with a temporal difference on the group's prefix tree."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok import masked
from jaxrl_tok.scores import centred_rewards, prefix_tree_values


def tempo(
    tokens: Int[Array, "P G T"],
    rewards: Float[Array, "P G"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    eps: float = 1e-6,
    use_std: bool = True,
    singleton: Literal["zero", "raw"] = "zero",
) -> Float[Array, "P G T"]:
    """GRPO's advantage plus the change of value at each token, read off the tree of shared prefixes.

        A[p,g,t] = (r[p,g] - mean_g r[p] + V(s[t+1]) - V(s[t])) / (std_g r[p] + eps)
        V(s) = mean reward of the group's completions that begin with s

    TEMPO, https://arxiv.org/abs/2509.18314. The difference stands inside the division, as in the authors'
    code; `use_std = false` leaves the division out. `std` is the unbiased one. Values: `prefix_tree_values`.
    Only a token at which the group parts gets anything beyond GRPO; when all completions differ from the
    first token on, that token gets twice GRPO's. Over a completion that no other equals, the differences add
    up to one more GRPO advantage. A masked token inside a completion (a tool's output) ends its prefix:
    behind it this is GRPO. Equal rewards give exactly 0. A group of one gives 0 (the authors' code NaN), or
    with `singleton = "raw"` its reward / (1 + eps).

    Fidelity: code.
    Degenerate: completions that part nowhere give `grpo`.
    """
    centred = centred_rewards(rewards, valid, singleton=singleton)
    values = prefix_tree_values(tokens, rewards, mask, valid)
    valid = jnp.ones_like(rewards, bool) if valid is None else valid
    constant = masked.is_constant(rewards, valid, axis=1)
    difference = jnp.where(constant[:, :, None], 0, values.after - values.before)
    advantages = jnp.where(mask, centred[:, :, None] + difference, 0)
    return advantages / (masked.std(rewards, valid, axis=1) + eps)[:, :, None] if use_std else advantages
