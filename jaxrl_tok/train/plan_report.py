"""A plan as a person reads it: tables, a bar of a chip's memory, and a verdict."""

import dataclasses
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from jaxrl_tok.config.derived import parameters
from jaxrl_tok.config.schema import Run
from jaxrl_tok.rollouts import IN_SLOTS
from jaxrl_tok.sharding.mesh import batch_shards
from jaxrl_tok.train import plan_numbers as numbers
from jaxrl_tok.train.build import Build
from jaxrl_tok.train.chips import GIB
from jaxrl_tok.train.plan import Compiled, compile_step, host_memory, slots_and_rounds
from jaxrl_tok.train.topology import Topology

BAR = 60  # characters
# The parts of the bar: a letter, which tells them apart where there are no colours, and a colour.
DRAWN = {
    "parameters": ("P", "blue"),
    "optimizer": ("O", "cyan"),
    "reference": ("R", "magenta"),
    "methods": ("M", "white"),
    "keys and values": ("K", "green"),
    "temporaries": ("T", "yellow"),
    "batch": ("B", "red"),
    "results, code": ("C", "white"),
}
WIDTH_OF_A_FILE = 120  # characters; where the output is no terminal that has a width


@dataclasses.dataclass(frozen=True)
class Plan:
    """What there is to say."""

    built: Build
    place: Topology
    compiled: list[Compiled]
    seconds: float
    host: int  # bytes of this machine's memory that it took
    share: float  # of the peak that products are taken to reach

    @property
    def hbm(self) -> int:
        """Bytes that programs may use on a chip; of CPUs, a part of this machine's memory each."""
        if self.place.chip is not None:
            return self.place.chip.hbm
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // self.built.mesh.size

    @property
    def worst(self) -> Compiled:
        """The program that needs most; before all, one that could not be compiled for want of memory."""
        return max(self.compiled, key=lambda one: (bool(one.error), one.total))

    @property
    def fits(self) -> bool:
        """Whether everything that lives while a program runs is less than a chip has."""
        return not self.worst.error and self.worst.total <= self.hbm


def plan(path: Path, sets: Sequence[str], where: str, share: float) -> Plan:
    """Compiles a run's programs for a topology; see `compile_step`."""
    start = time.perf_counter()
    built, place, compiled = compile_step(path, sets, where)
    return Plan(built, place, compiled, time.perf_counter() - start, host_memory(), share)


def show(found: Plan, console: Console | None = None) -> None:
    """Prints a plan on the terminal, or to a file without control codes."""
    if console is None:
        console = Console(highlight=False, markup=False, emoji=False)
        if not console.is_terminal:
            console = Console(highlight=False, markup=False, emoji=False, width=WIDTH_OF_A_FILE)
    console.print(Group(*report(found)))


def report(found: Plan) -> list[RenderableType]:
    """Returns the parts of the report, the verdict last."""
    parts: list[RenderableType] = [*_head(found), Text(), *_memory(found), Text(), _programs(found)]
    sums = numbers.sums(found.compiled)
    if sums:
        parts += [Text(), _collectives(sums)]
    if found.place.chip is not None and not any(one.error for one in found.compiled):
        parts += [Text(), *_times(found)]
    wrong = numbers.checks(found.built, found.compiled)
    parts += [Text(), *(Text(f"check: {line}", "yellow") for line in wrong)]
    if not wrong and not found.worst.error:
        parts.append(Text("checks: no parameter is whole that a rule splits, no head or embedding is gathered whole,"))
        counted = "arguments, keys and values" if found.built.method is None else "arguments"
        parts.append(Text(f"  and {counted} are within 2 % of a count by hand"))
    return [*parts, Text(), *_verdict(found)]


def _head(found: Plan) -> list[Text]:
    run, mesh = found.built.run, found.built.mesh
    axes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items() if size > 1) or "one device"
    size = parameters(run.model, found.built.base.vocab)  # type: ignore[arg-type]
    shape, cuts = run.rollout, run.train.microbatches
    return [
        Text(f"{run.run.name} on {found.place.text}: {mesh.size} chips, {axes}", "bold"),
        Text(
            f"{run.model.name}, {size / 1e9:.3f} billion parameters; {shape.prompts} prompts x {shape.group} "
            f"completions of {shape.max_prompt} + {shape.max_tokens} tokens, {cuts} microbatch{'es' * (cuts > 1)}"
        ),
        *(Text(line) for line in numbers.assumptions(found.built)),
        Text(f"compiled in {found.seconds:.0f} s with {found.host / GIB:.1f} GiB of this machine's memory"),
    ]


