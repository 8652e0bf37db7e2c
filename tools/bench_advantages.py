"""Times every advantage estimator on 64 groups of 16 completions of 1024 tokens, compiled.

    python tools/bench_advantages.py

Prints milliseconds, median and best, of 20 rounds in which all take turns, and the bytes of temporaries.
"""

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1]))

SHAPE = (64, 16, 1024)


def fields() -> dict[str, np.ndarray]:
    """Returns arrays by their names in docs/notation.md: shared prefixes of 300 tokens, ragged lengths."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 50, SHAPE).astype(np.int32)
    tokens[:, :, :300] = tokens[:, :1, :300]
    return {
        "tokens": tokens,
        "mask": np.arange(SHAPE[2]) < rng.integers(500, SHAPE[2] + 1, (*SHAPE[:2], 1)),
        "valid": np.ones(SHAPE[:2], bool),
        "rewards": rng.integers(0, 2, SHAPE[:2]).astype(np.float32),
    }


def compiled(given: dict[str, np.ndarray]) -> dict[str, Callable[[], Any]]:
    """Returns a call without arguments for each estimator that needs no more than `given`."""
    import jax

    from jaxrl_tok.advantages import ADVANTAGES
    from jaxrl_tok.config.bind import bind

    calls = {}
    for name in ADVANTAGES:
        method = bind(ADVANTAGES, name)
        if set(method.reads) <= set(given):
            picked = {key: jax.device_put(given[key]) for key in method.reads}
            program = jax.jit(method).lower(picked).compile()
            memory = program.memory_analysis()
            print(f"{name}: {memory.temp_size_in_bytes / 2**20:.0f} MiB of temporaries" if memory else name)
            calls[name] = functools.partial(program, picked)
    return calls


def main() -> None:
    """Measures and prints."""
    import jax

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    calls = compiled(fields())
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            seconds[name].append(time.perf_counter() - start)
    for name, measured in seconds.items():
        counted = measured[1:]
        print(f"{name}: median {1e3 * statistics.median(counted):.1f} ms, best {1e3 * min(counted):.1f} ms")


if __name__ == "__main__":
    main()
