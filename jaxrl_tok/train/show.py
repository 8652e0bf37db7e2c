"""What a run comes to, and what there is to put into a recipe's slots, as text for the terminal."""

from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path

import jax

from jaxrl_tok.config import catalogue, toml
from jaxrl_tok.config.bind import Bound, split_signature
from jaxrl_tok.config.derived import derived
from jaxrl_tok.config.load import dump_toml, load_run
from jaxrl_tok.config.schema import Run
from jaxrl_tok.errors import ConfigError, nearest
from jaxrl_tok.io.data import Data
from jaxrl_tok.models import params
from jaxrl_tok.rewards import pool
from jaxrl_tok.train.build import Build, Stage, build
from jaxrl_tok.train.recipe import (
    CRITIC_ARRAYS,
    DISTANCE_ARRAYS,
    OLD_ARRAYS,
    REFERENCE_ARRAYS,
    REGISTRIES,
    STATISTIC_ARRAYS,
    Recipe,
    supplier,
)
from jaxrl_tok.train.session import open_data


def show(path: Path, sets: Sequence[str] = ()) -> str:
    """Returns the resolved run as TOML, followed by comments, so that the whole is a run file again.

    The comments are every derived size, and for each stage what its slots read and which passes will run. All
    is checked that can be before anything is computed: devices, batches, parameters, data, recipes, and of
    the rewards what needs no import of the user's code.

    Raises:
      JaxrlTokError: training would refuse the run.
    """
    run = load_run(path, sets)
    _check_rewards(run)
    data = open_data(run)
    built = build(run, data.tokenizer, data.num_prompts, folder=path.parent)
    data.heldout(run.eval.prompts)
    stages = [stage for stage in (built.warmup, built.main) if stage.steps]
    for stage in stages:
        # Opened, it has looked whether there are enough questions.
        data.batches(stage.prompts, seed=0, items=stage.prompts * stage.steps, prefetch=0).close()
    recipes = {"warmup": run.warmup.recipe.name, "train": run.recipe.name}
    notes = [_sizes(built, data), *(_stage(stage, recipes[stage.name]) for stage in stages)]
    lines = "\n\n".join(notes).split("\n")
    return dump_toml(run) + "\n" + "\n".join(f"# {line}".rstrip() for line in lines)


def methods(reads: str | None = None) -> str:
    """Returns every method with what it reads, what it takes, what it gives and where it comes from.

    Args:
      reads: only methods that read this array.

    Raises:
      ConfigError: no method reads an array of that name.
    """
    table = catalogue.rows(REGISTRIES, supplier)
    if reads is not None:
        known = {name for row in table for name in (*row.reads, *row.optional)}
        if reads not in known:
            hint = nearest(reads, known)
            raise ConfigError(f"--reads {reads}: no method reads an array of that name; {hint}")
        table = [row for row in table if reads in (*row.reads, *row.optional)]
    slots = dict.fromkeys(row.slot for row in table)
    parts = [[slot, *(line for row in table if row.slot == slot for line in _method(row))] for slot in slots]
    return "\n\n".join("\n".join(part) for part in parts)


def _method(row: catalogue.Row) -> list[str]:
    reads = ", ".join([*row.reads, *(f"{name}?" for name in row.optional)])
    lines = [row.summary, f"{row.stage}; reads {reads}"]
    lines += [f"takes {_written(row.hyper)}"] if row.hyper else []
    lines += [f"also needs {', '.join(row.needs)}"] if row.needs else []
    lines += [f"degenerate case: {row.degenerate}"] if row.degenerate else []
    lines.append(f"fidelity: {row.fidelity}; {row.source}")
    return [f"  {row.name}", *(f"    {line}" for line in lines)]


def _written(hyper: Mapping[str, str]) -> str:
    return ", ".join(f"{key} = {value}" if value else f"{key} (to be set)" for key, value in hyper.items())


