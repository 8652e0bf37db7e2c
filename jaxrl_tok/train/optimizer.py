"""The optax chain."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax


def schedule(kind: str, peak: float, *, warmup: int, total: int) -> optax.Schedule:
    """Returns the learning rate by update: linear warm-up, then constant, linear or cosine decay to 0."""
    steps = max(total - warmup, 1)
    after = {
        "constant": optax.constant_schedule(peak),
        "linear": optax.linear_schedule(peak, 0.0, steps),
        "cosine": optax.cosine_decay_schedule(peak, steps),
    }[kind]
    return optax.join_schedules([optax.linear_schedule(peak / (warmup + 1), peak, warmup), after], [warmup])


def optimizer(
    rate: optax.Schedule,
    decay_mask: Any,
    *,
    b1: float,
    b2: float,
    eps: float,
    weight_decay: float,
    clip_norm: float,
    state_dtype: str = "float32",
) -> optax.GradientTransformation:
    """AdamW after clipping the global gradient norm to `clip_norm` (inf = no limit); decay where `decay_mask` says.

    Loshchilov & Hutter 2019, arXiv 1711.05101. The running mean of gradients is kept in `state_dtype`, that of their
    squares in float32 whatever the type of the parameters is.
    """
    return optax.chain(
        _clip(clip_norm),
        _adam(b1, b2, eps, state_dtype),
        optax.add_decayed_weights(weight_decay, mask=decay_mask),
        optax.scale_by_learning_rate(rate),
    )


def _adam(b1: float, b2: float, eps: float, dtype: str) -> optax.GradientTransformation:
    chain = optax.scale_by_adam(b1=b1, b2=b2, eps=eps, mu_dtype=dtype)
    # By itself it keeps the mean of squares in the type of the parameters.
    return optax.GradientTransformation(lambda params: chain.init(optax.tree.cast(params, jnp.float32)), chain.update)


def grouped(chains: Mapping[str, optax.GradientTransformation], groups: Any) -> optax.GradientTransformation:
    """Gives each group of parameters its own chain, and so its own gradient norm. `groups` names that of each leaf."""
    if len(chains) == 1:
        return next(iter(chains.values()))
    return optax.multi_transform({**chains}, groups)


def _clip(limit: float) -> optax.GradientTransformation:
    """Scales gradients whose global norm is above `limit` down to it.

    `optax.clip_by_global_norm` divides every element; one factor for all becomes part of the loops that read it.
    """
    if limit == float("inf"):
        return optax.identity()

    def scaled(grads: Any, params: Any = None) -> Any:
        factor = limit / jnp.maximum(optax.tree.norm(grads), limit)
        return jax.tree.map(lambda g: g * factor.astype(g.dtype), grads)

    return optax.stateless(scaled)
