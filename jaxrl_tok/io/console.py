"""What a person at the terminal sees: a bar with the time left, a line a step, tables, warnings."""

import sys
from collections.abc import Iterable, Mapping
from io import TextIOBase
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from jaxrl_tok.io.metrics import Completion

# Metric, label, how its value is shown. A step without the metric has no such field.
FIELDS = (
    ("reward", "reward", "{:.3f}"),
    ("frac_trainable", "trainable", "{:.0%}"),
    ("completions/clipped_ratio", "truncated", "{:.0%}"),
    ("loss", "loss", "{:.4f}"),
    ("entropy", "entropy", "{:.3f}"),
    ("kl", "kl", "{:.4f}"),
    ("clip_ratio/region_mean", "clipped", "{:.2%}"),
    ("perf/tokens_per_second", "tok/s", "{:,.0f}"),
)
WIDTH_OF_A_FILE = 120  # characters; where the output is no terminal that has a width


def step_line(stage: str, step: int, total: int, metrics: Mapping[str, Any]) -> str:
    """Returns a step in one line: `rl 12/200 | reward 0.431 | ... | held-out greedy 52.0% avg@8 47.1%`."""
    parts = [f"{stage} {step:>{len(str(total))}}/{total}"]
    for name, label, form in FIELDS:
        if name in metrics:
            parts.append(f"{label} {form.format(float(metrics[name]))}")
    held_out = [f"{name[5:]} {float(metrics[name]):.1%}" for name in metrics if name.startswith("eval/")]
    if held_out:
        parts.append(f"held-out {' '.join(held_out)}")
    return " | ".join(parts)


class RunConsole:
    """Prints a run's progress; the bar, the colours and the control codes only where a terminal reads them.

    Args:
        file: standard output if None.
    """

    def __init__(self, file: TextIOBase | None = None):
        out: Any = file or sys.stdout
        width = None if out.isatty() else WIDTH_OF_A_FILE
        self._console = Console(file=out, width=width, highlight=False, markup=False, emoji=False)
        self._bar: Progress | None = None
        self._stage, self._total = "", 0
        self._warned: set[str] = set()

    def __enter__(self) -> "RunConsole":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stage(self, name: str, total: int, done: int = 0) -> None:
        """Begins a stage of `total` steps, of which `done` are behind us, with a bar of its own."""
        self.close()
        self._stage, self._total = name, total
        if self._console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                _Speed(),
                TimeRemainingColumn(),
            )
            # A long period: a step may take minutes, and the first one compiles.
            self._bar = Progress(
                *columns,
                console=self._console,
                transient=True,
                refresh_per_second=4,
                speed_estimate_period=3600,
            )
            self._bar.add_task(name, total=total, completed=done)
            self._bar.start()

    def step(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Prints the line of a step and moves the bar to it."""
        self.print(step_line(self._stage, step, self._total, metrics))
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=step)

    def print(self, line: str, style: str = "") -> None:
        """Prints one line above the bar."""
        self._console.print(Text(visible(line), style=style), soft_wrap=True)

    def warn(self, kind: str, line: str) -> None:
        """Prints a warning, the first time that one of this kind is given."""
        if kind not in self._warned:
            self._warned.add(kind)
            self.print(f"warning: {line}", style="yellow")

    def table(self, step: int, completions: Iterable[Completion]) -> None:
        """Prints completions with their reward and advantage."""
        table = Table(title=f"step {step}", title_justify="left", show_lines=True, expand=True)
        table.add_column("prompt", ratio=2, overflow="fold")
        table.add_column("completion", ratio=5, overflow="fold")
        table.add_column("reward", justify="right")
        table.add_column("advantage", justify="right")
        for row in completions:
            reward = row.outcome if row.reward is None else f"{row.reward:.2f}"
            advantage = "" if row.advantage is None else f"{row.advantage:+.2f}"
            cut = " (cut off)" if row.truncated else ""
            table.add_row(
                Text(visible(shorten(row.prompt, 200))),
                Text(visible(shorten(row.completion, 600)) + cut),
                Text(reward),
                Text(advantage),
            )
        self._console.print(table)

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def visible(text: str) -> str:
    """Returns the text on one line, with what is no printable character as its escape.

    A model may write anything, control codes that rewrite the terminal or reorder the line among it.
    """
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def shorten(text: str, most: int) -> str:
    """Returns the text, its middle left out if it is longer than `most`: answers stand at the end."""
    if len(text) <= most:
        return text
    head = most // 3
    return f"{text[:head]} [{len(text) - most} characters] {text[len(text) - (most - head) :]}"


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.2f} it/s" if speed >= 1 else f"{1 / speed:.1f} s/it")
