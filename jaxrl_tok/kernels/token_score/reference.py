"""The definition of token scoring: dense, at the highest matmul precision, with the gradient written out.

Holds [N, V]; for tests, and for vocabularies and batches small enough not to care.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok.kernels.token_score.common import NEG, Coefficients, Options, Rows, Sums, unfused


def _logits(rows: Rows, head: Array, options: Options) -> tuple[Float[Array, "N V"], Float[Array, "N V"]]:
    """Returns z = inv_temperature * cap(raw), and dz/draw."""
    dtype, layout = rows.inv_temperature.dtype, options.layout
    raw = _einsum(f"nd,{layout}->nv", rows.hidden.astype(dtype), head.astype(dtype))
    inv_temperature = jnp.broadcast_to(rows.inv_temperature[:, None], raw.shape)
    if options.soft_cap is None:
        return unfused(raw * inv_temperature), inv_temperature
    u = jnp.tanh(raw / options.soft_cap)
    return unfused(options.soft_cap * u * inv_temperature), (1 - u * u) * inv_temperature


def _masks(rows: Rows, z: Float[Array, "N V"]) -> tuple[Bool[Array, "N V"], Bool[Array, "N V"]]:
    """Returns which token is the target, and which ones are kept."""
    is_target = jnp.arange(z.shape[1], dtype=jnp.int32)[None, :] == rows.targets[:, None]
    if rows.cut is None:
        return is_target, jnp.ones_like(is_target)
    return is_target, (z >= rows.cut[:, None]) | is_target


_einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


def forward(rows: Rows, head: Array, options: Options) -> Sums:
    """Returns the sums over the kept tokens."""
    z, _ = _logits(rows, head, options)
    is_target, kept = _masks(rows, z)
    max_logit = jnp.max(jnp.where(kept, z, NEG), axis=1)
    shifted = z - max_logit[:, None]
    exp = jnp.where(kept, jnp.exp(shifted), 0)
    return Sums(
        max_logit=max_logit,
        sum_exp=jnp.sum(exp, axis=1),
        sum_exp_shifted=jnp.sum(jnp.where(kept, exp * shifted, 0), axis=1),
        target_logit=jnp.sum(jnp.where(is_target, z, 0), axis=1),
    )


def backward(
    rows: Rows, head: Array, coefficients: Coefficients, options: Options
) -> tuple[Float[Array, "N D"], Array | None]:
    """Returns the gradients of hidden and head."""
    z, dz_draw = _logits(rows, head, options)
    is_target, kept = _masks(rows, z)
    logp = z - coefficients.max_logit[:, None] - coefficients.log_sum[:, None]
    spread = jnp.exp(logp) * (coefficients.constant[:, None] + coefficients.slope[:, None] * logp)
    g = jnp.where(kept, spread, 0) + jnp.where(is_target, coefficients.target[:, None], 0)
    g = g * dz_draw
    d_hidden = _einsum(f"nv,{options.layout}->nd", g, head.astype(g.dtype))
    if not options.head_grad:
        return d_hidden.astype(rows.hidden.dtype), None
    d_head = _einsum(f"nd,nv->{options.layout}", rows.hidden.astype(g.dtype), g)
    return d_hidden.astype(rows.hidden.dtype), d_head.astype(head.dtype)
