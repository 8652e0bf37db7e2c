"""The floating-point operations of a step, counted from the model's sizes; a product and its sum are two.

XLA's own count takes the body of a loop once, whatever it repeats.
"""

import dataclasses

import numpy as np

from jaxrl_tok.models import Architecture
from jaxrl_tok.types import Tries


@dataclasses.dataclass(frozen=True)
class Flops:
    """Operations of a forward pass, by what they grow with."""

    layers: int = 0  # products with the layers' parameters
    attention: int = 0  # scores and mixed values
    head: int = 0  # logits

    def __add__(self, other: "Flops") -> "Flops":
        """Adds two counts."""
        return Flops(self.layers + other.layers, self.attention + other.attention, self.head + other.head)

    @property
    def total(self) -> int:
        """All of them."""
        return self.layers + self.attention + self.head


def per_token(arch: Architecture) -> int:
    """Returns the operations of one token in the products with parameters of all layers.

    2 L (D (N + 2 K) H + N H D + 3 D F), F that of the experts which a token takes, with D E more for the router.
    """
    queries, keys = arch.heads * arch.head_dim, arch.kv_heads * arch.head_dim
    width = arch.ffw * (arch.experts_per_token if arch.experts else 1)
    return 2 * arch.layers * arch.dim * (2 * queries + 2 * keys + 3 * width + arch.experts)


def seen(start: int, count: int, window: int | None) -> int:
    """Returns how many keys the tokens start ... start + count - 1 of a text see together, themselves included."""
    whole = start * count + count * (count + 1) // 2
    if window is None:
        return whole
    # Tokens from `first` on have more before them than the window holds.
    first = max(start, min(window, start + count))
    return seen(start, first - start, None) + window * (start + count - first)


def attention(arch: Architecture, start: int, count: int) -> int:
    """Returns the operations of attention over all layers: 4 N H for each key that a token sees."""
    windows = (arch.window if arch.slides(i) else None for i in range(arch.layers))
    return 4 * arch.heads * arch.head_dim * sum(seen(start, count, window) for window in windows)


def forward(arch: Architecture, prompts: int, group: int, prompt: int, completion: int, logits: int) -> Flops:
    """Returns the operations of one pass over prompts, each computed once, and `group` completions of each.

    `logits` is how many tokens the head is applied to.
    """
    tokens = prompts * (prompt + group * completion)
    mixed = prompts * (attention(arch, 0, prompt) + group * attention(arch, prompt, completion))
    return Flops(tokens * per_token(arch), mixed, 2 * logits * arch.dim * arch.vocab)


def tries(arch: Architecture, packed: Tries) -> Flops:
    """Returns the operations of one pass over tries, each token computed and scored once; it sees those on its path."""
    ends, positions = np.asarray(packed.ends), np.asarray(packed.positions)
    before = positions[ends > np.arange(ends.shape[1])].astype(np.int64) + 1
    windows = (arch.window if arch.slides(i) else None for i in range(arch.layers))
    each = (before.sum() if window is None else np.minimum(before, window).sum() for window in windows)
    logits = int(np.asarray(packed.real).sum())
    mixed = 4 * arch.heads * arch.head_dim * int(sum(each))
    return Flops(before.size * per_token(arch), mixed, 2 * logits * arch.dim * arch.vocab)


def update(passed: Flops, remat: str) -> int:
    """Returns the operations of a forward and backward pass: 1 + 2 times the forward one, and what is done again.

    That is the layers with `remat` "full", attention with "dots", and in any case the head, whose logits are not kept.
    """
    again = {"none": 0, "dots": passed.attention, "full": passed.layers + passed.attention}[remat]
    return 3 * passed.total + again + passed.head
