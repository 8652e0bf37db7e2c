"""Times what groups share: scoring and training of prefixes once and as often as they stand there, on a CPU.

    python tools/bench_rollouts.py [--rounds 5] [--only star,tree]

Two groups, of a model of 4 layers and width 256, float32, with `train.share_prefix` "none", "prompt" and "tree" in
turns: `star`, 8 completions of 64 tokens of a prompt of 512; `tree`, 6 x 6 x 6 segments of 32 tokens after a prompt of
64, which are 216 completions. Scoring is one pass without gradient, an update is the gradient of GRPO's loss with Adam.
Medians, the tokens that each computes, and times relative to "none".
"""

import argparse
import dataclasses
import functools
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1]))

VOCAB = 4096
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


def programs(shape: tuple[int, int, tuple[int, ...], int]) -> dict[tuple[str, str], tuple[Callable[[], Any], int]]:
    """Returns by (pass, way) a compiled call without arguments, and the tokens that it computes."""
    import jax
    import jax.numpy as jnp
    import optax

    from jaxrl_tok.config.load import load_recipe
    from jaxrl_tok.models import Architecture, Transformer
    from jaxrl_tok.models import params as model_params
    from jaxrl_tok.train.recipe import build_recipe
    from jaxrl_tok.train.score import score_batch
    from jaxrl_tok.train.step import train_step
    from jaxrl_tok.train.tries import pack
    from jaxrl_tok.types import Batch, Prompts, Rollouts, TrainState

    prompt, tokens = group(*shape)
    arch = Architecture(VOCAB, layers=4, dim=256, heads=4, kv_heads=2, head_dim=64, ffw=1024, qk_norm="head")
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
    params = jax.jit(functools.partial(model_params.init, Transformer(arch).specs(), 0))()
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


def main() -> int:
    """Prints a table a shape."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="star,tree", help="shapes, with commas between")
    options = parser.parse_args()
    for name in options.only.split(","):
        found = programs(SHAPES[name])
        times = measure({key: call for key, (call, _) in found.items()}, options.rounds)
        print(f"{name:8}{'share_prefix':>14}{'tokens':>10}{'ratio':>8}{'seconds':>10}{'ratio':>8}")
        for (work, way), seconds in times.items():
            tokens, of = found[work, way][1], found[work, "none"][1]
            line = f"{work:8}{way:>14}{tokens:10}{tokens / of:8.2f}{seconds:10.3f}{seconds / times[work, 'none']:8.2f}"
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
