"""How many directions a completion's hidden states use."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked


def effective_rank(hidden: Float[Array, "P G T D"], mask: Bool[Array, "P G T"]) -> Float[Array, "P G"]:
    """Effective rank of the hidden states of each completion's trained tokens.

        X = hidden[p,g] less its mean over the tokens;  s = singular values of X over their sum
        ER[p,g] = exp(-sum_j s_j log(s_j + 1e-8))

    VERL, https://arxiv.org/abs/2509.23808, on one layer; its code takes the last 512 tokens, here the mask says
    which. Singular values, not their squares. They come from X itself: eigenvalues of its Gram matrix in float32
    are off by the root of their rounding, in the code by up to 1.5e-2 in what follows from them. Fewer than two
    tokens give 0, equal hidden states 1.
    """
    trained = mask[..., None]
    mean = masked.mean(hidden, jnp.broadcast_to(trained, hidden.shape), axis=2)
    centred = jnp.where(trained, hidden - mean, 0)
    singular = jnp.linalg.svd(centred, compute_uv=False)
    total = jnp.sum(singular, axis=2, keepdims=True)
    shares = singular / jnp.where(total > 0, total, 1)
    rank = jnp.exp(-jnp.sum(shares * jnp.log(shares + 1e-8), axis=2))
    return jnp.where(jnp.sum(mask, axis=2) >= 2, rank, 0)
