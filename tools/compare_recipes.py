"""Trains several recipes on the same task from the same seeds, and prints their curves side by side.

    tools/run python tools/compare_recipes.py [--recipes grpo,dapo,...] [--seeds 0,1,2] [--jobs 1] [--set KEY=VALUE]

Each pair is a run of its own, in a folder of --out; the same command goes on with what is not finished, and only
prints the tables once all are. Runs of one seed have the same warm start and the same questions. Accuracies are in
percent; after them stands the spread over the seeds, the largest less the smallest. On two cores a run takes about
three and a half minutes.
"""

import argparse
import concurrent.futures
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

RECIPES = ("grpo", "dapo", "tempo", "beyond_80_20", "dcpo", "gspo")
Curve = dict[int, dict[str, float]]  # what was measured, by step


def train(run: str, folder: Path, recipe: str, seed: int, sets: Sequence[str]) -> int:
    """Runs one training to its end in a process of its own; returns the exit status."""
    settings = [f"recipe={recipe}", f"run.seed={seed}", f"run.dir={folder}", "run.trackers=[]", *sets]
    command = [sys.executable, "-m", "jaxrl_tok", "train", run]
    command += [word for setting in settings for word in ("--set", setting)]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{folder}.log", "a") as log:
        return subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode


def curve(folder: Path) -> Curve:
    """Returns the evaluations of a run, in percent, and the entropy of the step, by step."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kept = {}
    for row in rows:
        found = {name: 100 * value for name, value in row.items() if name.startswith("eval/")}
        if found:
            kept[row["step"]] = found | {"entropy": row.get("entropy", float("nan"))}
    return kept


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
    parser.add_argument("--run", default="configs/runs/quickstart.toml", help="the run file")
    parser.add_argument("--recipes", default=",".join(RECIPES), help="comma-separated")
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated")
    parser.add_argument("--out", default="runs/compare", help="folder of the runs")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE", help="for every run")
    options = parser.parse_args()
    recipes = options.recipes.split(",")
    seeds = [int(seed) for seed in options.seeds.split(",")]
    folders = {(r, s): Path(options.out) / f"{r}-{s}" for s in seeds for r in recipes}
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as workers:
        ran = {
            pair: workers.submit(train, options.run, folder, *pair, options.sets) for pair, folder in folders.items()
        }
    failed = [f"{folders[pair]}.log" for pair, future in ran.items() if future.result() != 0]
    if failed:
        print(f"failed: see {', '.join(failed)}", file=sys.stderr)
        return 1
    curves = {recipe: [curve(folders[recipe, seed]) for seed in seeds] for recipe in recipes}
    names = dict.fromkeys(name for one in curves[recipes[0]] for name in one[min(one)] if name != "entropy")
    print("\n\n".join(table(curves, name) for name in names))
    return 0


if __name__ == "__main__":
    sys.exit(main())
