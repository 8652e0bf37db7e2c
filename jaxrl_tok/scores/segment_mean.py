"""Means over the segments of completions, given back to their tokens."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok.scores.segment_sums import totals_by_id


def segment_mean(
    values: Float[Array, "B T"],
    segment_ids: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    items: int | None = None,
) -> Float[Array, "B T"]:
    """Gives each token the mean of `values`, whatever they are, over the unmasked tokens of its segment.

        mean[b,t] = mean of values[b,u] over u with segment_ids[b,u] = segment_ids[b,t]

    The average that SSPO's and Rank-GRPO's ratios share, https://arxiv.org/abs/2511.04256. Ids are below T, as a
    completion has at most T segments, and need not be contiguous: a masked token inside a segment does not part it.
    With `items` all ids from `items` on are one segment. A trained token outside every segment (id -1) keeps its
    own value. 0 where masked.
    """
    bins = mask.shape[1] if items is None else items + 1
    inside = mask & (segment_ids >= 0)
    ids = jnp.minimum(jnp.where(inside, segment_ids, 0), bins - 1)
    total = totals_by_id(jnp.where(inside, values, 0), ids, bins)
    count = totals_by_id(inside.astype(values.dtype), ids, bins)
    mean = jnp.take_along_axis(total / jnp.maximum(count, 1), ids, axis=1)
    return jnp.where(inside, mean, jnp.where(mask, values, 0))
