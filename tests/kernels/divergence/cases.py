"""The table of cases that every backend of divergences must get right, against the float64 oracle."""

import dataclasses

import ml_dtypes
import numpy as np

from tests.kernels.token_score.cases import GRADIENT_TOLERANCE

# What each backend is called with, on every case.
BACKENDS = {"reference": {"backend": "reference"}, "chunked": {"backend": "chunked"}}

TYPES = {"float32": np.float32, "float64": np.float64, "bfloat16": ml_dtypes.bfloat16}


@dataclasses.dataclass(frozen=True)
class Case:
    """Two models on the same tokens; `arrays` draws them."""

    tokens: int = 24
    size: int = 16
    ref_size: int = 16
    vocabulary: int = 101  # prime
    dtype: str = "float32"
    layout: str = "dv"
    ref_layout: str = "dv"
    scale: float = 1.0  # standard deviation of the logits
    apart: float = 0.3  # that of their difference, in units of the logits; 0 if the models are the same
    offset: float = 0.0  # common to all logits of a row, of the policy alone
    per_row_temperature: bool = False
    soft_cap: float | None = None
    some_invalid: bool = True
    beta: float = 0.5
    block: int = 32

    @property
    def accumulation(self):
        """The type of sums and results."""
        return np.float64 if self.dtype == "float64" else np.float32

    @property
    def program(self):
        """The case as far as it decides what is compiled, apart from shapes and types."""
        layouts = {"layout": self.layout, "ref_layout": self.ref_layout}
        return Case(soft_cap=self.soft_cap, beta=self.beta, block=self.block, **layouts)

    def arrays(self):
        """Gives hidden, head [D, V], those of the reference, all rounded; valid; inverse temperatures; cotangents."""
        rng = np.random.default_rng(self.tokens + self.vocabulary)
        hidden = rng.normal(size=(self.tokens, self.size))
        head = rng.normal(size=(self.size, self.vocabulary)) * self.scale / np.sqrt(self.size)
        if self.size == self.ref_size:
            ref_hidden = hidden + self.apart * rng.normal(size=hidden.shape)
            ref_head = head.copy()
        else:
            ref_hidden = rng.normal(size=(self.tokens, self.ref_size))
            ref_head = rng.normal(size=(self.ref_size, self.vocabulary)) * self.scale / np.sqrt(self.ref_size)
        if self.offset:
            hidden[:, -1], head[-1] = 1, self.offset
            ref_hidden[:, -1] = 0
        valid = np.ones(self.tokens, bool)
        valid[2::5] = not self.some_invalid
        inv_temperature = np.full(self.tokens, 0.7)
        if self.per_row_temperature:
            inv_temperature = rng.uniform(0.5, 2, self.tokens)
        arrays = (hidden, head, ref_hidden, ref_head)
        rounded = [x.astype(TYPES[self.dtype]).astype(np.float64) for x in arrays]
        cotangents = rng.normal(size=(5, self.tokens)).astype(self.accumulation)
        return *rounded, valid, inv_temperature.astype(self.accumulation), cotangents


CASES = {
    "plain": Case(),
    "close": Case(apart=1e-2),
    "very close": Case(apart=1e-3),
    "far": Case(scale=20.0, apart=1.0),
    "beta 0.1, temperature per row": Case(beta=0.1, per_row_temperature=True),
    "soft cap, another width, vd and dv": Case(soft_cap=2.0, scale=3.0, ref_size=24, layout="vd", beta=0.7),
    "offset 300 of the policy": Case(offset=300.0),
    "f64, whole blocks": Case(dtype="float64", vocabulary=96, some_invalid=False),
    "f64, very close": Case(dtype="float64", apart=1e-4, ref_layout="vd"),
    "bf16, vd": Case(dtype="bfloat16", layout="vd", ref_layout="vd", vocabulary=1100, block=256),
    "one row, one block": Case(tokens=1, vocabulary=7, some_invalid=False),
    "one token of vocabulary": Case(vocabulary=1),
    "a large vocabulary": Case(tokens=3, size=8, ref_size=8, vocabulary=151936, some_invalid=False, block=16384),
}

__all__ = ["BACKENDS", "CASES", "GRADIENT_TOLERANCE", "Case"]
