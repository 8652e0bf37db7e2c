"""Token rewards from a policy that was trained on preferences."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok.scores.outcome_token_rewards import outcome_token_rewards


def rto_token_rewards(
    rewards: Float[Array, "P G"],
    old_logprobs: Float[Array, "P G T"],
    ref_logprobs: Float[Array, "P G T"],
    dpo_logprobs: Float[Array, "P G T"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    dpo_coef: float = 0.05,
    dpo_clip: float = 0.05,
    kl_coef: float = 0.01,
    reward_clip: float = 10.0,
) -> Float[Array, "P G T"]:
    """What the preference-trained policy says of each token, less a KL penalty, with the outcome on the last.

        y[p,g,t] = clip(b1 (dpo - ref), -c, c) - b2 (old - ref) + 1[t is last] clip(r[p,g], -C, C)
        b1 = dpo_coef, c = dpo_clip, b2 = kl_coef, C = reward_clip; dpo, ref, old log-probs of the token

    RTO, https://arxiv.org/abs/2404.18922, with the constants of the authors' code, which scales first and clips
    then: at the defaults a log-ratio beyond +-1 is cut. `dpo_clip = 0` clips nothing. `dpo_coef = 0` leaves PPO's
    reward with a KL penalty (in the authors' code a scale of 0 means 1). In nats. 0 where masked.
    """
    mask = mask if valid is None else mask & valid[:, :, None]
    old, ref, dpo = (jnp.where(mask, x, 0) for x in (old_logprobs, ref_logprobs, dpo_logprobs))
    preference = dpo_coef * (dpo - ref)
    if dpo_clip > 0:
        preference = jnp.clip(preference, -dpo_clip, dpo_clip)
    outcome = outcome_token_rewards(jnp.clip(rewards, -reward_clip, reward_clip), mask, valid)
    return preference - kl_coef * (old - ref) + outcome
