"""Times attention over a packed tree against its rollouts as separate rows, on this machine.

    python tools/bench_attention.py --rounds 15

One prompt of 1024 tokens and 8 branches of 384, in a decoder layer of width 256: RMSNorm, 4 heads over 2 of size 64
with rotations, SwiGLU of 1024, float32. Packed, these are 4096 tokens in one row; apart, 8 rows of 1408, 2.75 times
as many. Each variant is one compiled function that returns the layer's result, or the gradients of a sum over it by
the input and all weights. Variants run in turn within a round; the table has medians, and ratios to the separate
rows with the same backend, and to the fastest way of separate rows.

The memory is what XLA plans for temporaries, which is exact. The blocks are counted, not timed: pairs of blocks of
queries and keys that a streaming backend visits, packed and apart.
"""

import argparse
import functools
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.append(str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.kernels.attention import Prefix, attention, star_tree
from jaxrl_tok.kernels.attention.blocks import classify
from jaxrl_tok.kernels.attention.spans import Spans, row_spans, tree_spans
from jaxrl_tok.models import Rope, layers
from jaxrl_tok.models.rope import turns

DIM, HEADS, KV_HEADS, SIZE, FFW = 256, 4, 2, 64, 1024


def blocks(spans: Spans, size: int, block: int) -> int:
    """Returns how many pairs of blocks are visited for rows of `size` tokens, a multiple of the block."""
    return int(classify(spans, size, (block, block)).live.sum())


def counted(prompt: int, branch: int, branches: int, block: int) -> tuple[int, int]:
    """Returns the pairs of blocks that are visited for a packed tree, and for its rollouts as separate rows."""
    packed = prompt + branches * branch
    ends, _ = star_tree(jnp.array([prompt]), jnp.full((1, branches), branch), packed)
    tree, _ = tree_spans(ends, None, None)
    rows, _ = row_spans(1, prompt + branch, True, None, None)
    return blocks(tree, packed, block), branches * blocks(rows, prompt + branch, block)


def weights() -> dict[str, jax.Array]:
    """Returns the fused weights of one layer."""
    shapes = {
        "qkv": (DIM, KV_HEADS, HEADS // KV_HEADS + 2, SIZE), "o": (HEADS, SIZE, DIM), "gate_up": (DIM, 2, FFW),
        "down": (FFW, DIM), "attention_norm": (DIM,), "mlp_norm": (DIM,),
    }  # fmt: skip
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return {n: jax.random.normal(key, s) * s[0] ** -0.5 for key, (n, s) in zip(keys, shapes.items(), strict=True)}


def layer(x: jax.Array, w: dict, positions: jax.Array, attend: Callable) -> jax.Array:
    """Returns the result of one pre-norm layer."""
    h = layers.rms_norm(x, w["attention_norm"], 1e-6)
    q, k, v = layers.project(h, w, turns(positions, SIZE, Rope(theta=1e4)), 1e-6)
    mixed = attend(q.reshape(*x.shape[:2], HEADS, SIZE), k, v)
    x = x + jnp.einsum("...NH,NHD->...D", mixed, w["o"])
    return x + layers.mlp(layers.rms_norm(x, w["mlp_norm"], 1e-6), w)


def variants(prompt: int, branch: int, branches: int) -> dict[str, tuple[Callable, jax.Array, jax.Array]]:
    """Returns each variant's attention, input and positions."""
    packed = prompt + branches * branch
    ends, positions = star_tree(jnp.array([prompt]), jnp.full((1, branches), branch), packed)
    tree = jax.random.normal(jax.random.key(1), (1, packed, DIM))
    own = tree[0, prompt:].reshape(branches, branch, DIM)
    rows = jnp.concatenate([jnp.broadcast_to(tree[:, :prompt], (branches, prompt, DIM)), own], axis=1)
    row_positions = jnp.broadcast_to(jnp.arange(prompt + branch), rows.shape[:2])

    def prefixed(q: jax.Array, k: jax.Array, v: jax.Array, backend: str) -> jax.Array:
        before, after = (tuple(x[:, s] for x in (q, k, v)) for s in (slice(prompt), slice(prompt, None)))
        apart = (x.reshape(branches, branch, *x.shape[2:]) for x in after)
        shared = Prefix(before[1], before[2], jnp.ones((1, prompt), bool))
        o = attention(*apart, prefix=shared, backend=backend)
        return jnp.concatenate([attention(*before), o.reshape(after[0].shape)], axis=1)

    def of(backend: str, **rest: jax.Array) -> Callable:
        return functools.partial(attention, backend=backend, **rest)

    return {
        "rows, xla": (of("xla"), rows, row_positions),
        "rows, chunked": (of("chunked"), rows, row_positions),
        "tree, xla": (of("xla", ends=ends), tree, positions),
        "tree, chunked": (of("chunked", ends=ends), tree, positions),
        "tree, shared_prefix": (functools.partial(prefixed, backend="shared_prefix"), tree, positions),
    }


def main() -> int:
    """Prints the table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--prompt", type=int, default=1024)
    parser.add_argument("--branch", type=int, default=384)
    parser.add_argument("--branches", type=int, default=8)
    arguments = parser.parse_args()
    sizes = arguments.prompt, arguments.branch, arguments.branches

    runs, times = {}, {}
    w = weights()
    for name, (attend, x, positions) in variants(*sizes).items():
        value = functools.partial(layer, positions=positions, attend=attend)
        gradients = jax.grad(lambda x, w, value=value: jnp.sum(jnp.sin(value(x, w))), (0, 1))
        runs[name] = [(jax.jit(f).lower(x, w).compile(), (x, w)) for f in (value, gradients)]
        times[name] = ([], [])
    for _ in range(arguments.rounds):
        for name, functions in runs.items():
            for (function, inputs), spent in zip(functions, times[name], strict=True):
                started = time.perf_counter()
                jax.block_until_ready(function(*inputs))
                spent.append(time.perf_counter() - started)

    medians = {name: [1e3 * statistics.median(spent) for spent in both] for name, both in times.items()}
    best = min(both[1] for name, both in medians.items() if name.startswith("rows"))
    print(f"{'':22}{'forward ms':>12}{'fwd+bwd ms':>12}{'temp MiB':>10}{'vs rows, same':>15}{'vs best rows':>14}")
    for name, (forward, both) in medians.items():
        same = medians.get(f"rows, {name.split(', ')[1]}")
        memory = runs[name][1][0].memory_analysis().temp_size_in_bytes / 2**20
        ratio = f"{both / same[1]:15.2f}" if same else f"{'':15}"
        print(f"{name:22}{forward:12.1f}{both:12.1f}{memory:10.1f}{ratio}{both / best:14.2f}")
    for prompt, branch, branches in (sizes, (4096, 1536, 8)):
        tree, rows = counted(prompt, branch, branches, 128)
        tokens = (prompt + branches * branch) / (branches * (prompt + branch))
        print(f"prompt {prompt}, {branches} x {branch}: {tree} blocks of 128 x 128, apart {rows}: {tree / rows:.2f}x;"
              f" tokens {tokens:.2f}x")  # fmt: skip
    return 0


if __name__ == "__main__":
    np.set_printoptions(precision=3)
    sys.exit(main())
