"""Train on the minority of tokens at which the policy was undecided."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok import masked
from jaxrl_tok.errors import ConfigError


def high_entropy(
    old_entropy: Float[Array, "P G T"],
    mask: Bool[Array, "P G T"],
    *,
    fraction: float = 0.2,
    scope: Literal["batch", "batch_quantile", "response"] = "batch",
    renormalize: bool = False,
    axis_name: str | None = None,
) -> Float[Array, "P G T"]:
    """Weight 1 on the given fraction of tokens with the highest entropy, 0 on the rest.

        w[p,g,t] = 1 if H[p,g,t] >= tau else 0;   tau leaves `fraction` of the tokens

    "Beyond the 80/20 rule", Wang et al. 2025, https://arxiv.org/abs/2506.01939, which cuts at a quantile of
    the batch. N is the number of trained tokens, of the batch or of the response:
    * "batch": exactly max(1, floor(fraction N)) of the batch's tokens, of equal ones the first in the order
      of the arrays, as in Lp-Reg's code;
    * "batch_quantile": H >= the linear (1 - fraction) quantile of the batch, so all ties at the threshold
      stay;
    * "response": exactly ceil(fraction N) of each response, as VPPO selects,
      https://arxiv.org/abs/2510.09285; the product is rounded to float32 first, as there, so that 0.4 of 35
      is 14 and not 15.

    Weights stay in the denominator of a token mean, as in the paper. `renormalize` scales the weights to mean
    1 over the batch or response, which divides by the number of kept tokens instead, as Lp-Reg's code does: a
    step about 1 / fraction as large. Entropies are the old policy's (nats), the same as the current one's at
    the first update. A batch scope means the whole batch under `jit` on a mesh; inside `shard_map` the shard,
    or with `axis_name` all shards.

    Raises:
        ConfigError: `fraction` is not in (0, 1].

    Fidelity: code.
    Degenerate: fraction = 1 is `uniform`; of equal entropies the first are kept, with "batch_quantile" all.
    """
    if not 0 < fraction <= 1:
        raise ConfigError(f"high_entropy: fraction = {fraction!r} must lie in (0, 1]")
    shape = (-1, mask.shape[2]) if scope == "response" else (1, -1)
    entropy, trained = old_entropy.reshape(shape), mask.reshape(shape)
    across = None if scope == "response" else axis_name
    n = masked.count(trained, entropy, axis=1, axis_name=across)
    if scope == "response":
        kept = masked.top_fraction(entropy, trained, fraction)
    else:
        k = _number_kept(n[:, 0], fraction, scope)
        kept = masked.largest(entropy, trained, k, keep_ties=scope == "batch_quantile", axis_name=axis_name)
    weights = kept.astype(entropy.dtype)
    if renormalize:
        weights = weights * n / jnp.maximum(masked.count(kept, entropy, axis=1, axis_name=across), 1)
    return weights.reshape(mask.shape)


def _number_kept(n: Float[Array, " N"], fraction: float, scope: str) -> Int[Array, " N"]:
    if scope == "batch_quantile":
        # The values at or above the linear quantile are those at or above the next order statistic.
        return (n - jnp.ceil((1 - fraction) * (n - 1))).astype(jnp.int32)
    return jnp.maximum(jnp.floor(fraction * n), 1).astype(jnp.int32)