def segments(found: Plan) -> dict[str, int]:
    """Returns the bytes of a chip at the peak of the step, by what they hold; their sum is the peak."""
    worst = found.worst
    state = numbers.state_bytes(found.built.main.template)
    cache = numbers.cache_found(found.built, worst) if worst.name == "rollout" else 0
    others = max(0, worst.arguments + worst.held - sum(state.values()))
    rest = {"keys and values": cache, "temporaries": worst.temporary - cache, "batch": others}
    parts = state | rest | {"results, code": worst.results + worst.code}
    return {name: size for name, size in parts.items() if size > 0}


def _memory(found: Plan) -> list[RenderableType]:
    state = numbers.state_bytes(found.built.main.template)
    by_name = {one.name: one for one in found.compiled if not one.error}
    rows = [*state.items()]
    if "rollout" in by_name and found.built.method is None:
        rows.append(("keys and values, in rollout", numbers.cache_found(found.built, by_name["rollout"])))
    rows += [(f"temporaries of {name}", one.temporary) for name, one in by_name.items() if one.temporary > 0.001 * GIB]
    table = _table("memory of a chip", "GiB", "of it")
    for name, size in rows:
        table.add_row(name, f"{size / GIB:.2f}", f"{size / found.hbm:.1%}")
    if found.worst.error:
        return [table]
    table.add_row(
        f"peak, in {found.worst.name}", f"{found.worst.total / GIB:.2f}", f"{found.worst.total / found.hbm:.1%}"
    )
    table.add_row("there is", f"{found.hbm / GIB:.2f}", "")
    return [table, Text(), *bar(segments(found), found.hbm)]


def bar(parts: dict[str, int], whole: int) -> list[Text]:
    """Returns a bar of what fills a chip, and its legend; what is too much goes on after the end of the chip."""
    scale = max(whole, sum(parts.values()))
    line, legend, drawn, before = Text("|"), Text(" "), 0, 0
    for name, size in parts.items():
        letter, colour = DRAWN[name]
        before += size
        end = round(BAR * before / scale)
        line.append(letter * (end - drawn), f"{colour} reverse")
        legend.append(f"{letter} {name}  ", colour)
        drawn = end
    line.append("." * (BAR - drawn))
    end = round(BAR * whole / scale)
    return [Text.assemble(line[: end + 1], "|", line[end + 1 :]), legend]


def _programs(found: Plan) -> Table:
    table = _table(
        "program, GiB of a chip", "calls", "arguments", "results", "temporaries", "held beside", "all", "s to compile"
    )
    for one in found.compiled:
        sizes = (one.arguments, one.results, one.temporary, one.held, one.total)
        cells = (
            [f"{size / GIB:.2f}" for size in sizes]
            if not one.error
            else [*["-"] * 3, f"{one.held / GIB:.2f}", "too much"]
        )
        table.add_row(one.name, str(one.calls), *cells, f"{one.seconds:.0f}")
    return table


def _collectives(sums: dict[str, tuple[int, float, float]]) -> Table:
    table = _table("collectives of a chip in a step", "count", "GiB put in", "GiB sent")
    for kind, (count, put, moved) in sums.items():
        table.add_row(kind, f"{count:,}", f"{put / GIB:.2f}", f"{moved / GIB:.2f}")
    return table


def _times(found: Plan) -> list[RenderableType]:
    assert found.place.chip is not None
    work = [one for one in numbers.work(found.built, found.compiled, found.place.chip) if one.seconds() > 0]
    table = _table(
        "least seconds of a step",
        "TFLOP of a chip",
        "products",
        "HBM",
        "links",
        "roofline",
        f"at {found.share:.0%} MFU",
    )
    for one in work:
        times = (one.compute, one.memory, one.links, one.seconds(), one.seconds(found.share))
        table.add_row(one.name, f"{one.flops / 1e12:,.1f}", *(f"{t:,.2f}" for t in times))
    least, likely = step_seconds(work, 1.0), step_seconds(work, found.share)
    sampled = found.built.method is None
    table.add_row(
        "step" if sampled else "step less rollout",
        f"{sum(one.flops for one in work) / 1e12:,.1f}",
        *[""] * 3,
        f"{least:,.2f}",
        f"{likely:,.2f}",
    )
    tokens = numbers.tokens(found.built.run) / found.built.mesh.size
    speed = Text(
        f"sampled tokens/s/chip: at most {tokens / least:,.0f}; {tokens / likely:,.0f} where products reach "
        f"{found.share:.0%} of the peak (MFU)"
    )
    return [
        table,
        *([speed] if sampled else []),
        Text("computed, not measured: no latency, no waiting for rewards, every completion as long as it may be"),
    ]


