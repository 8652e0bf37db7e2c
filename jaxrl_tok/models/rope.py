"""Rotary positions and the ways to stretch them to longer texts."""

import dataclasses
import math
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxrl_tok.kernels.attention.common import accumulation


@dataclasses.dataclass(frozen=True)
class Rope:
    """Rotary position embedding, Su et al. 2021, https://arxiv.org/abs/2104.09864, and its scaling.

    Pair i of a head of size H turns by theta^(-2i/H) a position, times

        linear:  1 / factor (Chen et al. 2023, https://arxiv.org/abs/2306.15595)
        llama3:  1 / factor for waves longer than original_length / low_freq_factor, 1 for those shorter than
                 original_length / high_freq_factor, and a line in between over original_length / wavelength
                 (Llama 3, Grattafiori et al. 2024, https://arxiv.org/abs/2407.21783, by Meta's released code)
        yarn:    1 / factor for pairs that turn less than beta_slow times in original_length, 1 for those that turn
                 more than beta_fast times, a line over i in between, from the floor and to the ceiling of its ends
                 if `truncate` (Peng et al. 2023, https://arxiv.org/abs/2309.00071)

    YaRN also multiplies cosine and sine by `attention_factor`, 0.1 ln(factor) + 1 unless given.
    """

    theta: float = 10_000.0
    scaling: Literal["none", "linear", "llama3", "yarn"] = "none"
    factor: float = 1.0
    original_length: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    truncate: bool = True

    def stretch(self, size: int) -> np.ndarray:
        """Returns, for each pair of a head, the factor on its frequency, in float64."""
        pairs = np.arange(size // 2)
        frequency = self.theta ** (-2 * pairs / size)
        if self.scaling == "none":
            return np.ones(size // 2)
        if self.scaling == "linear":
            return np.full(size // 2, 1 / self.factor)
        if self.scaling == "llama3":
            turns = self.original_length * frequency / (2 * math.pi)
            kept = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        else:
            low, high = (self._pair_that_turns(beta, size) for beta in (self.beta_fast, self.beta_slow))
            low, high = (math.floor(low), math.ceil(high)) if self.truncate else (low, high)
            low, high = max(low, 0), min(high, size - 1)
            kept = 1 - (pairs - low) / max(high - low, 0.001)
        kept = np.clip(kept, 0, 1)
        return kept + (1 - kept) / self.factor

    @property
    def gain(self) -> float:
        """The factor on cosine and sine."""
        if self.scaling != "yarn":
            return 1.0
        if self.attention_factor is not None:
            return self.attention_factor
        return 0.1 * math.log(self.factor) + 1.0 if self.factor > 1 else 1.0

    def _pair_that_turns(self, times: float, size: int) -> float:
        """Returns which pair, as a real number, turns so many times in the original length."""
        return size * math.log(self.original_length / (times * 2 * math.pi)) / (2 * math.log(self.theta))


def turns(positions: Int[Array, "*B"], size: int, rope: Rope) -> Float[Array, "*B 2 H"]:
    """Returns cosine and sine of position * frequency_i, for i < size/2: what `rotate` turns pair i by.

    Computed once for all layers: the two functions are long programs on a CPU. Angles are float32: bfloat16
    rounds 257 to 256.
    """
    frequency = jnp.float32(rope.theta) ** (-jnp.arange(size // 2, dtype=jnp.float32) / (size // 2))
    if rope.scaling != "none":
        frequency = frequency * jnp.asarray(rope.stretch(size), jnp.float32)
    angle = positions.astype(jnp.float32)[..., None]
    angle = angle * frequency.reshape((1,) * (angle.ndim - 1) + (-1,))
    found = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-2)
    return found if rope.gain == 1 else found * jnp.float32(rope.gain)


def rotate(x: Float[Array, "*B H"], turns: Float[Array, "*P 2 J"]) -> Float[Array, "*B H"]:
    """Rotates pairs (i, i + H/2), the halves layout.

    `turns` has the leading axes of `x`; those it lacks are heads.
    """
    heads = x.ndim - turns.ndim + 1
    cos, sin = (turns[..., i, :].reshape(*turns.shape[:-2], *(1,) * heads, -1) for i in (0, 1))
    wide = accumulation(x)
    cos, sin = cos.astype(wide), sin.astype(wide)
    a, b = jnp.split(x.astype(wide), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)
