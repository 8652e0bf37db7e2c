"""The sizes of a kernel's steps: those of the table, made to fit a problem and a chip."""

import math
from collections.abc import Callable
from typing import NamedTuple

from jaxrl_tok.kernels.token_score import block_sizes


class Blocks(NamedTuple):
    """The sizes of a step."""

    rows: int  # of hidden
    columns: int  # of the vocabulary
    depth: int  # of D


Table = dict[str | None, dict[tuple[int, int] | None, tuple[int, int, int]]]


def listed(table: Table, kind: str, size: int, columns: int) -> Blocks:
    """Returns a table's sizes for a kind of device, D and V, or those for what it does not list."""
    of_chip = {**table[None], **table.get(kind, {})}
    return Blocks(*of_chip.get((size, columns), of_chip[None]))


def vmem(kind: str) -> int:
    """Returns the bytes of fast memory that a TPU kernel may take."""
    return block_sizes.VMEM.get(kind, block_sizes.VMEM[None])


def budget(kind: str) -> int:
    """Returns the bytes of fast memory that sizes are chosen for: less, as a tenth may go to what nobody planned."""
    return vmem(kind) * 9 // 10


def up(x: int, multiple: int) -> int:
    """Rounds up to a multiple."""
    return -(-x // multiple) * multiple


def at_once(rows: int) -> int:
    """Returns how many rows of a block a TPU kernel reduces at a time."""
    return math.gcd(rows, block_sizes.PALLAS_TPU_ROWS_AT_ONCE)


def even(tokens: int, most: int) -> int:
    """Returns the rows of blocks that deal tokens out evenly, so that the last one is not mostly empty."""
    share = -(-tokens // -(-tokens // most))
    return up(share, min(block_sizes.PALLAS_TPU_ROWS_AT_ONCE, up(share, 16)))


def fitted(blocks: Blocks, size: int, fits: Callable[[Blocks], bool], whole: bool = False) -> Blocks:
    """Returns blocks that fit: of less of D at first, unless that is to stay whole, then of fewer columns and rows.

    Every part of D has the same depth, a multiple of 128 or all of D: past the end of D memory holds anything.
    """
    parts = [] if whole else [size // n for n in range(2, size // 128 + 1) if size % n == 0 and size // n % 128 == 0]
    depths = [depth for depth in (size, *parts) if depth <= blocks.depth] or [min([size, *parts])]
    while True:
        for depth in depths:
            if fits(blocks._replace(depth=depth)):
                return blocks._replace(depth=depth)
        rows, columns, _ = blocks
        if columns > 128 and columns >= rows:
            blocks = blocks._replace(columns=up(columns // 2, 128))
        elif rows > 16:
            blocks = blocks._replace(rows=up(rows // 2, 16))
        else:
            return blocks._replace(depth=depths[-1])
