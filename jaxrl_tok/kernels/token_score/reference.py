"""The definition of token scoring: dense, at the highest matmul precision, with the gradient written out.

Holds [N, V]; for tests, and for vocabularies and batches small enough not to care.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok.kernels.token_score.common import NEG, Coefficients, Options, Rows, Sums, unfused


def logits(
    hidden: Float[Array, "N D"], head: Array, inv_temperature: Float[Array, "N"], options: Options
) -> tuple[Float[Array, "N V"], Float[Array, "N V"]]:
    """Returns z = inv_temperature * cap(raw), and dz/draw."""
    dtype, layout = inv_temperature.dtype, options.layout
    raw = einsum(f"nd,{layout}->nv", hidden.astype(dtype), head.astype(dtype))
    factor = jnp.broadcast_to(inv_temperature[:, None], raw.shape)
    if options.soft_cap is None:
        return unfused(raw * factor), factor
    u = jnp.tanh(raw / options.soft_cap)
    return unfused(options.soft_cap * u * factor), (1 - u * u) * factor


def real(z: Float[Array, "N V"], limit: Array | None) -> Bool[Array, "N V"]:
    """Returns which columns are tokens."""
    if limit is None:
        return jnp.ones(z.shape, bool)
    return jax.lax.broadcasted_iota(jnp.int32, z.shape, 1) < limit


def _masks(rows: Rows, z: Float[Array, "N V"], limit: Array | None) -> tuple[Bool[Array, "N K V"], Bool[Array, "N V"]]:
    """Returns which token is which target, and which ones are kept."""
    targets = rows.targets.reshape(len(z), -1)
    is_target = jnp.arange(z.shape[1], dtype=jnp.int32)[None, None, :] == targets[:, :, None]
    if rows.cut is None:
        return is_target, real(z, limit)
    return is_target, real(z, limit) & ((z >= rows.cut[:, None]) | jnp.any(is_target, axis=1))


einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


def forward(rows: Rows, head: Array, options: Options, limit: Array | None = None) -> Sums:
    """Returns the sums over the kept tokens among the first `limit` columns."""
    z, _ = logits(rows.hidden, head, rows.inv_temperature, options)
    is_target, kept = _masks(rows, z, limit)
    max_logit = jnp.max(jnp.where(kept, z, NEG), axis=1)
    shifted = z - max_logit[:, None]
    exp = jnp.where(kept, jnp.exp(shifted), 0)

    def total(x: Array) -> Array:
        return jnp.sum(jnp.where(kept, x, 0), axis=1)

    sums = Sums(
        max_logit=max_logit,
        sum_exp=jnp.sum(exp, axis=1),
        sum_exp_shifted=total(exp * shifted),
        target_logit=jnp.sum(jnp.where(is_target[:, 0], z, 0), axis=1),
    )
    if not options.extras:
        return sums
    first = jnp.argmax(jnp.where(kept, z, NEG), axis=1).astype(jnp.int32)
    others = kept & (jnp.arange(z.shape[1], dtype=jnp.int32)[None, :] != first[:, None])
    pivot = max_logit if rows.pivot is None else rows.pivot
    above = (z > pivot[:, None]) & ~is_target[:, 0]
    every = {
        "argmax": first,
        "second_logit": jnp.max(jnp.where(others, z, NEG), axis=1),
        "sum_logits": total(z),
        "sum_exp2": total(exp * exp),
        "sum_exp2_shifted": total(exp * exp * shifted),
        "sum_exp_shifted2": total(exp * shifted * shifted),
        "count_above": total(above.astype(z.dtype)),
        "sum_exp_above": total(jnp.where(above, exp, 0)),
    }
    return sums._replace(**{name: every[name] for name in options.extras})


def backward(
    rows: Rows, head: Array, coefficients: Coefficients, options: Options, limit: Array | None = None
) -> tuple[Float[Array, "N D"], Array | None]:
    """Returns the gradients of hidden, in the accumulation type, and of head."""
    z, dz_draw = logits(rows.hidden, head, rows.inv_temperature, options)
    is_target, kept = _masks(rows, z, limit)
    logp = z - coefficients.max_logit[:, None] - coefficients.log_sum[:, None]
    spread = jnp.exp(logp) * (coefficients.constant[:, None] + coefficients.slope[:, None] * logp)
    target = coefficients.target.reshape(len(z), -1)
    g = jnp.where(kept, spread, 0) + jnp.sum(jnp.where(is_target, target[:, :, None], 0), axis=1)
    return products(g * dz_draw, rows.hidden, head, options)


def products(
    g: Float[Array, "N V"], hidden: Float[Array, "N D"], head: Array, options: Options
) -> tuple[Float[Array, "N D"], Array | None]:
    """Returns the gradients of hidden and of head, from that by the raw logits."""
    d_hidden = einsum(f"nv,{options.layout}->nd", g, head.astype(g.dtype))
    if not options.head_grad:
        return d_hidden, None
    return d_hidden, einsum(f"nd,nv->{options.layout}", hidden.astype(g.dtype), g).astype(head.dtype)
