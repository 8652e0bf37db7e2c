"""The table of cases that every backend must get right, against the float64 oracle."""

import dataclasses

import ml_dtypes
import numpy as np

# What each backend is called with, on every case.
BACKENDS = {"reference": {"backend": "reference"}, "chunked": {"backend": "chunked"}}


@dataclasses.dataclass(frozen=True)
class Case:
    """One scoring problem; `arrays` draws it."""

    tokens: int = 24
    size: int = 16
    vocabulary: int = 101  # prime
    dtype: str = "float32"
    layout: str = "dv"
    scale: float = 1.0  # standard deviation of the logits
    offset: float = 0.0  # common to all logits of a row
    per_row_temperature: bool = False
    soft_cap: float | None = None
    ignored: str = "some"  # none, some, all
    target: int | None = None  # all targets the same
    # Gives most cases several blocks with a rest; those with a smaller vocabulary have one.
    block: int = 32

    @property
    def accumulation(self):
        """The type of sums and results."""
        return np.float64 if self.dtype == "float64" else np.float32

    @property
    def program(self):
        """The case as far as it decides what is compiled, apart from shapes and types."""
        return Case(layout=self.layout, soft_cap=self.soft_cap, block=self.block)

    def arrays(self):
        """Gives hidden [N, D] and head [D, V], rounded; targets; inverse temperatures; cotangents [3, N]."""
        rng = np.random.default_rng(self.tokens + self.vocabulary)
        hidden = rng.normal(size=(self.tokens, self.size))
        head = rng.normal(size=(self.size, self.vocabulary)) * self.scale / np.sqrt(self.size)
        if self.offset:
            hidden[:, -1], head[-1] = 1, self.offset
        targets = rng.integers(0, self.vocabulary, self.tokens)
        if self.target is not None:
            targets[:] = self.target
        ignored = {"none": slice(0, 0), "some": slice(2, None, 5), "all": slice(None)}[self.ignored]
        targets[ignored] = -1 - rng.integers(0, 99, self.tokens)[ignored]
        inv_temperature = np.full(self.tokens, 0.7)
        if self.per_row_temperature:
            inv_temperature = rng.uniform(0.5, 2, self.tokens)
        inputs = {"float32": np.float32, "float64": np.float64, "bfloat16": ml_dtypes.bfloat16}[self.dtype]
        rounded = (x.astype(inputs).astype(np.float64) for x in (hidden, head))
        cotangents = rng.normal(size=(3, self.tokens)).astype(self.accumulation)
        return *rounded, targets.astype(np.int32), inv_temperature.astype(self.accumulation), cotangents


# Cases of one shape, type, layout and cap share their compiled functions.
CASES = {
    "plain": Case(),
    "all ignored": Case(ignored="all"),
    "temperature per row": Case(per_row_temperature=True),
    "target first": Case(target=0),
    "target at the start of a block": Case(target=32),
    "target last, in the rest": Case(target=100),
    "offset 300": Case(offset=300.0),
    "offset -300, so all logits negative": Case(offset=-300.0),
    "peaked": Case(scale=40.0),
    "flat": Case(scale=0.0),
    "soft cap, vd": Case(soft_cap=2.0, scale=3.0, per_row_temperature=True, layout="vd"),
    "every temperature, soft cap, dv": Case(
        soft_cap=2.0, scale=3.0, per_row_temperature=True, vocabulary=1100, block=256
    ),
    "whole blocks of 128, rows not of 8": Case(tokens=13, vocabulary=128, block=128),
    "bf16, one row, wide": Case(tokens=1, size=136, vocabulary=1000, dtype="bfloat16", ignored="none", block=128),
    "target alone in the last block": Case(vocabulary=2049, target=2048, block=128),
    "bf16, 11 blocks of 128, peaked, ragged D": Case(size=40, vocabulary=1408, dtype="bfloat16", scale=6.0, block=128),
    "a large vocabulary": Case(tokens=9, vocabulary=32000, layout="vd", block=4096),
    "a vocabulary of 128 times a prime": Case(tokens=3, size=8, vocabulary=151936, ignored="none", block=16384),
    "one row, one block": Case(tokens=1, vocabulary=7, ignored="none"),
    "one token of vocabulary": Case(vocabulary=1),
    "bf16, vd": Case(dtype="bfloat16", layout="vd"),
    "f64, whole blocks, none ignored": Case(dtype="float64", vocabulary=96, ignored="none"),
}

# Sums are float32 (float64), so what is left is the rounding of sums over D and V. Rounding of the logits
# themselves comes on top: 4 units in the last place of the largest one.
TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-5, "float64": 1e-13}

# For bfloat16, the gradient by the logits is rounded to it before its two products: 2^-9 relative, at most.
GRADIENT_TOLERANCE = {"float32": 1e-5, "bfloat16": 5e-3, "float64": 1e-13}


def ulps(case, z):
    """Gives 4 units in the last place of the largest logit."""
    return 4 * np.spacing(case.accumulation(max(1, np.abs(z).max())))


def allowed(case, expected, z):
    """Gives the error that a value may have, relative for those above 1."""
    return TOLERANCE[case.dtype] * np.maximum(1, np.abs(expected)) + ulps(case, z)


def check_values(case, got, expected, z):
    """Asserts that values are within their tolerance, relative to those above 1."""
    error = np.abs(np.asarray(got, np.float64) - expected)
    assert (error <= allowed(case, expected, z)).all()


def check_gradients(case, got, want, hidden, head, cotangents, z):
    """Asserts that the gradients of hidden and head are within their tolerance, relative to the norm of each.

    The gradient by a logit is off by that logit's rounding, which the products with head and hidden carry on.
    The coordinate that holds a common offset is compared in units of the offset.
    """
    units = np.ones(case.size)
    units[-1] = max(1, abs(case.offset))
    got = [np.asarray(x, np.float64) for x in got]
    scaled = (got[0] / units, want[0] / units, head / units[:, None]), (got[1], want[1], hidden)
    for got_one, want_one, other in scaled:
        rounding = ulps(case, z) * np.linalg.norm(cotangents) * np.linalg.norm(other, 2)
        error = np.linalg.norm(got_one - want_one)
        assert error <= GRADIENT_TOLERANCE[case.dtype] * np.linalg.norm(want_one) + rounding
