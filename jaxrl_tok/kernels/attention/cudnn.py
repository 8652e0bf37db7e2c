"""cuDNN's flash attention, through `jax.nn.dot_product_attention`: rows without segments, trees or soft cap."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrl_tok.kernels.attention.common import Options, Rows

# Of all GPUs that have it; from Hopper on it is 256.
MOST_HEAD_SIZE = 128


def obstacle(platform: str, q: Array, segments: bool, options: Options) -> str | None:
    """Returns why it cannot run, or None."""
    if platform != "gpu":
        return f"cuDNN runs on NVIDIA GPUs, and this is {platform}"
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        return f"cuDNN takes bfloat16 or float16, not {q.dtype}"
    if q.shape[3] % 8 or q.shape[3] > MOST_HEAD_SIZE:
        return f"cuDNN takes head sizes that are multiples of 8 up to {MOST_HEAD_SIZE}, not {q.shape[3]}"
    if segments:
        return "cuDNN would need a dense mask for segments"
    if options.soft_cap is not None:
        return "cuDNN has no soft cap"
    return None


def attend(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    rows: Rows,
    options: Options,
) -> Float[Array, "B T N H"]:
    """Returns the attention of rows."""
    local = None if rows.window is None else (rows.window - 1, 0)
    return jax.nn.dot_product_attention(
        q, k, v, scale=options.scale, is_causal=rows.causal, local_window_size=local, implementation="cudnn"
    )
