"""A number that changes linearly while the training goes on."""

from jaxtyping import Array, Float


def d3s_schedule(progress: Float[Array, ""], *, initial: float, final: float) -> Float[Array, ""]:
    """Goes from one value to another in proportion to the training that is done.

        (1 - progress) * initial + progress * final

    D3S, https://arxiv.org/abs/2509.22115, for its number of samples (`max_variance_subset`) and its share of tokens
    (`d3s_tokens`). `progress` is 0 at the start and 1 at the end.
    """
    return (1 - progress) * initial + progress * final
