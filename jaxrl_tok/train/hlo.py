"""What a compiled program moves between devices, read off its HLO text."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "ragged-all-to-all", "collective-permute")
# Bits of an element; an array type that is not among them (a token) has none.
BITS = {
    **{"pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "s32": 32, "u32": 32, "s64": 64, "u64": 64},
    **{"bf16": 16, "f16": 16, "f32": 32, "f64": 64, "c64": 64, "f8e4m3fn": 8, "f8e5m2": 8},
}
_ARRAY = re.compile(r"\b([a-z]+[0-9]*(?:e[0-9]+m[0-9]+(?:fn)?)?)\[([0-9,]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|body)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    type: str
    opcode: str
    rest: str  # operands and attributes


class Collective(NamedTuple):
    """One collective, and how often a call of the program does it."""

    kind: str
    shapes: tuple[tuple[int, ...], ...]  # of what a device puts in
    results: tuple[tuple[int, ...], ...]  # of what it gets
    bytes: float  # what a device puts in
    devices: int  # that take part together
    times: int

    @property
    def moved(self) -> float:
        """Bytes that a device sends in all calls, in a ring: n devices send a share of 1/n n - 1 times."""
        n = self.devices
        each = {"all-gather": n - 1, "all-reduce": 2 * (n - 1) / n, "collective-permute": 1}
        return self.times * self.bytes * each.get(self.kind, (n - 1) / n)


def arrays(type_: str) -> list[tuple[int, int, tuple[int, ...]]]:
    """Returns bits, elements and dimensions of each array in an HLO type."""
    found = []
    for name, dims in _ARRAY.findall(type_):
        if name in BITS:
            shape = tuple(int(size) for size in dims.split(",") if size)
            found.append((BITS[name], math.prod(shape), shape))
    return found


def computations(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """Returns the instructions of each computation, and the name of the one where the program starts."""
    found: dict[str, list[Instruction]] = {}
    entry, inside = "", None
    for line in text.splitlines():
        if inside is None:
            start = re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line)
            if start and not line.startswith("HloModule"):
                inside = found[start[2]] = []
                entry = start[2] if start[1] else entry
        elif line.startswith("}"):
            inside = None
        elif (instruction := _instruction(line)) is not None:
            inside.append(instruction)
    return found, entry


def collectives(text: str, unknown: int = 1) -> list[Collective]:
    """Returns every collective that a call of a program does.

    What stands in a loop counts as often as the loop goes round; `unknown` times where the text does not tell. Of a
    condition, every branch counts. A collective that a TPU does beside several products, a share with each, stands in
    the text with each of them, on the same channel, and counts once.
    """
    parts, entry = computations(text)
    found, seen = [], set()
    for name, times, frame in _calls(parts, entry, unknown):
        types = {one.name: one.type for one in parts[name]}
        for one in parts[name]:
            kind = one.opcode.removesuffix("-start")
            if kind not in KINDS:
                continue
            if channel := re.search(r"channel_id=(\d+)", one.rest):
                if (frame, channel[1]) in seen:
                    continue
                seen.add((frame, channel[1]))
            operands = re.findall(r"%([\w.\-]+)", _balanced(one.rest))
            given = [array for operand in operands for array in arrays(types.get(operand, ""))]
            size = sum(bits * count for bits, count, _ in given) / 8
            shapes = (tuple(shape for *_, shape in given), tuple(shape for *_, shape in _results(one, len(given))))
            # What a TPU makes of a reduction of which each device keeps its part.
            kind = "reduce-scatter" if name.startswith("all-reduce-scatter") else kind
            found.append(Collective(kind, *shapes, size, _devices(one.rest), times))
    return found


def carried(text: str) -> list[list[tuple[int, int, tuple[int, ...]]]]:
    """Returns the arrays that each loop carries from one round to the next, by loop."""
    return [arrays(one.type) for part in computations(text)[0].values() for one in part if one.opcode == "while"]


def _results(one: Instruction, operands: int) -> list[tuple[int, int, tuple[int, ...]]]:
    """Returns the arrays that a collective gives; the type of its asynchronous start has the operands before them."""
    found = arrays(one.type)
    return found[operands : 2 * operands] if one.opcode.endswith("-start") and len(found) > operands else found


def _instruction(line: str) -> Instruction | None:
    name, equals, rest = line.strip().removeprefix("ROOT ").partition(" = ")
    if not equals:
        return None
    rest = re.sub(r"/\*.*?\*/", "", rest)
    type_ = _balanced(rest) if rest.startswith("(") else rest.split(" ", 1)[0]
    opcode, _, operands = rest[len(type_) :].strip().partition("(")
    return Instruction(name.lstrip("%"), type_, opcode, f"({operands}")


def _balanced(text: str) -> str:
    """Returns what the parenthesis at the start of a text holds, with it."""
    depth = 0
    for i, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return text[: i + 1]
    return text


def _calls(
    parts: dict[str, list[Instruction]], name: str, unknown: int, times: int = 1, frame: str = ""
) -> Iterator[tuple[str, int, str]]:
    """Yields every computation that a program runs, with how often, once for each place that calls it.

    The third says in which loop body, branch or function it stands: a fusion in that of the place that calls it.
    """
    frame = frame or name
    yield name, times, frame
    for one in parts.get(name, []):
        if one.opcode in ("fusion", "call", "while", "async-start", "custom-call"):
            called = _CALLED.findall(one.rest)
        elif one.opcode == "conditional":
            called = re.findall(r"%([\w.\-]+)", "".join(_BRANCHES.findall(one.rest)))
        else:
            continue
        rounds = times * (_rounds(parts, one, unknown) if one.opcode == "while" else 1)
        for other in called:
            if other in parts:
                inside = frame if one.opcode == "fusion" else f"{frame}/{one.name}/{other}"
                yield from _calls(parts, other, unknown, rounds, inside)


def _rounds(parts: dict[str, list[Instruction]], loop: Instruction, unknown: int) -> int:
    """Returns how often a loop goes round: what the compiler noted, or the bound that its condition compares with."""
    if known := re.search(r'known_trip_count":\{"n":"(\d+)"', loop.rest):
        return int(known[1])
    condition = parts.get(re.search(r"condition=%?([\w.\-]+)", loop.rest)[1], [])  # type: ignore[index]
    values = {
        one.name: m[1] for one in condition if (m := re.match(r"\((\d+)\)", one.rest)) and one.opcode == "constant"
    }
    for one in condition:
        if one.opcode == "compare" and "direction=LT" in one.rest:
            bounds = [values[name] for name in re.findall(r"%([\w.\-]+)", _balanced(one.rest)) if name in values]
            if bounds:
                return int(bounds[0])
    return unknown


def _devices(rest: str) -> int:
    """Returns how many devices a collective's groups have."""
    if found := re.search(r"replica_groups=\[(\d+(?:,\d+)*)\]<=", rest):
        return int(found[1].split(",")[-1])
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", rest):
        sizes = dict(re.findall(r"('\w+')=(\d+)", found[1]))
        # A part of an axis has its own size: 'axis':(before)size.
        axes = re.findall(r"('\w+')(?::\(\d+\)(\d+))?", found[2])
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    if found := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return found[1].count(",") + 1
    return 2  # a permutation: one device to another
