"""Train on the completions whose advantages are furthest apart."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok import masked
from jaxrl_tok.errors import ConfigError
from jaxrl_tok.scores import d3s_schedule


def max_variance_subset(
    advantages: Float[Array, "P G T"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    progress: Float[Array, ""] | None = None,
    *,
    samples: int = 64,
    final_samples: int = 128,
    axis_name: str | None = None,
) -> Bool[Array, "P G"]:
    """Keeps the given number of the batch's completions whose advantages have the largest variance.

        keep = the i largest and the n - i smallest a[p,g], with the i in 0..n at which their variance is largest
        a[p,g] = mean_t A[p,g,t]
        n = round((1 - progress) * samples + progress * final_samples)

    The sample half of D3S, https://arxiv.org/abs/2509.22115; `d3s_tokens` is the half about tokens. The best subset
    always has this form. Advantages are standardised in their groups before and not again after. Of equal
    advantages the first in the order of the arrays counts as the larger; of equally good i (up to rounding) the
    smallest is taken. n above the number of completions with a trained token keeps all of those. The schedule's
    numbers are examples: set them to your batch. `progress` is the share of the training that is done, 0 where
    there is none. One number for each completion is sorted, over the whole batch under `jit` on a mesh; inside
    `shard_map` over the shard, or with `axis_name` over all shards.

    Raises:
        ConfigError: a number of samples is below 1.

    Fidelity: paper. The schedule's numbers are reconstructed.
    Degenerate: samples and final_samples at least the batch's completions keep all.
    """
    if samples < 1 or final_samples < 1:
        raise ConfigError(
            f"max_variance_subset: samples = {samples!r} and final_samples = {final_samples!r} must be at least 1"
        )
    mask = mask if valid is None else mask & valid[:, :, None]
    exists = jnp.any(mask, axis=2)
    low, high = masked.bounds(advantages, mask, axis=2)
    # Between its bounds, or the mean of equal numbers would differ from them by a rounding, and ties with it.
    mean = jnp.clip(masked.mean(advantages, mask, axis=2), low, high)[:, :, 0]
    done = jnp.zeros((), mean.dtype) if progress is None else progress.astype(mean.dtype)
    n = jnp.round(d3s_schedule(done, initial=float(samples), final=float(final_samples))).astype(jnp.int32)
    values, candidates = mean.reshape(-1), exists.reshape(-1)
    if axis_name is None:
        return _extremes(values, candidates, n).reshape(exists.shape)
    every, all_candidates = (jax.lax.all_gather(x, axis_name, tiled=True) for x in (values, candidates))
    chosen = _extremes(every, all_candidates, n).reshape(-1, *exists.shape)
    return chosen[jax.lax.axis_index(axis_name)]


def _extremes(values: Float[Array, " B"], candidates: Bool[Array, " B"], n: Int[Array, ""]) -> Bool[Array, " B"]:
    """Marks the n candidates, or all if they are fewer, with the largest variance."""
    total = jnp.sum(candidates, dtype=jnp.int32)
    n = jnp.minimum(n, total)
    centred = jnp.where(candidates, values - masked.mean(values, candidates), 0)
    order = jnp.argsort(jnp.where(candidates, -centred, jnp.inf), stable=True)
    descending = jnp.concatenate([jnp.zeros_like(centred[:1]), centred[order]])
    sums, squares = jnp.cumsum(descending), jnp.cumsum(descending**2)

    largest = jnp.arange(values.shape[0] + 1, dtype=jnp.int32)  # how many of the n are from the upper end
    rest = jnp.clip(total - n + largest, 0, total)  # where the lower end begins
    size = jnp.maximum(n, 1).astype(values.dtype)

    def mean_of_chosen(prefix: Array) -> Array:
        return (prefix + prefix[total] - prefix[rest]) / size

    variance = mean_of_chosen(squares) - mean_of_chosen(sums) ** 2
    variance = jnp.where(largest <= n, variance, -jnp.inf)
    rounding = 16 * jnp.finfo(values.dtype).eps * squares[total] / size
    best = jnp.argmax(variance >= jnp.max(variance) - rounding).astype(jnp.int32)
    rank = jnp.argsort(order).astype(jnp.int32)
    return candidates & ((rank < best) | (rank >= total - n + best))
