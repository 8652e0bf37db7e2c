"""Trains several recipes on the same task from the same seeds, and prints their curves side by side.

    tools/run python tools/compare_recipes.py [credit | rollouts] [--seeds 0,1,2] [--jobs 1] [--set KEY=VALUE]

`credit` compares recipes that sample alike, step by step. `rollouts` compares ways to sample, each with the settings of
the command at the top of its recipe, at equal numbers of sampled tokens: what branches share counts once, rollouts for
values count too. Its columns are tokens, and in each stands the evaluation nearest to it.

Each pair of recipe and seed is a run of its own, in a folder of --out; the same command goes on with what is not
finished, and only prints the tables once all are. Runs of one seed have the same warm start and the same questions.
Accuracies are in percent; after them stands the spread over the seeds, the largest less the smallest. On two cores a
run takes about three minutes.
"""

import argparse
import concurrent.futures
import itertools
import json
import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxrl_tok.config.load import known

COMPARISONS = {
    "credit": ("grpo", "dapo", "tempo", "beyond_80_20", "dcpo", "gspo"),
    "rollouts": ("grpo", "tempo", "spo_tree", "spo_chain", "latr", "cure", "dars", "anytime_reasoner"),
}
TOKENS = 300_000  # that each run of `rollouts` samples: 120 steps of the quickstart's grpo
MARKS = 4  # columns of tokens behind the one of the start
Curve = dict[int, dict[str, float]]  # what was measured, by step or by sampled tokens


def settings(recipe: str) -> list[str]:
    """Returns what the command at the top of a recipe's file sets."""
    path = known("recipes").get(recipe)
    if path is None:
        return [f"recipe={recipe}"]  # the run says what is wrong with it
    command = next(line for line in path.read_text().splitlines() if "jaxrl-tok train" in line)
    words = shlex.split(command.removeprefix("#"))
    return [value for flag, value in itertools.pairwise(words) if flag == "--set"]


def train(run: str, folder: Path, recipe: str, seed: int, sets: Sequence[str]) -> int:
    """Runs one training to its end in a process of its own; returns the exit status."""
    given = [*settings(recipe), f"run.seed={seed}", f"run.dir={folder}", "run.trackers=[]", *sets]
    command = [sys.executable, "-m", "jaxrl_tok", "train", run]
    command += [word for setting in given for word in ("--set", setting)]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{folder}.log", "a") as log:
        return subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode


def curve(folder: Path, by: str = "step") -> Curve:
    """Returns the evaluations of a run, in percent, and the entropy of the step, by one of its metrics."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kept = {}
    for row in rows:
        found = {name: 100 * value for name, value in row.items() if name.startswith("eval/")}
        if found:
            kept[int(row.get(by, 0))] = found | {"entropy": row.get("entropy", float("nan"))}
    return kept


def at_marks(found: Curve, tokens: int) -> Curve:
    """Returns the evaluations nearest to the start, to the end after `tokens`, and to what lies evenly between."""
    marks = [tokens * i // MARKS for i in range(MARKS + 1)]
    return {mark: found[min(found, key=lambda at: abs(at - mark))] for mark in marks}


def table(curves: dict[str, list[Curve]], name: str) -> str:
    """Renders one measure: a row a recipe, a column an evaluation, mean over the seeds and spread."""
    steps = sorted(next(iter(curves.values()))[0])
    lines = [f"| {name.removeprefix('eval/')} | {' | '.join(map(str, steps))} | gain | gain, by seed |"]
    lines.append("|---" * (len(steps) + 3) + "|")
    for recipe, found in curves.items():
        cells = [[one[step][name] for one in found] for step in steps]
        gains = [end - start for start, end in zip(cells[0], cells[-1], strict=True)]
        each = ", ".join(f"{gain:+.1f}" for gain in gains)
        means = " | ".join(f"{statistics.mean(cell):.1f} ({max(cell) - min(cell):.1f})" for cell in cells)
        lines.append(f"| {recipe} | {means} | {statistics.mean(gains):+.1f} | {each} |")
    return "\n".join(lines)


def main() -> int:
    """Trains what is not finished and prints the tables; returns 1 if a run failed."""
    parser = argparse.ArgumentParser(description="Trains several recipes from the same seeds and compares them.")
    parser.add_argument("comparison", nargs="?", choices=COMPARISONS, default="credit")
    parser.add_argument("--run", default="configs/runs/quickstart.toml", help="the run file")
    parser.add_argument("--recipes", help="comma-separated, in place of the comparison's own")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="sampled by each run of `rollouts`")
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated")
    parser.add_argument("--out", help="folder of the runs; runs/compare_COMPARISON")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE", help="for every run")
    options = parser.parse_args()
    recipes = options.recipes.split(",") if options.recipes else COMPARISONS[options.comparison]
    by_tokens = options.comparison == "rollouts"
    # More steps than any takes, and no more than there are questions for.
    ends = ["run.steps=900", f"run.max_sampled_tokens={options.tokens}", "eval.every=5"] if by_tokens else []
    out = Path(options.out or f"runs/compare_{options.comparison}")
    seeds = [int(seed) for seed in options.seeds.split(",")]
    folders = {(r, s): out / f"{r}-{s}" for s in seeds for r in recipes}
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as workers:
        ran = {
            pair: workers.submit(train, options.run, folder, *pair, [*ends, *options.sets])
            for pair, folder in folders.items()
        }
    failed = [f"{folders[pair]}.log" for pair, future in ran.items() if future.result() != 0]
    if failed:
        print(f"failed: see {', '.join(failed)}", file=sys.stderr)
        return 1
    by = "num_sampled_tokens" if by_tokens else "step"
    curves = {recipe: [curve(folders[recipe, seed], by) for seed in seeds] for recipe in recipes}
    if by_tokens:
        curves = {recipe: [at_marks(one, options.tokens) for one in found] for recipe, found in curves.items()}
    names = dict.fromkeys(name for one in curves[recipes[0]] for name in one[min(one)] if name != "entropy")
    print("\n\n".join(table(curves, name) for name in names))
    return 0


if __name__ == "__main__":
    sys.exit(main())
