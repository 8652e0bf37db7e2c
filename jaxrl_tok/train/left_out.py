"""What tokens that were never drawn had of a distribution, so that scoring can divide by the rest."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok.types import LeftOut


def logits_left_out(
    hidden: Float[Array, "*S D"],
    head: Float[Array, "V D"] | None,
    inverse: Float[Array, "*S"],
    valid: Bool[Array, "*S"],
    place: Int[Array, "*S"],
    left: LeftOut,
    *,
    cap: float | None = None,
) -> Float[Array, "*S K"]:
    """Returns the logits, capped and at the temperature, of the K tokens of `left`; -inf where one may be drawn.

    Only the K rows of the head are read. `place` counts the tokens of the completion before, `hidden` are the logits
    where there is no head, and what is not `valid` may be NaN.
    """
    late = [i for i in left.end_ids if i not in left.ids]
    ids = jnp.asarray([*left.ids, *late], jnp.int32)
    hidden = jnp.where(valid[..., None], hidden, 0)
    if head is None:
        raw = jnp.take(hidden, ids, axis=-1).astype(inverse.dtype)
    else:
        raw = jnp.einsum("...D,KD->...K", hidden, jnp.take(head, ids, axis=0), preferred_element_type=inverse.dtype)
    raw = raw if cap is None else cap * jnp.tanh(raw / cap)
    early = (place < left.minimum)[..., None]
    always = jnp.arange(ids.size) < len(left.ids)
    out = valid[..., None] & (early | always.reshape(*[1] * place.ndim, -1))
    return jnp.where(out, raw * inverse[..., None], -jnp.inf)


def log_rest(logits: Float[Array, "*S K"], lse: Float[Array, "*S"]) -> Float[Array, "*S"]:
    """Returns log(1 - sum_k exp(logits[k] - lse)): the log of the mass that is left, 0 or less.

    In float32 it is off by about 2e-7 / (the mass left), and no mass is under 1e-6.
    """
    out = logits > -jnp.inf
    mass = jnp.sum(jnp.where(out, jnp.exp(jnp.where(out, logits - lse[..., None], 0)), 0), axis=-1)
    most = 1 - 1e-6
    return jnp.log1p(-jnp.where(mass < most, mass, most))
