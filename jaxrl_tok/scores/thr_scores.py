"""How much training on a group's correct completions moves the likelihood of each token."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped


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
    correct = valid & (rewards > threshold)
    exact = jax.lax.Precision.HIGHEST

    # One completion of each prompt at a time: what is masked and multiplied stays small, and P may lie on devices.
    def of(g: Int[Array, ""], here: Bool[Array, "P T"]) -> tuple[Float[Array, "P T V"], Float[Array, "P T D"]]:
        return tuple(jnp.where(here[..., None], _take(x, g), 0) for x in (token_errors, hidden))  # type: ignore[return-value]

    def add(moment: Float[Array, "P V D"], g: Int[Array, ""]) -> tuple[Float[Array, "P V D"], None]:
        errors, states = of(g, _take(mask, g) & _take(correct, g)[:, None])
        return moment + jnp.einsum("ptv,ptd->pvd", errors, states, precision=exact), None

    def score(g: Int[Array, ""]) -> Float[Array, "P T"]:
        errors, states = of(g, _take(mask, g))
        return jnp.sum(jnp.einsum("ptv,pvd->ptd", errors, moment, precision=exact) * states, axis=2)

    members = jnp.arange(rewards.shape[1])
    of_none = jnp.einsum("pgtv,pgtd->pvd", token_errors[:, :0], hidden[:, :0])
    moment = jax.lax.scan(add, of_none, members)[0]
    return jnp.where(mask, jnp.moveaxis(jax.lax.map(score, members), 0, 1), 0)


def _take(x: Shaped[Array, "P G *rest"], g: Int[Array, ""]) -> Shaped[Array, "P *rest"]:
    return jax.lax.dynamic_index_in_dim(x, g, axis=1, keepdims=False)