def _check_rewards(run: Run) -> None:
    specs = [pool.RewardSpec("eval", run.eval.function)] if run.eval.prompts else []
    if run.recipe.source == "rollout":
        specs += [pool.RewardSpec(name, r.function, r.weight, r.options) for name, r in run.reward.items()]
    if specs:
        pool.check(specs)


def _sizes(built: Build, data: Data) -> str:
    sizes = derived(built.run, jax.device_count(), data.tokenizer.size)
    if built.given is not None:
        sizes |= {"vocabulary": built.model.vocab, "parameters": params.count(built.specs)}
    space = data.source.space()
    if space is not None:
        sizes["different questions"] = space
    return "\n".join(["sizes", *_columns([(name, f"{size:,}") for name, size in sizes.items()])])


def _stage(stage: Stage, name: str) -> str:
    rows = [("slot", "method", "hyperparameters", "reads")]
    if stage.recipe.rollout is not None:
        rows.append(("rollout", stage.recipe.rollout.name, _hyper(stage.recipe.rollout), ""))
    if stage.recipe.sampler is not None:
        rows.append(("sampler", stage.recipe.sampler.name, _hyper(stage.recipe.sampler), ""))
    for path, bound in _slots(stage.recipe).items():
        rows.append((path, bound.name, _hyper(bound), ", ".join(_reads(stage.recipe, path, bound))))
    batch = f"{stage.prompts} prompts, {stage.group} completion{'s' * (stage.group > 1)} each"
    updates = "1 update" if stage.updates == 1 else f"{stage.updates} updates"
    title = f"{stage.name}: {stage.steps} steps of {batch}, and {updates}; recipe {name}"
    return "\n".join([title, *_columns(rows), f"  passes: {_passes(stage)}"])


def _hyper(bound: Bound) -> str:
    """A method's hyperparameters, what was set over the defaults."""
    default = catalogue.defaults(bound.fn)
    return _written({**default, **{key: toml.value(value) for key, value in bound.hyper.items()}}) or "none"


def _passes(stage: Stage) -> str:
    """Says which passes of the model a step runs besides its updates, and why."""
    recipe = stage.recipe
    rollout = "yes" if recipe.source == "rollout" else "no (trains on the data's worked answers)"
    runs = recipe.passes(stage.updates)
    if "old_logprobs" in recipe.step_reads and not runs["old"]:
        old = "no (one update a batch: costs nothing)"
    else:
        old = _answer(runs["old"], recipe, OLD_ARRAYS | STATISTIC_ARRAYS | CRITIC_ARRAYS)
    reference = _answer(runs["reference"], recipe, REFERENCE_ARRAYS)
    parts = [f"rollout {rollout}", f"old policy {old}", f"reference {reference}"]
    if runs["distances"]:
        parts.append(f"policy and reference side by side {_answer(True, recipe, DISTANCE_ARRAYS)}")
    if runs["prepare"]:
        readers = [path for path, bound in recipe.step.items() if bound.prepare is not None]
        parts.append(f"prepare, before each update, yes ({', '.join(readers)})")
    return "; ".join(parts)


def _answer(runs: bool, recipe: Recipe, arrays: Set[str]) -> str:
    if not runs:
        return "no (no slot reads it)"
    reads = [(path, name) for path, bound in _slots(recipe).items() for name in _reads(recipe, path, bound)]
    return f"yes ({', '.join(f'{path} reads {name}' for path, name in reads if name in arrays)})"


def _reads(recipe: Recipe, path: str, bound: Bound) -> list[str]:
    """Returns what a method will be given: what it needs, and of what it can do without, what there is."""
    supplied = recipe.supplied(path)
    reads, optional, _ = split_signature(bound.fn)
    return [*reads, *(name for name in optional if name in supplied)]


def _slots(recipe: Recipe) -> dict[str, Bound]:
    """Returns the filled slots by their path in the recipe, in the order in which they act."""
    return recipe.assemble | recipe.step


def _columns(rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines rows up, two spaces apart; the last column ends where it ends."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return [f"  {line.rstrip()}" for line in padded]
