"""One verdict on each step from several critiques."""

from typing import Literal, TypeAlias

import jax.numpy as jnp
from jaxtyping import Array, Bool

Vote: TypeAlias = Literal["intersection", "majority", "union"]


def capo_vote(wrong_steps: Bool[Array, "P G C S"], *, vote: Vote = "intersection") -> Bool[Array, "P G S"]:
    """Says which steps are wrong, from the verdicts of C critiques.

        wrong[p,g,s] = all, more than half, or any of wrong_steps[p,g,:,s]

    CAPO, https://arxiv.org/abs/2508.02298, with the intersection and the majority. One critique is its own vote.
    """
    if vote == "majority":
        return 2 * jnp.sum(wrong_steps, axis=2, dtype=jnp.int32) > wrong_steps.shape[2]
    return (jnp.all if vote == "intersection" else jnp.any)(wrong_steps, axis=2)
