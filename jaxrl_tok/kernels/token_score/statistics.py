"""From sums over the vocabulary to the statistics of each token."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxrl_tok.kernels.token_score.common import NEG, Sums

ALWAYS = ("logprobs", "entropy", "lse")

# What can be asked for besides, and the optional fields of `Sums` that each needs.
STATISTICS: dict[str, tuple[str, ...]] = {
    "max_logit": (),
    "argmax": ("argmax",),
    "target_logit": (),
    "sum_logits": ("sum_logits",),
    "sum_p2": ("sum_exp2",),
    "sum_p2_logp": ("sum_exp2", "sum_exp2_shifted"),
    "varentropy": ("sum_exp_shifted2",),
    "top2_gap": ("second_logit",),
    "rank": ("count_above",),
    "mass_above": ("sum_exp_above",),
}

# Fields of `Sums` for which a backend needs `Rows.pivot`.
COMPARED = ("count_above", "sum_exp_above")


def finish(sums: Sums, vocabulary: int) -> tuple[Array, Array, Array]:
    """Returns (logprobs, entropy, lse); the bounds hold before rounding, and are made to hold after it."""
    log_sum = log_sum_of(sums)
    max_logit, spread = sums.max_logit, log_sum
    if sums.target_logit.ndim > 1:
        max_logit, spread = max_logit[:, None], log_sum[:, None]
    logprobs = jnp.minimum(sums.target_logit - max_logit, 0) - spread
    entropy = log_sum - sums.sum_exp_shifted / sums.sum_exp
    most = round_down(math.log(vocabulary), entropy.dtype)
    return logprobs, jnp.clip(entropy, 0, most), sums.max_logit + log_sum


def log_sum_of(sums: Sums) -> Array:
    """Returns lse - max_logit; the largest logit alone contributes 1."""
    return jnp.log(jnp.maximum(sums.sum_exp, 1))


def others(sums: Sums) -> dict[str, Array]:
    """Returns every statistic for which there are sums, by name."""
    total = jnp.maximum(sums.sum_exp, 1)
    found = {"max_logit": sums.max_logit, "target_logit": sums.target_logit}
    if sums.argmax is not None:
        found["argmax"] = sums.argmax
    if sums.sum_logits is not None:
        found["sum_logits"] = sums.sum_logits
    if sums.sum_exp2 is not None:
        found["sum_p2"] = jnp.minimum(sums.sum_exp2 / (total * total), 1)
    if sums.sum_exp2 is not None and sums.sum_exp2_shifted is not None:
        # Both terms are of one sign: nothing cancels.
        found["sum_p2_logp"] = (sums.sum_exp2_shifted - log_sum_of(sums) * sums.sum_exp2) / (total * total)
    if sums.sum_exp_shifted2 is not None:
        mean = sums.sum_exp_shifted / total
        found["varentropy"] = jnp.maximum(sums.sum_exp_shifted2 / total - mean * mean, 0)
    if sums.second_logit is not None:
        lone = sums.second_logit <= NEG
        found["top2_gap"] = jnp.where(lone, jnp.inf, sums.max_logit - jnp.where(lone, 0, sums.second_logit))
    # The pivot is the target's logit by another sum over D, which may round otherwise than that of the pass.
    largest = sums.target_logit >= sums.max_logit
    if sums.count_above is not None:
        found["rank"] = 1 + jnp.where(largest, 0, jnp.maximum(sums.count_above, 1)).astype(jnp.int32)
    if sums.sum_exp_above is not None:
        found["mass_above"] = jnp.where(largest, 0, jnp.minimum(sums.sum_exp_above / total, 1))
    return found


def round_down(x: float, dtype: np.dtype) -> np.floating:
    """Returns the largest number of a type that is not above x."""
    rounded = dtype.type(x)
    return np.nextafter(rounded, dtype.type(0)) if float(rounded) > x else rounded