def step_seconds(work: list[numbers.Work], share: float) -> float:
    """Returns the seconds of a step, its programs one after the other."""
    return sum((one.seconds(share) for one in work), 0.0)


def _verdict(found: Plan) -> list[Text]:
    worst, hbm = found.worst, found.hbm / GIB
    if found.fits:
        share = worst.total / found.hbm
        return [
            Text(
                f"fits: {worst.total / GIB:.2f} of {hbm:.2f} GiB at the peak, in {worst.name} ({share:.0%})",
                "bold green",
            )
        ]
    if worst.error:
        lines = [
            f"does not fit: {one.name}: {_reason(one.error)}; beside it the run holds {one.held / GIB:.2f} GiB"
            for one in found.compiled
            if one.error
        ]
    else:
        lines = [f"does not fit: {worst.total / GIB:.2f} of {hbm:.2f} GiB at the peak, in {worst.name}"]
    return [*(Text(line, "bold red") for line in lines), *(Text(f"  change {one}") for one in advice(found))]


def _reason(error: str) -> str:
    """The compiler's own words, without the status before them."""
    return error.splitlines()[0].removeprefix("RESOURCE_EXHAUSTED: ").rstrip(".")[:200]


def advice(found: Plan) -> list[str]:
    """Returns what to change so that a run fits, what costs least first."""
    built, run = found.built, found.built.run
    state = sum(numbers.state_bytes(built.main.template).values())
    if state > found.hbm:
        chips = math.ceil(state * built.mesh.size / found.hbm)
        ways = [
            f"--topology to more chips: parameters, optimizer and reference alone are {state / GIB:.2f} GiB a chip "
            f"of {found.hbm / GIB:.2f}; split over all by mesh.fsdp and mesh.tensor, they fill {chips} chips"
        ]
        ways += ['train.param_dtype to "bfloat16": half of it'] if run.train.param_dtype == "float32" else []
        ways += ["lora.rank to 16: optimizer of the adapters alone, and no reference"] if not run.lora.rank else []
        return ways
    ways = {"rollout": _for_rollouts, "update": _for_updates}.get(found.worst.name, _for_scores)(built, run)
    ways.append("mesh.tensor to more: a smaller part of each layer, head and cache on a chip")
    ways += ['train.param_dtype to "bfloat16": half the state'] if run.train.param_dtype == "float32" else []
    return [*ways, "--topology to more chips"]


def _for_rollouts(built: Build, run: Run) -> list[str]:
    how = built.main.recipe.rollout
    if how is not None and how.name not in IN_SLOTS:
        return ["rollout.prompts to fewer: what completions go on from is kept for all of them, whatever rollout.slots"]
    slots, _ = slots_and_rounds(built)
    if slots == 1:
        return ["rollout.max_tokens to less: each chip decodes one completion at a time already"]
    fewer = slots // 2 * batch_shards(built.mesh)
    return [f"rollout.slots to {fewer}: half as many keys and values at a time, and twice the time of decoding"]


def _for_updates(built: Build, run: Run) -> list[str]:
    train, shards = run.train, batch_shards(built.mesh)
    ways = ['train.remat to "full": activations of one layer at a time'] if train.remat != "full" else []
    most = run.rollout.prompts // train.minibatches // shards
    if more := [n for n in range(train.microbatches + 1, most + 1) if most % n == 0]:
        return [*ways, f"train.microbatches to {more[0]}: the activations of fewer completions at a time"]
    return [*ways, "mesh.sequence to 2: one prompt and its group a chip is the least, which this cuts by position"]


def _for_scores(built: Build, run: Run) -> list[str]:
    if run.rollout.prompts > batch_shards(built.mesh):
        return ["mesh.fsdp to more: a scoring pass takes all completions of a chip at once"]
    return ["mesh.sequence to 2: one prompt and its group a chip is the least, which this cuts by position"]


def _table(*names: str) -> Table:
    """A table of numbers, the first column of names."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for i, name in enumerate(names):
        table.add_column(name, justify="right" if i else "left", no_wrap=True)
    return table
