"""Times every method of the catalogue on 64 groups of 16 completions of 1024 tokens, compiled.

    python tools/bench_methods.py [--only NAME,...] [--rounds 10] [--verl]

Prints a row a method: median and best of the rounds, the limit that holds for its kind, temporaries. Limits: 50 ms
for what stays within a group or a row, 80 ms for the tree of prefixes, 150 ms for what looks over the whole batch (it
has an `axis_name`, or a `prepare`, which is timed with it). All take turns in a round, so that a noisy moment hits all.
--verl also times the functions of the installed verl on the same arrays.
"""

import argparse
import functools
import importlib
import inspect
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1]))

P, G, T = 64, 16, 1024
B = P * G
STEPS, NODES, SIZE, VOCABULARY, BUDGETS = 16, 64, 8, 8, 4
Arrays = dict[str, Any]


def assemble_arrays() -> Arrays:
    """Returns arrays of the assemble stage: shared prefixes of 300 tokens, ragged lengths."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 50, (P, G, T)).astype(np.int32)
    tokens[:, :, :300] = tokens[:, :1, :300]
    mask = np.arange(T) < rng.integers(500, T + 1, (P, G, 1))
    segments = np.where(mask, np.arange(T) * STEPS // T, -1).astype(np.int32)
    parents = np.maximum((np.arange(NODES) - 1) // 2, -1).astype(np.int32)
    flags = {name: mask & (rng.random((P, G, T)) < 0.1) for name in ("boundaries", "planning")}
    return _tokens(rng, (P, G, T)) | flags | {
        "tokens": tokens, "mask": mask, "valid": np.ones((P, G), bool), "truncated": ~mask[:, :, -1],
        "finished": mask[:, :, -1], "prompt_ids": np.arange(P, dtype=np.int32), "progress": np.float32(0.5),
        "step": np.int32(3), "rewards": rng.integers(0, 2, (P, G)).astype(np.float32),
        "reward_parts": rng.random((P, G, 2)), "greedy_rewards": rng.random(P), "segment_ids": segments,
        "state_values": rng.random((P, G, STEPS + 1)), "step_rewards": rng.random((P, G, STEPS)),
        "step_mask": np.ones((P, G, STEPS), bool), "step_states": rng.integers(0, 9, (P, G, STEPS)).astype(np.int32),
        "wrong_steps": rng.random((P, G, 4, STEPS)) < 0.2, "item_rewards": rng.random((P, G, STEPS)),
        "budget_rewards": rng.random((P, G, BUDGETS, 4)), "format_ids": rng.integers(0, 4, (P, G)).astype(np.int32),
        "node_ids": np.where(mask, segments % NODES, -1).astype(np.int32),
        "node_parents": np.broadcast_to(parents, (P, NODES)), "node_values": rng.random((P, NODES)),
        "node_rewards": rng.random((P, NODES)), "group_divergence": rng.random((P, T)),
        "hidden": rng.normal(size=(P, G, T, SIZE)), "token_errors": rng.normal(size=(P, G, T, VOCABULARY)),
        "last_token_score": rng.random((P, G)),
    }  # fmt: skip


def step_arrays() -> Arrays:
    """Returns arrays of the step stage, as rows."""
    rng = np.random.default_rng(1)
    mask = np.arange(T) < rng.integers(500, T + 1, (B, 1))
    return _tokens(rng, (B, T)) | {
        "mask": mask, "valid": np.ones(B, bool), "planning": mask & (rng.random((B, T)) < 0.1),
        "finished": mask[:, -1], "segment_ids": np.where(mask, np.arange(T) * STEPS // T, -1).astype(np.int32),
        "rewards": rng.integers(0, 2, B).astype(np.float32), "last_token_score": rng.random(B),
        "expert_balance": 1 + rng.random(B),
        "low": np.full((B, T), 0.8), "high": np.full((B, T), 1.28), "progress": np.float32(0.5), "step": np.int32(3),
    }  # fmt: skip


def _tokens(rng: np.random.Generator, shape: tuple[int, ...]) -> Arrays:
    old = -rng.exponential(1.0, shape)
    positive = ["old_entropy", "entropy", "token_rewards", "hellinger", "kl_to_ref", "js_to_ref", "sum_p2", "lse"]
    positive += ["attention_distance", "attention_received", "attention_flow", "attention_entropy", "multiplicity"]
    positive += ["token_weights", "priority"]
    signed = ["values", "old_values", "returns", "advantages", "target_logit", "sum_logits", "max_logit", "loss"]
    signed += ["proxy_rewards"]
    near = ["logprobs", "sampler_logprobs", "ref_logprobs", "context_logprobs", "proxy_logprobs", "dpo_logprobs"]
    near += ["prm_logprobs"]
    arrays = {name: rng.random(shape) + 0.01 for name in positive} | {name: rng.normal(size=shape) for name in signed}
    arrays |= {name: np.minimum(old + 0.1 * rng.normal(size=shape), 0) for name in near}
    return arrays | {"old_logprobs": old, "log_ratio": 0.1 * rng.normal(size=shape)}


def programs(only: set[str]) -> dict[tuple[str, str], tuple[Callable[[], Any], float, float]]:
    """Returns for each (slot, method) a call without arguments, its limit in ms, MiB of temporaries."""
    import jax

    from jaxrl_tok.config.bind import bind
    from jaxrl_tok.config.catalogue import rows
    from jaxrl_tok.train.recipe import REGISTRIES, supplier

    def placed(arrays: Arrays) -> Arrays:
        return {k: jax.device_put(x.astype(np.float32) if x.dtype == np.float64 else x) for k, x in arrays.items()}

    stages = {"assemble": placed(assemble_arrays()), "step": placed(step_arrays())}
    found = {}
    for row in rows(REGISTRIES, supplier):
        if only and row.name not in only:
            continue
        sized = {"vocab_size": VOCABULARY} if "vocab_size" in row.hyper else {}
        method = bind(REGISTRIES[row.slot], row.name, **sized)
        arrays = stages[row.stage.partition(" ")[0]]
        picked = {name: arrays[name] for name in method.takes if name in arrays}
        if row.slot == "reduction" and "mask" not in picked:
            picked["loss"] = picked["loss"][:, 0]
        program = jax.jit(functools.partial(_call, method)).lower(picked).compile()
        memory = program.memory_analysis()
        temporaries = memory.temp_size_in_bytes / 2**20 if memory else float("nan")
        found[row.slot, row.name] = (functools.partial(program, picked), _limit(method), temporaries)
    return found


def _call(method: Any, arrays: Arrays) -> Any:
    if method.init is not None:
        wanted = inspect.signature(method.init).parameters
        arrays = arrays | {"state": method.init(**({"num_prompts": P} if "num_prompts" in wanted else {}))}
    return method(arrays | ({} if method.prepare is None else {"prepared": _prepared(method, arrays)}))


def _prepared(method: Any, arrays: Arrays) -> Any:
    prepared = method.prepare(arrays)
    return prepared[0] if method.init is not None else prepared


def _limit(method: Any) -> float:
    across = "axis_name" in inspect.signature(method.fn).parameters
    if across or method.prepare is not None:
        return 150
    return 80 if "tokens" in method.takes else 50


def verl_programs() -> dict[tuple[str, str], tuple[Callable[[], Any], float, float]]:
    """Returns calls of verl's functions of the same methods on the same arrays, in torch."""
    torch = importlib.import_module("torch")
    core_algos = importlib.import_module("verl.trainer.ppo.core_algos")
    made, nan = assemble_arrays(), float("nan")
    mask = torch.tensor(made["mask"].reshape(B, T)).float()
    rewards = torch.zeros(B, T)
    rewards[:, -1] = torch.tensor(made["rewards"].reshape(B))
    values = torch.tensor(made["values"].reshape(B, T)).float()
    groups = np.repeat(np.arange(P).astype(str), G)
    calls: dict[str, Callable[[], Any]] = {
        "gae": lambda: core_algos.compute_gae_advantage_return(rewards, values, mask, 1.0, 0.95)
    }
    for name, function in {
        "grpo": "compute_grpo_outcome_advantage",
        "rloo": "compute_rloo_outcome_advantage",
        "opo": "compute_opo_outcome_advantage",
        "reinforce_pp_baseline": "compute_reinforce_plus_plus_baseline_outcome_advantage",
    }.items():
        calls[name] = functools.partial(getattr(core_algos, function), rewards, mask, groups)
    return {("verl", name): (call, nan, nan) for name, call in calls.items()}


def main() -> int:
    """Measures and prints; returns 1 if a median is over its limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="names of methods, comma-separated")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--verl", action="store_true", help="time verl's functions too")
    options = parser.parse_args()
    found = programs(set(options.only.split(",")) if options.only else set())
    if options.verl:
        found |= verl_programs()
    import jax

    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in found}
    for _ in range(options.rounds + 1):
        for key, (call, _, _) in found.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            seconds[key].append(time.perf_counter() - start)
    over = 0
    print(f"{'slot':14}{'method':26}{'median ms':>10}{'best ms':>9}{'limit':>7}{'temp MiB':>10}")
    for (slot, name), (_, limit, temporaries) in found.items():
        median, best = (1e3 * f(seconds[slot, name][1:]) for f in (statistics.median, min))
        over += median > limit
        mark = " over" if median > limit else ""
        print(f"{slot:14}{name:26}{median:10.1f}{best:9.1f}{limit:7.0f}{temporaries:10.0f}{mark}")
    print(f"{over} over their limit")
    return int(over > 0)


if __name__ == "__main__":
    sys.exit(main())
