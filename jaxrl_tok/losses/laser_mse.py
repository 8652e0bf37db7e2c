"""Squared error of the policy's own verdict on its completions."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked


def laser_mse(
    last_token_score: Float[Array, " B"],
    rewards: Float[Array, " B"],
    finished: Bool[Array, " B"],
    prepared: Float[Array, " B"],
    valid: Bool[Array, " B"] | None = None,
    *,
    beta: float = 0.1,
    reference: float = -23.0,
) -> Float[Array, " B"]:
    """Squared distance of the last token's self-reward from the reward, one number a completion.

        loss[b] = v[b] (s[b] - r[b])^2 if finished[b] else 0,   s[b] = beta (last_token_score[b] - reference)
        v[b] = N / (2 N_c) with `balanced`, else 1;   N finished completions, N_c of them of b's class

    LaSeR, https://arxiv.org/abs/2510.14943: the score is the log-prob of an unused token right after the end, under
    the current policy and with gradient; `reference` stands for its log-prob under the reference model, -23 for
    Qwen and -25 for Octothinker. Rewards are 0 or 1, and the classes are those above `threshold` and the others; a
    class without a completion has no weight to give. Counts are over the whole minibatch. The paper weighs the term
    0.1 and averages it by `row_mean`, over unfinished completions too. 0 for a completion that is not valid.

    Fidelity: code.
    Degenerate: balanced = false is the plain mean squared error; so are two classes of the same size.
    """
    valid = jnp.ones_like(finished) if valid is None else valid
    counts = valid & finished
    score = beta * (jnp.where(counts, last_token_score, 0) - reference)
    error = score - jnp.where(counts, rewards, 0)
    return jnp.where(counts, prepared * error**2, 0)


def prepare(
    rewards: Float[Array, " B"],
    finished: Bool[Array, " B"],
    valid: Bool[Array, " B"] | None = None,
    *,
    balanced: bool = True,
    threshold: float = 0.5,
    axis_name: str | None = None,
) -> Float[Array, " B"]:
    """Returns the weight of each completion, from the sizes of the classes in the whole minibatch."""
    if not balanced:
        return jnp.ones_like(rewards)
    counts = finished if valid is None else finished & valid
    correct = rewards > threshold
    n, right = (masked.count(x, rewards, axis_name=axis_name) for x in (counts, counts & correct))
    of_class = jnp.where(correct, right, n - right)
    return jnp.where(counts, n / (2 * jnp.maximum(of_class, 1)), 0)
