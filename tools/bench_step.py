"""Times our training step on CPU: rollout, rewards, reference scoring, update, and the way to the first one.

    python tools/bench_step.py --steps 10 --json out.json

The problem is small and fixed, so that other programs can be timed on the same one: 4 layers of width 256,
vocabulary 4096 with a tied head, 4 prompts of up to 32 tokens, 4 completions of up to 96 tokens each, float32,
GRPO with a k3 penalty towards a frozen reference, AdamW, one update a batch, a reward in Python on text.
All goes through the functions that a run goes through; what a run adds are data pipelines, logs and
checkpoints. `compare_step.py` runs this and another program in turn.

The phases are waited for one by one, which a run does not do: there the reference is scored while the rewards
are computed. The two first steps do not count in the medians.
"""

import argparse
import dataclasses
import functools
import gc
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

STARTED = time.perf_counter()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.append(str(Path(__file__).resolve().parents[1]))

if TYPE_CHECKING:
    from jaxrl_tok.config.schema import Run
    from jaxrl_tok.rewards.pool import RewardPool
    from jaxrl_tok.train.build import Build
    from jaxrl_tok.types import Prompts, TrainState

VOCAB, PAD, END = 4096, 0, 2
PROMPTS, GROUP, PROMPT, COMPLETION = 4, 4, 32, 96
LAYERS = 4
UNCOUNTED = 2  # first steps, which compile
PHASES = ("rollout", "reward", "ref", "train")


def even_share(prompts: list[str], completions: list[str]) -> list[float]:
    """Returns which share of each completion's token ids is even."""
    ids = [[int(word) for word in text.split()] for text in completions]
    return [sum(i % 2 == 0 for i in row) / max(len(row), 1) for row in ids]


def configuration(unroll: int = 1, remat: str = "dots") -> "Run":
    """Returns the run: what a run file with these values would give."""
    from jaxrl_tok.config.load import load_recipe
    from jaxrl_tok.config.schema import Run

    model = {
        "layers": LAYERS, "dim": 256, "heads": 4, "kv_heads": 2, "head_dim": 64, "ffw": 1024, "vocab": VOCAB,
        "rope": {"theta": 1e6}, "qk_norm": "head",
    }  # fmt: skip
    return Run.model_validate(
        {
            "model": model,
            "recipe": load_recipe("grpo_kl"),
            "run": {"name": "bench", "dir": "runs/bench"},
            "rollout": {"prompts": PROMPTS, "group": GROUP, "max_prompt": PROMPT, "max_tokens": COMPLETION},
            "warmup": {"recipe": load_recipe("sft")},
            "optimizer": {"learning_rate": 1e-3, "weight_decay": 1e-4, "clip_norm": float("inf")},
            "train": {"unroll": unroll, "remat": remat},
            "mesh": {"data": 1},
            "eval": {"prompts": 0},
        }
    )


@dataclasses.dataclass
class Bench:
    """What a step needs, and its state."""

    built: "Build"
    pool: "RewardPool"
    decode: Callable[[Any], list[str]]
    state: "TrainState"
    tokens: int = 0


def prompts() -> "Iterator[Prompts]":
    """Gives random prompts without end."""
    import numpy as np

    from jaxrl_tok.types import Prompts

    rng = np.random.default_rng(0)
    ids = np.arange(PROMPTS, dtype=np.int32)
    while True:
        tokens = np.full((PROMPTS, PROMPT), PAD, np.int32)
        tokens[:, 1:] = rng.integers(3, VOCAB, (PROMPTS, PROMPT - 1))
        yield Prompts(tokens, np.full(PROMPTS, PROMPT - 1, np.int32), ids)
        ids = ids + np.int32(PROMPTS)


def take_step(bench: Bench, asked: "Prompts", step: int, lap: Callable[[str, Any], Any]) -> None:
    """Takes a step as the loop does; `lap(name, arrays)` waits for the arrays and ends a phase."""
    import numpy as np

    from jaxrl_tok.sharding.place import shard_batch, to_host
    from jaxrl_tok.train.parts import sampling
    from jaxrl_tok.train.programs import TRAIN

    built, stage, mesh = bench.built, bench.built.main, bench.built.mesh
    placed = shard_batch((asked, sampling(built.run, PROMPTS)), mesh)
    rollouts = built.rollout(bench.state.params, *placed, np.int32(TRAIN), np.int32(step)).rollouts
    host = lap("rollout", to_host(rollouts))
    texts = bench.decode(host)
    bench.tokens = int(host.mask.sum())
    rewards = lap("reward", bench.pool.score([""] * len(texts), texts))
    reference = lap("ref", built.score(bench.state.ref_params, placed[0], rollouts, None, built.filtered))
    given = {"rewards": rewards.rewards, "valid": rewards.valid}
    fields = shard_batch({name: x.reshape(PROMPTS, GROUP) for name, x in given.items()}, mesh)
    fields |= {"tokens": rollouts.tokens, "mask": rollouts.mask, "truncated": rollouts.truncated}
    fields |= {"sampler_logprobs": rollouts.sampler_logprobs, "ref_logprobs": reference.logprobs}
    fields |= {"prompt_ids": placed[0].ids, "progress": np.float32(0), "step": np.int32(step)}
    batch, _ = stage.assemble(bench.state.method_state, placed[0], fields, rollouts.temperature, None)
    bench.state, metrics = stage.update(bench.state, batch, np.int32(0))
    metrics = lap("train", to_host(metrics))
    assert abs(metrics["sampling/importance_sampling_ratio/max"] - 1) < 1e-3  # on policy, or the numbers mean nothing


