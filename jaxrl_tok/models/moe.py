"""A feed-forward layer of many experts, of which each token takes a few. No token is dropped.

Experts are split over the mesh axes `expert` and `tensor`. A device computes what its own experts give to all tokens
of the devices along these axes, and the parts are added up: the tokens travel, the experts stay.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok import compat
from jaxrl_tok.kernels.attention.common import accumulation
from jaxrl_tok.models.layers import ACTIVATIONS
from jaxrl_tok.sharding.constrain import free_axes, manual_axes, spec

# Over these experts are split, in this order.
EXPERT_AXES = ("expert", "tensor")
# How tokens lie when they meet the experts, by the rank of their array: rows of positions, or one a slot.
TOKENS = {3: ("batch", "positions", None), 2: (None, None)}


def route(
    x: Float[Array, "*B D"], router: Float[Array, "D E"], count: int, normalise: bool
) -> tuple[Int[Array, "*B k"], Float[Array, "*B k"], Float[Array, "*B E"]]:
    """Returns each token's `count` likeliest experts, their weights, and the probabilities of all (float32 or 64).

    With `normalise` the weights of a token's experts add up to 1. Shazeer et al. 2017, https://arxiv.org/abs/1701.06538.
    """
    logits = jnp.einsum("...D,DE->...E", x, router).astype(accumulation(x))
    probs = jax.nn.softmax(logits, axis=-1)
    weights, ids = jax.lax.top_k(probs, count)
    weights = weights / jnp.sum(weights, axis=-1, keepdims=True) if normalise else weights
    return ids, weights.astype(x.dtype), probs


def balance(ids: Int[Array, "*B T k"], probs: Float[Array, "*B T E"], mask: Bool[Array, "*B T"]) -> Float[Array, "*B"]:
    """Returns how unevenly a sequence's tokens use the experts: 1 = evenly, E = all the same one; 0 without tokens.

        E sum_e f_e p_e,   f_e = share of the choices that fell on e,   p_e = mean probability of e

    The auxiliary loss of Switch Transformers, Fedus et al. 2021, https://arxiv.org/abs/2101.03961, eq. 4 to 6, over a
    sequence instead of a batch, so that it does not depend on how a batch is cut. The gradient goes through p. The
    sum over k choices that `transformers` takes in place of f is k times this.
    """
    experts = probs.shape[-1]
    count = jnp.maximum(jnp.sum(mask.astype(probs.dtype), axis=-1, keepdims=True), 1)
    chosen = jnp.sum(jax.nn.one_hot(ids, experts, dtype=probs.dtype), axis=-2) / ids.shape[-1]
    share, mean = (jnp.sum(jnp.where(mask[..., None], x, 0), axis=-2) / count for x in (chosen, probs))
    return experts * jnp.sum(jax.lax.stop_gradient(share) * mean, axis=-1)


def experts(
    x: Float[Array, "*B D"],
    ids: Int[Array, "*B k"],
    weights: Float[Array, "*B k"],
    gate_up: Float[Array, "E D 2 F"],
    down: Float[Array, "E F D"],
    activation: str = "silu",
    lora: Mapping[str, Any] | None = None,
) -> Float[Array, "*B D"]:
    """Returns sum_k weight_k (act(x gate_k) * (x up_k)) down_k over each token's experts.

    `lora` has adapters `a [E, inputs, r]`, `b [E, r, outputs]` by the names of the matrices that have one. Shape and
    sharding of the result are those of x. Under `shard_map` over the batch, `gate_up` and `down` are the device's own
    experts.
    """
    free, fixed = free_axes(), manual_axes()
    adapters = {name: pair for name, pair in (lora or {}).items() if name in ("gate", "up", "down")}
    arrays = (x, ids, weights, gate_up, down, adapters)
    own = functools.partial(_of_own_experts, activation=activation)
    if not free:
        return own(*arrays, gather={name: n for name, n in fixed.items() if name == "expert"}, add={})
    # What is left to the compiler becomes manual here: it could not split tokens that are sorted by expert.
    split = {name: size for name, size in (fixed | free).items() if name in EXPERT_AXES}
    gather = {"expert": split["expert"]} if "expert" in split else {}
    run = functools.partial(own, gather=gather, add={name: n for name, n in split.items() if name not in gather})
    tokens = spec(x.shape, *TOKENS[x.ndim])
    laid = PartitionSpec(tuple(name for name in EXPERT_AXES if name in free) or None)
    return jax.shard_map(run, in_specs=(tokens,) * 3 + (laid,) * 3, out_specs=tokens, axis_names={*free})(*arrays)


def _of_own_experts(
    x: Array,
    ids: Array,
    weights: Array,
    gate_up: Array,
    down: Array,
    lora: Mapping[str, Any],
    *,
    activation: str,
    gather: Any,
    add: Any,
) -> Array:
    """Computes the device's own experts on the tokens of all that share them, and adds up the parts."""
    shape = x.shape
    x, ids, weights = (a.reshape(-1, a.shape[-1]) for a in (x, ids, weights))
    first = jnp.int32(0)
    for name in (*gather, *add):
        size = (gather | add)[name]
        first = first * size + jax.lax.axis_index(name)
    first = first * gate_up.shape[0]
    for name in gather:
        x, ids, weights = (jax.lax.all_gather(a, name, tiled=True) for a in (x, ids, weights))
    y = _grouped(x, ids - first, weights, gate_up, down, activation, lora)
    if add:
        y = jax.lax.psum(y, tuple(add))
    for name in gather:
        y = jax.lax.psum_scatter(y, name, tiled=True)
    return y.reshape(shape)


def _grouped(
    x: Float[Array, "n D"],
    ids: Int[Array, "n k"],
    weights: Float[Array, "n k"],
    gate_up: Float[Array, "E D 2 F"],
    down: Float[Array, "E F D"],
    activation: str,
    lora: Mapping[str, Any],
) -> Float[Array, "n D"]:
    """The sum over those of each token's experts that are here; ids outside 0 .. E - 1 are elsewhere."""
    number, count = gate_up.shape[0], ids.shape[1]
    here = (ids >= 0) & (ids < number)
    group = jnp.where(here, ids, number).reshape(-1)
    order = compat.argsort(group)
    sizes = jnp.zeros(number, jnp.int32).at[group].add(1, mode="drop")

    def adapted(y: Array, x: Array, name: str) -> Array:
        if name not in lora:
            return y
        return y + jax.lax.ragged_dot(jax.lax.ragged_dot(x, lora[name]["a"], sizes), lora[name]["b"], sizes)

    x = x[order // count]
    h = jax.lax.ragged_dot(x, gate_up.reshape(number, x.shape[1], -1), sizes)
    h = h.reshape(h.shape[0], 2, -1)
    h = ACTIVATIONS[activation](adapted(h[:, 0], x, "gate")) * adapted(h[:, 1], x, "up")
    y = adapted(jax.lax.ragged_dot(h, down, sizes), h, "down")
    # Back in the order of tokens: a sum of k terms, always in the same order.
    y = y[compat.argsort(order)].reshape(*ids.shape, -1)
    return jnp.sum(jnp.where(here[:, :, None], y, 0) * weights[:, :, None], axis=1)
