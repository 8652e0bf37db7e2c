"""How much training on a group's correct completions moves the likelihood of each token."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def thr_scores(
    hidden: Float[Array, "P G T D"],
    token_errors: Float[Array, "P G T V"],
    rewards: Float[Array, "P G"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    threshold: float = 0.5,
) -> Float[Array, "P G T"]:
    """Similarity of each token to all tokens of the group's correct completions, in what their gradients do.

        s[p,g,t] = sum over tokens (k,u) of correct completions of (e[p,g,t] . e[p,k,u]) (h[p,g,t] . h[p,k,u])
                 = e[p,g,t] M[p] h[p,g,t],   M[p] = sum over those tokens of e h^T

    NTHR, https://arxiv.org/abs/2505.18830, and THR, https://arxiv.org/abs/2510.03669; e is the one-hot token minus
    the distribution, over the vocabulary or a part of it, h the last hidden state. A completion is correct when
    its reward is above `threshold`. THR's own score is s for tokens of correct completions and -s for the others:
    the change in the likelihood of correct answers. A matrix of V times D for each prompt is all that is kept. 0 in
    a group without a correct completion, and where masked or not valid.
    """
    valid = jnp.ones_like(rewards, bool) if valid is None else valid
    mask = mask & valid[:, :, None]
    hidden = jnp.where(mask[..., None], hidden, 0)
    errors = jnp.where(mask[..., None], token_errors, 0)
    correct = valid & (rewards > threshold)
    of_correct = jnp.where(correct[:, :, None, None], errors, 0)
    exact = jax.lax.Precision.HIGHEST
    moment = jnp.einsum("pgtv,pgtd->pvd", of_correct, hidden, precision=exact)
    moved = jnp.einsum("pgtv,pvd->pgtd", errors, moment, precision=exact)
    return jnp.where(mask, jnp.sum(moved * hidden, axis=3), 0)
