"""Auxiliary loss of a model with experts."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def load_balance(expert_balance: Float[Array, " B"], valid: Bool[Array, " B"]) -> Float[Array, " B"]:
    """How unevenly a completion's tokens use the experts: 1 = evenly, E = all the same one. 0 where not valid.

        loss[b] = E sum_e f[b,e] p[b,e]
        f = share of the tokens' choices that fell on expert e,   p = mean probability of e;   mean over layers

    Switch Transformers, Fedus et al. 2021, https://arxiv.org/abs/2101.03961, eq. 4, with the coefficient 0.01; the
    recipe's weight is the coefficient, `row_mean` the reduction. Over the tokens of a completion in place of a batch,
    so that the split into microbatches does not matter. `transformers` sums f over the k choices of a token: its
    `router_aux_loss_coef` of 0.001 is a weight of 0.001 k here. Gradients flow through p only.

    Fidelity: code. Over a completion, not a batch.
    Degenerate: a router that gives all experts the same probability has loss 1.
    """
    return jnp.where(valid, expert_balance, 0)
