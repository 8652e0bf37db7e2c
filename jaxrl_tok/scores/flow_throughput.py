"""What flows through each token from the question to the answer, along the attention."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class FlowThroughput(NamedTuple):
    """The flow of attention, token by token."""

    reach: Float[Array, "*B N"]  # h, what arrives at the answer of one unit at the token
    inflow: Float[Array, "*B N"]  # f, what arrives at the token
    throughput: Float[Array, "*B N"]  # f and what leaves it


def flow_throughput(
    attention: Float[Array, "*B N N"],
    question: Bool[Array, "*B N"],
    answer: Bool[Array, "*B N"],
) -> FlowThroughput:
    """Throughput of each token when a unit flows from the question's tokens to the answer's along the attention.

        h[i] = 1 on the answer, else sum_{k > i} attention[k,i] h[k]
        W[k,i] = attention[k,i] h[k] / h[i] for i not in the answer
        f[k] = question[k] / |question| + sum_{i < k} W[k,i] f[i]
        throughput[i] = f[i] + sum_{k > i} W[k,i] f[i]

    FlowTracer, https://arxiv.org/abs/2606.10646. `attention[k,i]` is how much token k of prompt and completion
    looks at token i, a mean over the heads of middle layers; only k > i counts, and rows and columns of padding are
    to be 0. What reaches the answer stays there (our reading). Since the W of a token add up to 1, what leaves it
    is what arrived, and the throughput is 2 f before the answer and f in it. A token from which nothing reaches the
    answer (h = 0) passes nothing on. Two triangular systems are solved, of [N, N] each.
    """
    steps = jnp.where(answer[..., None, :], 0, jnp.tril(attention, -1))
    reach = _solve(steps, answer.astype(attention.dtype), transpose=True)
    flows = reach > jnp.finfo(reach.dtype).tiny
    sources = jnp.sum(question, axis=-1, keepdims=True, dtype=reach.dtype)
    source = question.astype(reach.dtype) / jnp.maximum(sources, 1)
    per_reach = _solve(steps, jnp.where(flows, source / jnp.where(flows, reach, 1), 0), transpose=False)
    inflow = jnp.where(flows, reach * per_reach, source)
    return FlowThroughput(reach, inflow, inflow + jnp.where(flows & ~answer, inflow, 0))


def _solve(steps: Float[Array, "*B N N"], x: Float[Array, "*B N"], *, transpose: bool) -> Float[Array, "*B N"]:
    """Solves y = x + steps y, or with the transposed steps; these are strictly lower triangular."""
    solve = jax.lax.linalg.triangular_solve
    options = {"left_side": True, "lower": True, "unit_diagonal": True, "transpose_a": transpose}
    return solve(-steps, x[..., None], **options)[..., 0]
