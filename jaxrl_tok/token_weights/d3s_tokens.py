"""Train on the tokens with both a large advantage and a high entropy."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked
from jaxrl_tok.errors import ConfigError
from jaxrl_tok.scores import d3s_schedule


def d3s_tokens(
    advantages: Float[Array, "P G T"],
    old_entropy: Float[Array, "P G T"],
    mask: Bool[Array, "P G T"],
    progress: Float[Array, ""] | None = None,
    *,
    fraction: float = 0.2,
    final_fraction: float = 1.0,
    axis_name: str | None = None,
) -> Float[Array, "P G T"]:
    """Weight 1 on the given fraction of the batch's tokens with the largest |advantage| * entropy, 0 on the rest.

        w[p,g,t] = 1 for the max(1, floor(K N)) largest |A[p,g,t]| H[p,g,t] of the N trained tokens
        K = (1 - progress) * fraction + progress * final_fraction

    The token half of D3S, https://arxiv.org/abs/2509.22115; `max_variance_subset` is the half about samples, and as
    a filter it runs first, so that N counts the tokens of what it kept. Of equal products the first are taken; with
    an advantage of 0 everywhere these carry no gradient. Weights stay in the denominator. `progress` is the share
    of the training that is done, 0 where there is none. The paper relaxes K from below 20%; its last value is not
    known, here it is all tokens. N is that of the whole batch under `jit` on a mesh; inside `shard_map` of the
    shard, or with `axis_name` of all shards.

    Raises:
        ConfigError: a fraction is not in (0, 1].

    Fidelity: paper. The end of the schedule is reconstructed.
    Degenerate: fraction = final_fraction = 1 is `uniform`.
    """
    if not (0 < fraction <= 1 and 0 < final_fraction <= 1):
        raise ConfigError(
            f"d3s_tokens: fraction = {fraction!r} and final_fraction = {final_fraction!r} must lie in (0, 1]"
        )
    product, trained = (jnp.abs(advantages) * old_entropy).reshape(1, -1), mask.reshape(1, -1)
    done = jnp.zeros((), product.dtype) if progress is None else progress.astype(product.dtype)
    share = d3s_schedule(done, initial=fraction, final=final_fraction)
    n = masked.count(trained, product, axis=1, axis_name=axis_name)[:, 0]
    k = jnp.maximum(jnp.floor(share * n), 1).astype(jnp.int32)
    kept = masked.largest(product, trained, k, axis_name=axis_name)
    return kept.reshape(mask.shape).astype(product.dtype)
