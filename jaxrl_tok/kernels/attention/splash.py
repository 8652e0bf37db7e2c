"""Splash attention, the flash kernel for TPUs that comes with JAX: rows without trees."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrl_tok.compat import varying_axes
from jaxrl_tok.kernels.attention import block_sizes
from jaxrl_tok.kernels.attention.common import Options, Rows, pad
from jaxrl_tok.kernels.attention.spans import run_ids
from jaxrl_tok.kernels.lazy import Lazy

kernel: Any = Lazy("jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_kernel")
masks: Any = Lazy("jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_mask")

LANES = 128


def obstacle(platform: str, q: Array) -> str | None:
    """Returns why it cannot run, or None."""
    if platform != "tpu":
        return f"splash runs on TPU, and this is {platform}"
    if q.dtype not in (jnp.bfloat16, jnp.float32):
        return f"splash takes bfloat16 or float32, not {q.dtype}"
    if varying_axes(q):
        return "under shard_map splash does not say over which mesh axes its results differ"
    return None


def attend(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    rows: Rows,
    options: Options,
) -> Float[Array, "B T N H"]:
    """Returns the attention of rows; padding, id -1, gives numbers that nothing reads."""
    size, heads = q.shape[1:3]
    bq, bk = options.block or (block_sizes.SPLASH, block_sizes.SPLASH)
    length = size + -size % LANES
    bq, bk = (b if length > b else length for b in (bq, bk))
    segments = None if rows.segments is None else run_ids(rows.segments)
    if segments is None and not rows.causal and size % max(bq, bk):
        segments = jnp.zeros(q.shape[:2], jnp.int32)
    q = q * jnp.asarray(options.scale, q.dtype)
    q, k, v = (pad(x, 1, max(bq, bk)).swapaxes(1, 2) for x in (q, k, v))
    shape = (q.shape[2], q.shape[2])
    if rows.window is not None:
        mask = masks.LocalMask(shape, (rows.window - 1, 0), offset=0)
    else:
        mask = masks.CausalMask(shape) if rows.causal else masks.FullMask(shape)
    run: Any = kernel.make_splash_mha(
        mask=masks.MultiHeadMask([mask] * heads),
        block_sizes=kernel.BlockSizes(
            block_q=bq, block_kv=bk, block_q_dkv=bq, block_kv_dkv=bk, block_q_dq=bq, block_kv_dq=bk
        ),
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=options.soft_cap,
        interpret=bool(options.interpret),
    )
    o: Any
    if segments is None:
        o = jax.vmap(run)(q, k, v)
    else:
        ids = pad(segments, 1, max(bq, bk), -1)
        o = jax.vmap(lambda q, k, v, ids: run(q, k, v, kernel.SegmentIds(ids, ids)))(q, k, v, ids)
    return o.swapaxes(1, 2)[:, :size]
