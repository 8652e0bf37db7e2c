"""The table of methods, read off their signatures and docstrings."""

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxrl_tok.config.bind import companions, split_signature

Registries = Mapping[str, Mapping[str, Callable[..., Any]]]
Supplier = Callable[[str], str | None]  # of an array that the trainer does not supply

STEP_SLOTS = frozenset({"ratio", "clip", "loss", "reduction"})
STEP_ARRAYS = frozenset({"logprobs", "entropy", "log_ratio", "low", "high"})  # of the current policy
HEAD = ("method", "stage", "reads", "hyperparameters", "what it gives", "fidelity", "also needs", "degenerate case")


@dataclasses.dataclass(frozen=True)
class Row:
    """What the table says of one method."""

    slot: str
    name: str
    stage: str  # "assemble" or "step"; with "+ prepare", "+ state" for what goes with it
    reads: tuple[str, ...]
    optional: tuple[str, ...]
    hyper: Mapping[str, str]  # name -> default as written, "" for one that must be set
    summary: str
    source: str  # link to the paper, "" for a method without one
    fidelity: str  # "code", "paper" or "reconstructed", and what more there is to say
    needs: tuple[str, ...]  # what the trainer would have to have, and has not
    degenerate: str


def rows(registries: Registries, supplier: Supplier) -> list[Row]:
    """Returns one row a method, in the order of the slots and of each slot's registry.

    An advantage that reads advantages belongs to the slot `reshape`, the others to `advantage`.
    """
    table = [_row(slot, name, fn, supplier) for slot, methods in registries.items() for name, fn in methods.items()]
    wrong = {"advantage": True, "reshape": False}
    return [row for row in table if wrong.get(row.slot) is not ("advantages" in row.reads)]


def markdown(table: list[Row]) -> str:
    """Renders rows as one Markdown table a slot."""
    lines: list[str] = []
    for slot in dict.fromkeys(row.slot for row in table):
        lines += [f"## {slot}", "", _cells(HEAD), _cells(["---"] * len(HEAD))]
        lines += [_markdown_row(row) for row in table if row.slot == slot]
        lines.append("")
    return "\n".join(lines)


def in_step(slot: str, fn: Callable[..., Any]) -> bool:
    """Says whether a slot's method acts inside the gradient; a token weight may, by what it reads."""
    if slot != "token_weight":
        return slot in STEP_SLOTS
    reads, optional, _ = split_signature(fn)
    return "prepare" in companions(fn) or bool(STEP_ARRAYS & {*reads, *optional})


def defaults(fn: Callable[..., Any]) -> dict[str, str]:
    """Returns a method's hyperparameters and their defaults as a recipe would write them; "" for one to be set."""
    hyper = split_signature(fn).hyper
    return {key: "" if p.default is p.empty else _written(p.default) for key, p in hyper.items()}


def _row(slot: str, name: str, fn: Callable[..., Any], supplier: Supplier) -> Row:
    reads, optional, _ = split_signature(fn)
    doc = inspect.getdoc(fn) or ""
    link = re.search(r"https://arxiv\.org/abs/[\w.]+\d", doc)
    return Row(
        slot=slot,
        name=name,
        stage=_stage(slot, fn),
        reads=reads,
        optional=optional,
        hyper=defaults(fn),
        summary=doc.partition("\n")[0],
        source=link.group() if link else "",
        fidelity=_said(doc, "Fidelity"),
        needs=tuple(dict.fromkeys(source for source in map(supplier, reads) if source is not None)),
        degenerate=_said(doc, "Degenerate"),
    )


def _stage(slot: str, fn: Callable[..., Any]) -> str:
    beside = companions(fn)
    parts = ["step" if in_step(slot, fn) else "assemble"]
    parts += ["prepare"] if "prepare" in beside else []
    return " + ".join(parts + (["state"] if "init" in beside else []))


def _said(doc: str, word: str) -> str:
    """Returns what a docstring's last paragraph says after a word: "code" of "Fidelity: code."."""
    found = re.search(rf"^{word}: (.+(?:\n(?!\w+: ).+)*)", doc, re.MULTILINE)
    return " ".join(found.group(1).split()).removesuffix(".") if found else ""


def _written(value: Any) -> str:
    """Writes a default as a recipe would; None, which TOML cannot say, is "unset"."""
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return repr([*value])
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _markdown_row(row: Row) -> str:
    reads = [f"`{name}`" for name in row.reads] + [f"`{name}`?" for name in row.optional]
    hyper = [f"`{key} = {default}`" if default else f"`{key}` (to be set)" for key, default in row.hyper.items()]
    name = f"[`{row.name}`]({row.source})" if row.source else f"`{row.name}`"
    rest = (row.summary, row.fidelity, ", ".join(row.needs) or "nothing", row.degenerate)
    return _cells((name, row.stage, ", ".join(reads), ", ".join(hyper) or "none", *rest))


def _cells(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
