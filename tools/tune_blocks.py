"""Measures the block sizes of the Pallas kernels on this machine's device, and writes the best into their table.

    python tools/tune_blocks.py --backend pallas_tpu --size 4096 --columns 151936 --write

Times the forward pass of token scoring, log-probs and entropy, for every candidate that compiles: rounds in turn, the
median of each. --write puts the fastest into jaxrl_tok/kernels/token_score/block_sizes.py, under the kind of this
device, D and V. --interpret runs anywhere, to try the tool out; its times mean nothing and are not written.
"""

import argparse
import ast
import functools
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp

from jaxrl_tok.kernels.token_score import pallas_gpu, pallas_tpu
from jaxrl_tok.kernels.token_score.common import Options, Rows
from jaxrl_tok.kernels.token_score.tiling import Blocks

TABLE = Path(__file__).resolve().parents[1] / "jaxrl_tok" / "kernels" / "token_score" / "block_sizes.py"
BACKENDS = {"pallas_tpu": pallas_tpu, "pallas_gpu": pallas_gpu}
SIZES = {
    "pallas_tpu": ((256, 512, 1024, 2048), (512, 1024, 2048), (512, 1024, 2048, 16384)),
    "pallas_gpu": ((64, 128), (64, 128, 256), (32, 64, 128)),
}


def candidates(backend: str, tokens: int, size: int) -> list[Blocks]:
    """Returns the sizes to try: for TPU, parts of D that are equal."""
    every = [Blocks(*sizes) for sizes in itertools.product(*SIZES[backend])]
    if backend == "pallas_tpu":
        every = [blocks._replace(rows=min(blocks.rows, tokens), depth=min(blocks.depth, size)) for blocks in every]
        every = [blocks for blocks in every if size % blocks.depth == 0]
    return list(dict.fromkeys(every))


def problem(tokens: int, size: int, columns: int, dtype: str) -> tuple[Rows, jax.Array]:
    """Draws hidden states and a head whose logits are of order one: throughput depends on the data."""
    keys = jax.random.split(jax.random.key(0), 3)
    hidden = jax.random.normal(keys[0], (tokens, size), dtype)
    head = jax.random.normal(keys[1], (size, columns), dtype) / size**0.5
    targets = jax.random.randint(keys[2], (tokens,), 0, columns, jnp.int32)
    return Rows(hidden, targets, jnp.ones(tokens, jnp.float32), None), head.astype(dtype)


def ready(
    backend: str, blocks: Sequence[Blocks], rows: Rows, head: jax.Array, interpret: bool
) -> dict[Blocks, Callable[[], object]]:
    """Compiles every candidate, and says which do not compile."""
    runs, options = {}, Options("dv", None, True, None)
    for one in blocks:
        forward = functools.partial(BACKENDS[backend].forward, options=options, blocks=one, interpret=interpret)
        try:
            compiled = jax.jit(forward).lower(rows, head).compile()
        except (RuntimeError, ValueError) as error:
            print(f"{tuple(one)!s:>22}  does not compile: {str(error).splitlines()[0][:80]}")
            continue
        runs[one] = functools.partial(compiled, rows, head)
        jax.block_until_ready(runs[one]())
    return runs


def medians(runs: dict[Blocks, Callable[[], object]], rounds: int) -> dict[Blocks, float]:
    """Returns the median milliseconds of each, from rounds in turn."""
    taken: dict[Blocks, list[float]] = {one: [] for one in runs}
    for _ in range(rounds):
        for one, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            taken[one].append(1e3 * (time.perf_counter() - start))
    return {one: statistics.median(times) for one, times in taken.items()}


def write(path: Path, name: str, kind: str, shape: tuple[int, int], blocks: Blocks) -> None:
    """Enters block sizes into a table of a file, and leaves the rest of the file as it is."""
    text = path.read_text()
    (place,) = (
        one for one in ast.parse(text).body if isinstance(one, ast.AnnAssign) and ast.unparse(one.target) == name
    )
    assert place.value is not None and place.end_lineno is not None
    table = ast.literal_eval(place.value)
    table.setdefault(kind, {})[shape] = tuple(blocks)
    lines = [f"{name}: {ast.unparse(place.annotation)} = {{"]
    for chip, entries in table.items():
        lines.append(f"    {repr(chip).replace(chr(39), chr(34))}: {{")
        lines += [f"        {key}: {value}," for key, value in entries.items()]
        lines.append("    },")
    before, after = text.splitlines()[: place.lineno - 1], text.splitlines()[place.end_lineno :]
    path.write_text("\n".join([*before, *lines, "}", *after]) + "\n")


def main() -> int:
    """Prints the table and returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--backend", choices=BACKENDS, required=True)
    parser.add_argument("--rows", type=int, default=8192, help="N")
    parser.add_argument("--size", type=int, default=4096, help="D")
    parser.add_argument("--columns", type=int, default=151936, help="V")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--interpret", action="store_true")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    backend, shape = arguments.backend, (arguments.size, arguments.columns)
    rows, head = problem(arguments.rows, *shape, arguments.dtype)
    why = None if arguments.interpret else BACKENDS[backend].obstacle(rows, head, Options("dv", None, True, None))
    if why or (arguments.interpret and arguments.write):
        print(f"tune_blocks: {why or 'interpreted times mean nothing; without --write'}", file=sys.stderr)
        return 2
    blocks = candidates(backend, arguments.rows, arguments.size)
    taken = medians(ready(backend, blocks, rows, head, arguments.interpret), arguments.rounds)
    for one, milliseconds in sorted(taken.items(), key=lambda item: item[1]):
        print(f"{tuple(one)!s:>22} {milliseconds:9.3f} ms")
    if arguments.write and taken:
        kind = jax.devices()[0].device_kind
        write(TABLE, backend.upper(), kind, shape, min(taken, key=lambda one: taken[one]))
    return 0 if taken else 1


if __name__ == "__main__":
    sys.exit(main())
