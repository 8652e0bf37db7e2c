"""Times token scoring beside what one would write without it, and prints a table.

    python tools/bench_kernels.py --rounds 9
    python tools/bench_kernels.py --tokens 8192 --size 4096 --vocabulary 151936 --dtype bfloat16 --json out.json

Every variant runs once a round, in turn, so that other load on the machine falls on all; the table has medians over
the rounds, and the median of each round's ratio to the naive variant of the same statistics. "temp" is what the
compiled program needs beside its arguments and results. "log-prob" is the log-prob of each target; "both" also the
entropy; naive variants hold the logits. "matmul" is the product of hidden states and head alone, and of its two
gradients. tokamax, where it is installed, gives a summed loss, which is log-prob alone.
"""

import argparse
import functools
import importlib.util
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.kernels import token_score
from jaxrl_tok.kernels.token_score.vjp import BACKENDS

# One variant: (hidden, head [D, V], targets) -> a number that all of its results enter.
Variant = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def matmul(hidden: jax.Array, head: jax.Array, targets: jax.Array) -> jax.Array:
    """The product alone; its sum of squares makes the gradient of the logits dense."""
    return jnp.sum(jnp.square(jnp.dot(hidden, head, preferred_element_type=jnp.float32)))


def naive(hidden: jax.Array, head: jax.Array, targets: jax.Array, *, entropy: bool) -> jax.Array:
    """Logits, then what is asked of them."""
    logp = jax.nn.log_softmax(jnp.dot(hidden, head, preferred_element_type=jnp.float32))
    total = jnp.sum(jnp.take_along_axis(logp, targets[:, None], axis=1))
    return total - jnp.sum(jnp.exp(logp) * logp) if entropy else total


def ours(
    hidden: jax.Array, head: jax.Array, targets: jax.Array, *, entropy: bool, backend: str, block: int | None
) -> jax.Array:
    """Token scoring."""
    scores = token_score(hidden, head, targets, backend=backend, block=block, head_layout="dv")
    return jnp.sum(scores.logprobs) + (jnp.sum(scores.entropy) if entropy else 0)


def tokamax_loss(hidden: jax.Array, head: jax.Array, targets: jax.Array, *, implementation: str) -> jax.Array:
    """The cross-entropy of tokamax."""
    import tokamax  # pyright: ignore[reportMissingImports]

    loss = tokamax.linear_softmax_cross_entropy_loss
    return -loss(hidden, targets, head, reduction="sum", implementation=implementation)


def variants(backends: list[str], block: int | None) -> dict[str, tuple[str, Variant]]:
    """Returns name -> (statistics, function); the naive variant of the same statistics is the yardstick."""
    found: dict[str, tuple[str, Variant]] = {"matmul": ("none", matmul)}
    for what, entropy in (("log-prob", False), ("both", True)):
        found[f"naive {what}"] = what, functools.partial(naive, entropy=entropy)
        for backend in backends:
            f = functools.partial(ours, entropy=entropy, backend=backend, block=block)
            found[f"{backend} {what}"] = what, f
    if importlib.util.find_spec("tokamax") is not None:
        for implementation in ("xla", "chunked_xla"):
            f = functools.partial(tokamax_loss, implementation=implementation)
            found[f"tokamax {implementation}"] = "log-prob", f
    return found


def arrays(tokens: int, size: int, vocabulary: int, dtype: str) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns hidden states of norm sqrt(D), a head whose logits are of order one, and targets."""
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(rng.normal(size=(tokens, size)), dtype)
    head = jnp.asarray(rng.normal(size=(size, vocabulary)) / np.sqrt(size), dtype)
    return hidden, head, jnp.asarray(rng.integers(0, vocabulary, tokens), jnp.int32)


def compiled(f: Variant, inputs: tuple[jax.Array, ...]) -> dict[str, Any]:
    """Returns the programs of the forward pass and of forward and backward."""
    both = jax.value_and_grad(f, (0, 1))
    return {"forward": jax.jit(f).lower(*inputs).compile(), "gradient": jax.jit(both).lower(*inputs).compile()}


def measure(programs: dict[tuple[str, str], Any], inputs: tuple[jax.Array, ...], rounds: int) -> dict:
    """Returns the seconds of each program in each round, after one that does not count."""
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in programs}
    for turn in range(rounds + 1):
        for key, program in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program(*inputs))
            if turn:
                seconds[key].append(time.perf_counter() - start)
    return seconds


def table(found: dict, programs: dict, seconds: dict) -> list[dict]:
    """Returns a row for each variant."""
    rows = []
    for name, (what, _) in found.items():
        row: dict[str, Any] = {"variant": name, "statistics": what}
        for way in ("forward", "gradient"):
            times = seconds[name, way]
            yardstick = seconds["naive log-prob" if what == "none" else f"naive {what}", way]
            row[f"{way}_ms"] = 1e3 * statistics.median(times)
            row[f"{way}_ratio"] = statistics.median(a / b for a, b in zip(times, yardstick, strict=True))
            memory = programs[name, way].memory_analysis()
            row[f"{way}_temp_mib"] = memory.temp_size_in_bytes / 2**20
        rows.append(row)
    return rows


def show(rows: list[dict]) -> None:
    """Prints the table."""
    print(f"{'':24}{'forward':>24}{'':10}{'forward + backward':>26}")
    print(f"{'':24}{'ms':>10}{'/ naive':>10}{'temp MiB':>12}{'ms':>12}{'/ naive':>10}{'temp MiB':>12}")
    for row in rows:
        line = f"{row['variant']:24}"
        for way, width in (("forward", 10), ("gradient", 12)):
            line += f"{row[f'{way}_ms']:{width}.0f}{row[f'{way}_ratio']:10.2f}{row[f'{way}_temp_mib']:12.1f}"
        print(line)


def main() -> None:
    """Reads the arguments, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=32768)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--block", type=int, help="columns held at a time; each backend's own size unless given")
    parser.add_argument("--backends", nargs="+", default=["chunked"], choices=list(BACKENDS))
    parser.add_argument("--json", type=Path, help="also writes the rows there")
    options = parser.parse_args()
    inputs = arrays(options.tokens, options.size, options.vocabulary, options.dtype)
    found = variants(options.backends, options.block)
    programs = {(name, way): p for name, (_, f) in found.items() for way, p in compiled(f, inputs).items()}
    device = jax.devices()[0]
    load = os.getloadavg()[0]
    print(
        f"N={options.tokens} D={options.size} V={options.vocabulary} {options.dtype}, {device.device_kind}, "
        f"jax {jax.__version__}, {options.rounds} rounds, load {load:.1f} at the start"
    )
    rows = table(found, programs, measure(programs, inputs, options.rounds))
    show(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
