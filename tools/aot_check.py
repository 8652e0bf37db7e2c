"""Compiles the scoring kernels for TPUs that are not there, and holds what they need against its bounds.

    python tools/aot_check.py [--chips v5e,v5p,v6e] [--naive]

Each line is one program, value and gradients of hidden and head, with the memory that the compiler planned on a chip:
temporaries, and the peak with inputs and results. A program that does not fit its chip does not compile. Exit code 1
if one does not, or needs more than its bound, or gathers over a split vocabulary. --naive also compiles the same
losses over whole logits, which hold no bound. It needs jax[tpu] and no TPU, and takes about two minutes.
"""

import argparse
import concurrent.futures
import functools
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

# libtpu is not to look for a TPU, nor to mind another program that compiles.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
sys.path.append(str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies

from jaxrl_tok.kernels import divergence, token_score

CHIPS = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
VOCABULARY = 151936  # 128 times a prime
GIB = 2**30


class Program(NamedTuple):
    """A program, and the bounds of what it may need."""

    name: str
    loss: Callable[..., jax.Array]
    tokens: int
    size: int
    bound: float | None  # GiB on a chip; None for what fits
    shards: int = 1  # of the vocabulary
    models: int = 1
    chips: tuple[str, ...] = tuple(CHIPS)


class Found(NamedTuple):
    """What the compiler made of a program."""

    seconds: float
    temporary: float  # GiB on a chip
    peak: float
    kernels: int
    collectives: dict[str, int]
    error: str = ""


def score_loss(hidden, head, targets, vocab_axis=None):
    """Gives a loss over log-probs and entropy."""
    scores = token_score(hidden, head, targets, vocab_axis=vocab_axis, head_layout="dv")
    return jnp.sum(scores.logprobs - 0.01 * scores.entropy)


def naive_score_loss(hidden, head, targets, vocab_axis=None):
    """Gives the same over whole logits."""
    logp = jax.nn.log_softmax(jnp.dot(hidden, head, preferred_element_type=jnp.float32))
    entropy = -jnp.sum(jnp.exp(logp) * logp, axis=1)
    return jnp.sum(jnp.take_along_axis(logp, targets[:, None], axis=1)[:, 0] - 0.01 * entropy)


def divergence_loss(hidden, head, targets, ref_hidden, ref_head, vocab_axis=None):
    """Gives a loss over the divergences from a reference."""
    kinds = ("kl_policy_ref", "jsd")
    found = divergence(
        hidden, head, ref_hidden, ref_head, targets >= 0, kinds=kinds, vocab_axis=vocab_axis,
        head_layout="dv", ref_head_layout="dv",
    )  # fmt: skip
    return jnp.sum(found.kl_policy_ref + found.jsd)


PROGRAMS = (
    Program("score", score_loss, 8192, 4096, 2.7),
    Program("score, many tokens", score_loss, 32768, 2048, None, chips=("v5e",)),
    Program("score, 4 shards", score_loss, 8192, 4096, 0.9, shards=4),
    Program("divergence", divergence_loss, 8192, 2048, 2.1, models=2),
    Program("divergence, 4 shards", divergence_loss, 8192, 2048, 0.75, shards=4, models=2, chips=("v5e",)),
)
NAIVE = (
    Program("naive score", naive_score_loss, 8192, 4096, None),
    Program("naive score, many tokens", naive_score_loss, 32768, 2048, None, chips=("v5e",)),
)


@functools.cache
def devices(chip: str) -> list:
    """Returns four chips that are not there."""
    return topologies.get_topology_desc(platform="tpu", topology_name=CHIPS[chip]).devices


def compiled(program: Program, chip: str) -> Found:
    """Compiles value and gradients of a program for a chip, or for as many as there are shards."""
    mesh = jax.sharding.Mesh(np.array(devices(chip)[: program.shards]), ("vocab",))
    axis = "vocab" if program.shards > 1 else None
    rows, columns = jax.P(), jax.P(None, axis)
    specs = (rows, columns, rows) + (rows, columns) * (program.models - 1)
    shapes = [((program.tokens, program.size), jnp.bfloat16), ((program.size, VOCABULARY), jnp.bfloat16)]
    shapes = [shapes[0], shapes[1], ((program.tokens,), jnp.int32), *shapes * (program.models - 1)]
    inputs = [
        jax.ShapeDtypeStruct(shape, dtype, sharding=jax.sharding.NamedSharding(mesh, spec))
        for (shape, dtype), spec in zip(shapes, specs, strict=True)
    ]

    def both(*arrays):
        return jax.value_and_grad(lambda *a: program.loss(*a, vocab_axis=axis), (0, 1))(*arrays)

    run = both
    if axis is not None:
        run = jax.shard_map(both, mesh=mesh, in_specs=specs, out_specs=(rows, (rows, columns)))
    start = time.perf_counter()
    # The abstract mesh is what tells kernels which chip they are compiled for.
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        try:
            binary = jax.jit(run).lower(*inputs).compile()
        except jax.errors.JaxRuntimeError as error:
            return Found(time.perf_counter() - start, 0, 0, 0, {}, str(error).split("\n")[0][:200])
    return measured(binary, time.perf_counter() - start)


def measured(binary: jax.stages.Compiled, seconds: float) -> Found:
    """Reads memory, kernels and collectives off an executable."""
    text, memory = binary.as_text(), binary.memory_analysis()
    assert text is not None and memory is not None
    kinds = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
    # Asynchronous ones are a start and a done.
    collectives = {kind: text.count(f" {kind}(") + text.count(f" {kind}-start(") for kind in kinds}
    kernels = text.count('custom_call_target="tpu_custom_call"')
    sizes = memory.temp_size_in_bytes / GIB, memory.peak_memory_in_bytes / GIB
    return Found(seconds, *sizes, kernels, {kind: n for kind, n in collectives.items() if n})


def faults(program: Program, found: Found) -> list[str]:
    """Returns what is wrong with a program: nothing."""
    if found.error:
        return [f"does not compile: {found.error}"]
    wrong = []
    if program.bound is not None and found.peak > program.bound:
        wrong.append(f"peak above {program.bound} GiB")
    if found.collectives.get("all-gather"):
        wrong.append("gathers")
    if not found.kernels:
        wrong.append("no TPU kernel in it")
    return wrong


def line(program: Program, chip: str, found: Found) -> str:
    """Returns what is printed of a program."""
    shape = f"{program.name:26} {program.tokens:>6} {program.size:>5} {chip:>4} {found.seconds:6.1f}"
    if found.error:
        return f"{shape}  {found.error}"
    bound = "fits" if program.bound is None else f"{program.bound:.2f}"
    counts = ", ".join(f"{n} {kind}" for kind, n in found.collectives.items())
    return f"{shape} {found.temporary:6.3f} {found.peak:6.3f} {bound:>5}  {counts}"


def main() -> int:
    """Prints the table and returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--chips", default=",".join(CHIPS), help="comma-separated")
    parser.add_argument("--naive", action="store_true", help="also compile the losses over whole logits")
    arguments = parser.parse_args()
    chips, broken = arguments.chips.split(","), 0
    for chip in chips:
        if chip not in CHIPS:
            parser.error(f"unknown chip {chip!r}; expected some of {', '.join(CHIPS)}")
        devices(chip)  # libtpu is loaded once, before there are threads
    programs = (*PROGRAMS, *(NAIVE if arguments.naive else ()))
    work = [(program, chip) for program in programs for chip in program.chips if chip in chips]
    print(f"V = {VOCABULARY}, bfloat16, value and gradients; GiB on a chip")
    print(f"{'program':26} {'N':>6} {'D':>5} {'chip':>4} {'secs':>6} {'temp':>6} {'peak':>6} {'bound':>5}  collectives")
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for (program, chip), found in zip(work, pool.map(lambda one: compiled(*one), work), strict=True):
            wrong = [] if program in NAIVE else faults(program, found)
            broken += bool(wrong)
            print(line(program, chip, found) + "".join(f"  BROKEN: {one}" for one in wrong), flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
