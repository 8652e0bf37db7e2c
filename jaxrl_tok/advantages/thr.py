"""Advantage that favours, or disfavours, tokens which make correct completions likelier."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.scores import thr_scores


def thr(
    advantages: Float[Array, "P G T"],
    rewards: Float[Array, "P G"],
    hidden: Float[Array, "P G T D"],
    token_errors: Float[Array, "P G T V"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    p: float = 0.1,
    tau: float = 0.0,
    threshold: float = 0.5,
) -> Float[Array, "P G T"]:
    """The advantage on tokens with a large hidden reward only, larger or smaller by the sign of that.

        A'[p,g,t] = A[p,g,t] (1 + p sgn(h[p,g,t])) if |h[p,g,t]| > tau else 0
        h = s in correct completions, -s in wrong ones

    THR, https://arxiv.org/abs/2510.03669; s is `thr_scores`, under the old policy. p > 0 exploits, p < 0 explores;
    the values of p and tau are ours. A completion is correct when its reward is above `threshold`. A group that is
    all correct or all wrong stays as it is.

    Raises:
        ConfigError: `p` is not in [-1, 1] or `tau` is negative.

    Fidelity: reconstructed. The formulas are from descriptions of the paper, not from its code.
    Degenerate: p = 0 and tau = 0 change nothing but the tokens whose score is exactly 0.
    """
    if not (-1 <= p <= 1 and tau >= 0):
        raise ConfigError(f"thr: p = {p!r} must lie in [-1, 1] and tau = {tau!r} be at least 0")
    valid = jnp.ones_like(rewards, bool) if valid is None else valid
    trained = mask & valid[:, :, None]
    scores = thr_scores(hidden, token_errors, rewards, mask, valid, threshold=threshold)
    correct = valid & (rewards > threshold)
    hidden_reward = jnp.where(correct[:, :, None], scores, -scores)
    factor = jnp.where(jnp.abs(hidden_reward) > tau, 1 + p * jnp.sign(hidden_reward), 0)
    mixed = jnp.any(correct, axis=1) & jnp.any(valid & ~correct, axis=1)
    return jnp.where(trained, advantages * jnp.where(mixed[:, None, None], factor, 1), 0)
