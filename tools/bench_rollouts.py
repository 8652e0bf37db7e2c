"""Times what groups share: prefixes scored, trained and sampled once and as often as they stand there, on a CPU.

    python tools/bench_rollouts.py [--rounds 5] [--only star,tree,sampled,refill]
    python tools/bench_rollouts.py --aot v5p:2x2x1 [--only star,tree,sampled] [--run FILE]

A model of 4 layers and width 256, float32, each way in turns; medians, and times relative to the first way.
`star` and `tree` are groups that are scored and trained with `train.share_prefix` "none", "prompt" and "tree": 8
completions of 64 tokens of a prompt of 512; 6 x 6 x 6 segments of 32 tokens after a prompt of 64, which are 216
completions. Scoring is one pass without gradient, an update is the gradient of GRPO's loss with Adam. `sampled` samples
the tree: as 216 rows with prompts of their own, as 216 completions of one prompt, and as segments. `refill` counts the
steps of the decode loop for 128 requests of geometric lengths in 16 slots.

With `--aot` the same groups with the model of a run file, by default Qwen3-8B, compiled for chips that are not there
(it needs jax[tpu] and no TPU). In place of times there are operations of all chips, counted from the model's sizes with
those of the kernels, which XLA's own count leaves out as it takes a loop once; and the memory that the compiler planned
on a chip: temporaries, and all with arguments and results.
"""

import argparse
import dataclasses
import functools
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1]))

VOCAB = 4096
RUN = Path(__file__).resolve().parents[1] / "configs" / "runs" / "plan_qwen3_8b.toml"
SHAPES = {"star": (1, 512, (8,), 64), "tree": (1, 64, (6, 6, 6), 32)}  # prompts, their length, branches, segment
WAYS = ("none", "prompt", "tree")


