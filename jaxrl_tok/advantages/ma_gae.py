"""Advantages of macro actions, from a critic's values."""

from typing import Literal

from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok.scores import macro_advantages


def ma_gae(
    token_rewards: Float[Array, "P G T"],
    values: Float[Array, "P G T"],
    boundaries: Bool[Array, "P G T"] | Int[Array, "P G T"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
    pooling: Literal["equal", "unit", "position"] = "equal",
    as_released: bool = False,
) -> Float[Array, "P G T"]:
    """Generalised advantage estimate over macro actions, given to all of their tokens.

        A[w] = d[w] + gamma lam A[w+1],   d[w] = R[w] + gamma V[w+1] - V[w]
        A[p,g,t] = A[w] of the macro action w that the token belongs to

    MA-RLHF, https://arxiv.org/abs/2410.02743: R is the sum of the macro action's token rewards, or with
    `as_released` their mean (as the values', whatever `pooling` makes of it), as in the authors' code; V pools
    its values. Boundaries come from `ngram_boundaries`, `perplexity_boundaries` or a parser. The critic's
    targets are the returns of `macro_advantages`, which says the rest. Not whitened, as in the authors' code. Not
    relative to the group: equal rewards do not give 0.

    Fidelity: code. With as_released; the sum of the rewards is the paper's.
    Degenerate: a boundary at every token gives `gae` with whitening off.
    """
    options = {"gamma": gamma, "lam": lam, "pooling": pooling, "as_released": as_released}
    return macro_advantages(token_rewards, values, boundaries, mask, valid, **options).advantages


def returns(
    token_rewards: Float[Array, "P G T"],
    values: Float[Array, "P G T"],
    boundaries: Bool[Array, "P G T"] | Int[Array, "P G T"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
    pooling: Literal["equal", "unit", "position"] = "equal",
    as_released: bool = False,
) -> Float[Array, "P G T"]:
    """Returns what the critic's value before each token is to be: A + V of the token's macro action."""
    options = {"gamma": gamma, "lam": lam, "pooling": pooling, "as_released": as_released}
    return macro_advantages(token_rewards, values, boundaries, mask, valid, **options).returns