def measure(bench: Bench, steps: int) -> list[dict[str, float]]:
    """Takes steps; returns the seconds of each phase, by the clock and of processor time."""
    import jax

    rows: list[dict[str, float]] = []
    batches = prompts()

    def lap(row: dict[str, float], name: str, value: Any) -> Any:
        jax.block_until_ready(value)
        clock, processor = time.perf_counter(), time.process_time()
        row[name], row[f"{name}_cpu"] = clock - row.pop("clock"), processor - row.pop("processor")
        row["clock"], row["processor"] = clock, processor
        return value

    for step in range(1, steps + 1):
        row = {"clock": time.perf_counter(), "processor": time.process_time()}
        take_step(bench, next(batches), step, functools.partial(lap, row))
        if step == 1:
            print(f"time process start -> first step done: {time.perf_counter() - STARTED:.1f} s", flush=True)
        row["step"] = sum(row[phase] for phase in PHASES)
        rows.append(row | {"tokens": bench.tokens})
    return rows


def report(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Returns the medians under the names that other programs' benchmarks use."""
    counted = rows[UNCOUNTED:] or rows

    def median(key: str) -> float:
        return statistics.median(row[key] for row in counted)

    return {
        "step_s_first": rows[0]["step"],
        "step_s_median": median("step"),
        "steps": len(rows),
        **{f"{phase}_s": median(phase) for phase in PHASES},
        "rollout_tok_s": statistics.median(row["tokens"] / row["rollout"] for row in counted),
        "train_completion_tok_s": statistics.median(row["tokens"] / row["train"] for row in counted),
        "best": {f"{phase}_s": min(row[phase] for row in counted) for phase in ("step", *PHASES)},
        "cpu_seconds_median": {phase: median(f"{phase}_cpu") for phase in PHASES},
        "cpu_seconds_best": {phase: min(row[f"{phase}_cpu"] for row in counted) for phase in PHASES},
        **{f"first_{phase}_s": rows[0][phase] for phase in PHASES},
        "peak_rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def run(steps: int, unroll: int = 1, remat: str = "dots") -> dict[str, Any]:
    """Builds everything, in the order of a run, and measures."""
    from jaxrl_tok.rewards.pool import RewardPool, RewardSpec

    folder = Path(__file__).resolve().parent
    with RewardPool([RewardSpec("even_share", "bench_step:even_share")], paths=[folder]) as pool:
        from jaxrl_tok.io.tokenizer import Tokenizer
        from jaxrl_tok.train.build import build, init_state
        from jaxrl_tok.train.evaluate import completion_texts

        class Integers(Tokenizer):
            """Ids as words."""

            eos_ids, pad_id, size = (END,), PAD, VOCAB

            def encode(self, text: str) -> list[int]:
                return [int(word) for word in text.split()]

            def decode(self, ids: list[int]) -> str:
                return " ".join(map(str, ids))

            def render(self, prompt: Any) -> list[int]:
                return self.encode(prompt)

            def save(self, folder: str | Path) -> None:
                raise NotImplementedError

        tokenizer = Integers()
        imported = time.perf_counter()
        built = build(configuration(unroll, remat), tokenizer)
        state = init_state(built)
        bench = Bench(built, pool, functools.partial(completion_texts, tokenizer=tokenizer), state)
        ready = time.perf_counter()
        rows = measure(bench, steps)
        return {"import_s": imported - STARTED, "build_s": ready - imported} | report(rows)


def main() -> None:
    """Measures, prints the result as JSON and writes it to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--unroll", type=int, default=1, help="layers compiled side by side")
    parser.add_argument("--remat", default="dots", help="what the backward pass computes again")
    parser.add_argument("--json", type=Path, help="file for the result")
    options = parser.parse_args()
    gc.set_threshold(50_000, 20, 100)  # as the command does
    result = run(options.steps, options.unroll, options.remat)
    text = json.dumps(result, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