def group(prompts: int, size: int, branches: tuple[int, ...], segment: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns random prompts and the completions of a full tree of segments."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(3, VOCAB, (prompts, 1, 0))
    for count in branches:
        tokens = np.repeat(tokens, count, axis=1)
        tokens = np.concatenate([tokens, rng.integers(3, VOCAB, (*tokens.shape[:2], segment))], axis=2)
    return rng.integers(3, VOCAB, (prompts, size)).astype(np.int32), tokens.astype(np.int32)


def scored(shape: tuple[int, int, tuple[int, ...], int]) -> dict[tuple[str, str], tuple[Callable[[], Any], int]]:
    """Returns by (pass, way) a compiled call without arguments, and the tokens that it computes.

    Of groups that are scored and trained.
    """
    import jax
    import jax.numpy as jnp
    import optax

    from jaxrl_tok.config.load import load_recipe
    from jaxrl_tok.models import Transformer
    from jaxrl_tok.train.recipe import build_recipe
    from jaxrl_tok.train.score import score_batch
    from jaxrl_tok.train.step import train_step
    from jaxrl_tok.train.tries import pack
    from jaxrl_tok.types import Batch, Prompts, Rollouts, TrainState

    prompt, tokens = group(*shape)
    arch = architecture()
    count, completions, length = tokens.shape
    prompts = Prompts(prompt, np.full(count, shape[1], np.int32), np.arange(count, dtype=np.int32))
    mask, heat = np.ones(tokens.shape, bool), np.ones(tokens.shape[:2], np.float32)
    drawn = np.full(tokens.shape, -8.0, np.float32)
    tries = pack(prompts, Rollouts(tokens, mask, mask[..., 0], drawn, drawn, heat))
    rng = np.random.default_rng(1)
    fields = {
        "tokens": tokens, "mask": mask, "valid": mask[..., 0], "token_weights": mask.astype(np.float32),
        "advantages": rng.normal(size=tokens.shape).astype(np.float32), "sampler_logprobs": drawn,
    }  # fmt: skip
    batch = jax.tree.map(jnp.asarray, Batch(prompts, fields, heat, None))
    optimizer = optax.adamw(1e-4)
    options = {"recipe": build_recipe(load_recipe("grpo")), "optimizer": optimizer, "rate": lambda step: 1e-4}
    params = weights()
    state = TrainState(params, optimizer.init(params), jnp.int32(0), None, {})
    distinct = {
        "none": completions * count * (shape[1] + length),
        "prompt": count * (shape[1] + completions * length),
        "tree": int((tries.ends > np.arange(tries.ends.shape[1])).sum()),
    }
    found = {}
    for way in WAYS:
        model = Transformer(dataclasses.replace(arch, share_prompt=way != "none"))
        given = dataclasses.replace(batch, tries=jax.tree.map(jnp.asarray, tries) if way == "tree" else None)
        for name, f in {
            "score": lambda state, batch, model=model: score_batch(state.params, model, batch).logprobs,
            "update": functools.partial(train_step, model=model, **options),
        }.items():
            call = jax.jit(f).lower(state, given).compile()
            found[name, way] = functools.partial(call, state, given), distinct[way]
    return found


def sampled(shape: tuple[int, int, tuple[int, ...], int]) -> dict[tuple[str, str], tuple[Callable[[], Any], int]]:
    """Returns by way a compiled call that samples a full tree, and the tokens that it feeds to the model."""
    import jax
    import jax.numpy as jnp

    from jaxrl_tok.models import Transformer
    from jaxrl_tok.rollouts.extend import Engine
    from jaxrl_tok.rollouts.generate import generate, request_keys
    from jaxrl_tok.rollouts.spo_tree import spo_tree
    from jaxrl_tok.types import Prompts

    count, size, branches, segment = shape
    model, params, length = Transformer(architecture()), weights(), segment * len(branches)
    leaves = math.prod(branches)
    tokens = jnp.asarray(group(*shape)[0])

    def rows(params: Any, prompts: Any, completions: int) -> Any:
        keys = request_keys(jnp.uint32(0), jnp.int32(0), jnp.int32(0), prompts.ids, jnp.arange(completions))
        options = {"max_tokens": length, "end_ids": (), "slots": count * leaves}
        return generate(params, model, prompts, keys, asked(keys.shape, length), **options)[0].tokens

    def tree(params: Any, prompts: Any) -> Any:
        engine = Engine.read(params, model, prompts, max_tokens=length, end_ids=(), slots=count * leaves)
        keys = request_keys(jnp.uint32(0), jnp.int32(0), jnp.int32(0), prompts.ids, jnp.arange(leaves))
        how = {"branches": branches, "segment_tokens": segment}
        return spo_tree(engine, keys, asked(keys.shape, length), **how).rollouts.tokens

    def prompts_of(copies: int) -> Any:
        many = jnp.repeat(tokens, copies, axis=0)
        return Prompts(many, jnp.full(len(many), size, jnp.int32), jnp.arange(len(many), dtype=jnp.int32))

    nodes = sum(math.prod(branches[: d + 1]) for d in range(len(branches)))
    ways = {
        "rows": (functools.partial(rows, completions=1), prompts_of(leaves), leaves * (size + length)),
        "prompt": (functools.partial(rows, completions=leaves), prompts_of(1), size + leaves * length),
        "tree": (tree, prompts_of(1), size + nodes * segment),
    }
    found = {}
    for way, (f, prompts, distinct) in ways.items():
        call = jax.jit(f).lower(params, prompts).compile()
        found["sample", way] = functools.partial(call, params, prompts), count * distinct
    return found


def refill(requests: int = 128, slots: int = 16, mean: float = 24.0, longest: int = 128) -> dict[str, int]:
    """Returns the steps of the decode loop, with slots that are refilled and in rounds."""
    import jax
    import jax.numpy as jnp

    from jaxrl_tok.models import Transformer
    from jaxrl_tok.rollouts.generate import generate, request_keys
    from jaxrl_tok.types import Prompts

    model = Transformer(architecture(layers=1, dim=32, heads=2, kv_heads=1, head_dim=16, ffw=64))
    params = weights(model)
    lengths = np.minimum(np.random.default_rng(0).geometric(1 / mean, (requests, 1)), longest)
    ids = jnp.arange(requests, dtype=jnp.int32)
    prompts = Prompts(jnp.full((requests, 1), 3, jnp.int32), jnp.ones(requests, jnp.int32), ids)
    keys = request_keys(jnp.uint32(0), jnp.int32(0), jnp.int32(0), ids, jnp.arange(1))
    sampling = dataclasses.replace(asked(keys.shape, longest), limit=jnp.asarray(lengths, jnp.int32))

    def steps(refilled: bool) -> int:
        options = {"max_tokens": longest, "end_ids": (), "slots": slots, "refill": refilled}
        return int(jax.jit(lambda: generate(params, model, prompts, keys, sampling, **options)[1])())

    return {"refilled": steps(True), "in rounds": steps(False)}


class Planned(NamedTuple):
    """What a program would cost; sizes are bytes on a chip."""

    tokens: int  # that the model computes
    flops: int  # of all chips
    temporary: int
    total: int
    seconds: float  # of compiling it
    error: str = ""


def ahead(name: str, where: str, file: Path = RUN, sets: Sequence[str] = ()) -> Iterator[tuple[str, str, Planned]]:
    """Yields work, way and cost of a part's programs for a topology, one compilation after the other."""
    from jaxrl_tok.config.load import load_run
    from jaxrl_tok.models import Transformer
    from jaxrl_tok.train import flops, plan, plan_numbers
    from jaxrl_tok.train.build import build
    from jaxrl_tok.train.topology import topology

    prompts = load_run(file, sets).rollout.prompts
    devices = topology(where).devices
    works = {"rollout": "sample"} if name == "sampled" else {"reference": "score", "update": "update"}
    for way in ("rows", "prompt", "tree") if name == "sampled" else WAYS:
        run = load_run(file, [*sets, *settings(name, way, prompts)])
        built = build(run, plan.vocabulary(run), plan.QUESTIONS, devices)
        step = plan.Step(built, frozenset(works))
        step.take()
        passed = plan_numbers.one_pass(built)
        assert isinstance(built.base, Transformer)
        tokens = passed.layers // flops.per_token(built.base.arch)
        for one in step.compiled:
            done = plan_numbers.step_flops(built)["update"] if one.name == "update" else passed.total
            yield works[one.name], way, Planned(tokens, done, one.temporary, one.total, one.seconds, one.error)


def settings(name: str, way: str, prompts: int) -> list[str]:
    """Returns what makes of a run file with so many prompts the step of a part, one way.

    What is scored is scored by the reference. A tree's baselines that are sampled are independent completions.
    """
    _, size, branches, segment = SHAPES["tree" if name == "sampled" else name]
    leaves = math.prod(branches)
    alone = way == "rows"  # each completion of a prompt of its own
    sets = ["recipe=grpo_kl"]
    if len(branches) > 1 and (name != "sampled" or way == "tree"):
        sets = ["recipe=spo_tree", f"recipe.rollout.branches={[*branches]}", f"recipe.rollout.segment_tokens={segment}"]
    sizes = {"max_prompt": size, "max_tokens": segment * len(branches), "group": 1 if alone else leaves}
    sizes["prompts"] = prompts * (leaves if alone else 1)
    share = "none" if alone else way
    return [*sets, *(f"rollout.{key}={value}" for key, value in sizes.items()), f"train.share_prefix={share}"]


def show_ahead(name: str, rows: Iterator[tuple[str, str, Planned]]) -> None:
    """Prints a line a program, and its ratios to the first way of the same work."""
    print(
        f"{name:8}{'way':>8}{'tokens':>9}{'ratio':>7}{'TFLOP':>10}{'ratio':>7}{'temp GiB':>10}{'ratio':>7}"
        f"{'all GiB':>9}{'seconds':>9}"
    )
    first: dict[str, Planned] = {}
    for work, way, one in rows:
        base = first.setdefault(work, one)
        line = f"{work:8}{way:>8}{one.tokens:9,}{one.tokens / base.tokens:7.2f}"
        line += f"{one.flops / 1e12:10,.1f}{one.flops / base.flops:7.2f}"
        if one.error:
            print(f"{line}  {one.error.splitlines()[0]}", flush=True)
            continue
        share = f"{one.temporary / base.temporary:7.2f}" if base.temporary else f"{'-':>7}"
        print(f"{line}{one.temporary / 2**30:10.2f}{share}{one.total / 2**30:9.2f}{one.seconds:9.0f}", flush=True)


def architecture(**changes: Any) -> Any:
    """Returns the sizes of the model."""
    from jaxrl_tok.models import Architecture

    sizes = {"layers": 4, "dim": 256, "heads": 4, "kv_heads": 2, "head_dim": 64, "ffw": 1024, "qk_norm": "head"}
    return Architecture(VOCAB, **(sizes | changes))


def weights(model: Any = None) -> Any:
    """Returns parameters of a model, that of `architecture()` by default."""
    import jax

    from jaxrl_tok.models import Transformer
    from jaxrl_tok.models import params as model_params

    model = Transformer(architecture()) if model is None else model
    return jax.jit(functools.partial(model_params.init, model.specs(), 0))()


def asked(shape: tuple[int, ...], limit: int) -> Any:
    """Returns the settings of plain sampling."""
    import jax.numpy as jnp

    from jaxrl_tok.types import Sampling

    ones, off = jnp.ones(shape, jnp.float32), jnp.zeros(shape, jnp.int32)
    return Sampling(jnp.full(shape, limit, jnp.int32), ones, off, ones, jnp.zeros_like(ones))


def measure(calls: dict[Any, Callable[[], Any]], rounds: int) -> dict[Any, float]:
    """Returns the median of the seconds that each call takes, all in turns; the first of each does not count."""
    import jax

    seconds: dict[Any, list[float]] = {key: [] for key in calls}
    for _ in range(rounds + 1):
        for key, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            seconds[key].append(time.perf_counter() - start)
    return {key: statistics.median(values[1:]) for key, values in seconds.items()}


def table(found: dict[tuple[str, str], tuple[Callable[[], Any], int]], rounds: int) -> None:
    """Prints a line a way, and its ratios to the first way of the same work."""
    times = measure({key: call for key, (call, _) in found.items()}, rounds)
    first: dict[str, str] = {}
    for (work, way), seconds in times.items():
        base = (work, first.setdefault(work, way))
        tokens, of = found[work, way][1], found[base][1]
        line = f"{work:8}{way:>14}{tokens:10}{tokens / of:8.2f}{seconds:10.3f}{seconds / times[base]:8.2f}"
        print(line, flush=True)


def main() -> int:
    """Prints a table a part."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="star,tree,sampled,refill", help="parts, with commas between")
    parser.add_argument("--aot", metavar="CHIP:SHAPE", help="compile for these chips instead; without refill")
    parser.add_argument("--run", type=Path, default=RUN, help="run file of the model, with --aot")
    options = parser.parse_args()
    if options.aot:
        # Nothing runs: an accelerator that is here is left alone.
        os.environ["JAX_PLATFORMS"] = "cpu"
        print(f"{options.run.stem} on {options.aot}; ratios to the first way")
    for name in options.only.split(","):
        if options.aot:
            if name != "refill":
                show_ahead(name, ahead(name, options.aot, options.run))
            continue
        if name == "refill":
            steps = refill()
            share = steps["in rounds"] / steps["refilled"]
            print(f"refill: {steps['refilled']} steps, in rounds {steps['in rounds']}: {share:.2f} times as many")
            continue
        print(f"{name:8}{'way':>14}{'tokens':>10}{'ratio':>8}{'seconds':>10}{'ratio':>8}")
        table(sampled(SHAPES["tree"]) if name == "sampled" else scored(SHAPES[name]), options.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
