"""Six logits and what each filter keeps of them; computed apart, in float64, from the filters' definitions."""

import numpy as np

LOGITS = [2.0, 1.0, 1.0, 0.5, -1.0, -3.0]  # two tie, which a k-th or a last of the nucleus may split
PROBABILITIES = np.exp(LOGITS) / np.exp(LOGITS).sum()  # 0.496, 0.183, 0.183, 0.111, 0.025, 0.003


def first(count: int) -> list[bool]:
    """Returns the mask of the `count` most probable tokens."""
    return [i < count for i in range(len(LOGITS))]
