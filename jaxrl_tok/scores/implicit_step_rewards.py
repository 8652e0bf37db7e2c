"""Step rewards from a reward model that is a policy."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok.scores.segment_sums import segment_sums


def implicit_step_rewards(
    segment_ids: Int[Array, "P G T"],
    step_mask: Bool[Array, "P G S"],
    old_logprobs: Float[Array, "P G T"],
    prm_logprobs: Float[Array, "P G T"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    beta: float = 0.05,
    normalize: bool = True,
    axis_name: str | None = None,
) -> Float[Array, "P G S"]:
    """How much likelier a step is under the implicit reward model than under the policy.

        r[p,g,s] = beta sum_{t in s} (prm_logprobs - old_logprobs)[p,g,t],   with `normalize` over max |r| + 1e-6

    OPRL, https://arxiv.org/abs/2509.19199, whose code, released as iStar, takes the policy that sampled the batch as
    the reference, beta 0.05, and the largest absolute reward of the batch. 0 for a step that does not exist. The
    batch is the whole one under `jit` on a mesh; inside `shard_map` the shard, or with `axis_name` all shards.
    """
    step_mask = step_mask if valid is None else step_mask & valid[:, :, None]
    gains = jnp.where(mask, prm_logprobs, 0) - jnp.where(mask, old_logprobs, 0)
    rewards = beta * segment_sums(gains, segment_ids, step_mask, mask)
    if not normalize:
        return rewards
    largest = jnp.max(jnp.abs(rewards), initial=0)
    largest = largest if axis_name is None else jax.lax.pmax(largest, axis_name)
    return rewards / (largest + 1e-6)
