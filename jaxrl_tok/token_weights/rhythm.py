"""Credit for the tokens that plan ahead, and for those to which later ones look back."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked
from jaxrl_tok.errors import ConfigError


def rhythm(
    attention_distance: Float[Array, "P G T"],
    attention_received: Float[Array, "P G T"],
    advantages: Float[Array, "P G T"],
    mask: Bool[Array, "P G T"],
    *,
    mode: Literal["local", "global", "coupled"] = "local",
    fraction: float = 0.4,
    amplify: float = 1.5,
    handover: float = 0.5,
    window: int = 3,
    distance_threshold: float | None = None,
    change_threshold: float | None = None,
) -> Float[Array, "P G T"]:
    """Weight `amplify` on the tokens that open a chunk ("local") or that later tokens attend to ("global"), else 1.

        change[t] = |distance[t] - distance[t+1]|, 0 where no trained token follows
        local:   w[t] = amplify on the ceil(fraction n) largest change of the completion (pre-plan tokens), else 1
        global:  w[t] = amplify on the ceil(fraction n) largest received (anchors), else 1
        coupled: w[t] = 1 + (amplify - 1) * (anchor[t] - handover dominated[t] + handover intro[t])

    Preplan-and-anchor, https://arxiv.org/abs/2510.13554, with its fraction and amplification. `attention_distance`
    is its windowed average distance of attention (WAAD, over local heads), `attention_received` its future
    attention influence (FAI, over global heads). An anchor is dominated where its distance is at most
    `distance_threshold` and the largest change among the `window` trained tokens before it at least
    `change_threshold`; it hands the share `handover` of its bonus to the token with that change, its intro (the
    first of equal ones), which gets one share however many anchors it introduces. The paper gives no thresholds, so
    "coupled" needs both, and a window of 1 to 3. Only advantages that are not negative are amplified: the weight is
    1 at the others.

    Raises:
        ConfigError: "coupled" without thresholds, or a number outside its range.

    Fidelity: paper. Which token is the intro is our reading.
    Degenerate: amplify = 1, or negative advantages, is `uniform`; "coupled" with handover = 0 is "global".
    """
    if not 0 < fraction <= 1 or amplify < 1 or not 0 <= handover <= 1 or window < 1:
        raise ConfigError(
            f"rhythm: fraction = {fraction!r} must lie in (0, 1], handover = {handover!r} in [0, 1], "
            f"amplify = {amplify!r} and window = {window!r} be at least 1"
        )
    change = _change(attention_distance, mask)
    if mode == "local":
        share = masked.top_fraction(change, mask, fraction).astype(change.dtype)
    else:
        anchor = masked.top_fraction(attention_received, mask, fraction)
        share = anchor.astype(change.dtype)
    if mode == "coupled":
        if distance_threshold is None or change_threshold is None:
            raise ConfigError('rhythm: mode = "coupled" needs distance_threshold and change_threshold')
        greatest, back = _greatest_before(change, mask, window)
        near = anchor & (attention_distance <= distance_threshold) & (greatest >= change_threshold)
        intro = _intro(near, back, window)
        share = share + handover * (intro.astype(change.dtype) - near.astype(change.dtype))
    amplified = mask & (advantages >= 0)
    return jnp.where(mask, 1 + (amplify - 1) * jnp.where(amplified, share, 0), 0)


def _change(distance: Float[Array, "P G T"], mask: Bool[Array, "P G T"]) -> Float[Array, "P G T"]:
    """Step of the distance to the next token."""
    both = mask & _earlier(mask, 1, False)
    distance = jnp.where(mask, distance, 0)
    return jnp.where(both, jnp.abs(distance - _earlier(distance, 1, 0.0)), 0)


def _greatest_before(change: Float[Array, "P G T"], mask: Bool[Array, "P G T"], window: int) -> tuple[Array, Array]:
    """Largest change among the tokens up to `window` before each, and how far back it is."""
    change = jnp.where(mask, change, -jnp.inf)
    greatest, back = jnp.full_like(change, -jnp.inf), jnp.zeros(change.shape, jnp.int32)
    for distance in range(1, min(window, change.shape[2] - 1) + 1):
        before = _later(change, distance, -jnp.inf)
        back = jnp.where(before >= greatest, distance, back)
        greatest = jnp.maximum(greatest, before)
    return greatest, back


def _intro(dominated: Bool[Array, "P G T"], back: Array, window: int) -> Bool[Array, "P G T"]:
    """Tokens to which a dominated anchor hands over."""
    intro = jnp.zeros_like(dominated)
    for distance in range(1, min(window, dominated.shape[2] - 1) + 1):
        intro = intro | _earlier(dominated & (back == distance), distance, False)
    return intro


def _earlier(x: Array, by: int, fill: bool | float) -> Array:
    """Moves tokens towards the start: at t stands what was at t + by."""
    return jnp.pad(x[..., by:], ((0, 0), (0, 0), (0, by)), constant_values=fill)


def _later(x: Array, by: int, fill: bool | float) -> Array:
    """Moves tokens towards the end: at t stands what was at t - by."""
    return jnp.pad(x[..., : x.shape[2] - by], ((0, 0), (0, 0), (by, 0)), constant_values=fill)
