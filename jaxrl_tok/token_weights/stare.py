"""More weight for surprising tokens of good completions, while the policy's entropy is low."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked
from jaxrl_tok.errors import ConfigError
from jaxrl_tok.types import Leaf, pytree


@pytree
class State:
    """The two weights, which the controller moves."""

    positive: Leaf  # f32[], W, of surprising tokens with a positive advantage
    negative: Leaf  # f32[], M, of those with a negative one


def stare(
    prepared: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
) -> Float[Array, "B T"]:
    """Weight W on the most surprising tokens with a positive advantage (C2: M with a negative), 1 on the rest.

        surprise[b,t] = -logprobs[b,t], of the current policy
        w[b,t] = W on the k+ most surprising tokens with A > 0
               = M on the k- most surprising tokens with A < 0, in variant "C2"
               = 1 elsewhere, and everywhere while the mean of old_entropy is at least `target_entropy`
        k = max(1, floor(fraction N + 0.999999)) of the N tokens of that sign

    STARE, https://arxiv.org/abs/2606.19236: W = 1.1, M = 0.9, a tenth of the tokens and an entropy of 0.3 nats;
    1.05 and 0.95 for 14B and 32B models. It goes with a dual clip of 10 and clips of 0.2 and 0.28. Selection and
    mean entropy (of tokens) are over the whole minibatch, in `prepare`; the code selects in the microbatch. Of
    equally surprising tokens the first are taken, of a sign without a token none. With `adapt` above 0 (0.01 in the
    paper) `controller` moves W and M once an update, before they are used. Weights leave the denominator as it is.

    Fidelity: code.
    Degenerate: weight = negative_weight = 1, or an entropy above the target, is `uniform`.
    """
    return jnp.where(mask, prepared, 0)


def init(*, weight: float = 1.1, negative_weight: float = 0.9) -> State:
    """Gives W and M as they are first.

    Raises:
        ConfigError: a weight is negative.
    """
    if weight < 0 or negative_weight < 0:
        raise ConfigError(f"stare: weight = {weight!r} and negative_weight = {negative_weight!r} must be at least 0")
    return State(*(jnp.asarray(x, jnp.result_type(float)) for x in (weight, negative_weight)))


def prepare(
    state: State,
    logprobs: Float[Array, "B T"],
    old_entropy: Float[Array, "B T"],
    advantages: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    fraction: float = 0.1,
    variant: Literal["O1", "C2"] = "O1",
    target_entropy: float = 0.3,
    adapt: float = 0.0,
    axis_name: str | None = None,
) -> tuple[Float[Array, "B T"], State]:
    """Weights of the minibatch's tokens, and the state after it.

    Raises:
        ConfigError: `fraction` is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ConfigError(f"stare: fraction = {fraction!r} must lie in (0, 1]")
    entropy = masked.mean(old_entropy, mask, axis_name=axis_name)
    on, state = controller(state, entropy, target_entropy=target_entropy, adapt=adapt)
    surprise = -jax.lax.stop_gradient(logprobs)
    weights = jnp.ones_like(surprise)
    chosen = _most_surprising(surprise, mask & (advantages > 0), fraction, axis_name)
    weights = jnp.where(chosen, state.positive.astype(weights.dtype), weights)
    if variant == "C2":
        chosen = _most_surprising(surprise, mask & (advantages < 0), fraction, axis_name)
        weights = jnp.where(chosen, state.negative.astype(weights.dtype), weights)
    return jnp.where(mask, jnp.where(on, weights, 1), 0), state


def controller(
    state: State, entropy: Float[Array, ""], *, target_entropy: float = 0.3, adapt: float = 0.0
) -> tuple[Bool[Array, ""], State]:
    """Says whether the weights apply, and moves them by `adapt` towards the entropy that is wanted.

        on = entropy < target_entropy
        W <- clip(W + adapt sgn(target_entropy - entropy), 1, 1.5)
        M <- clip(M - adapt sgn(target_entropy - entropy), 0.5, 1)

    `adapt = 0` leaves them as they are, outside these bounds too.
    """
    if adapt:
        step = (adapt * jnp.sign(target_entropy - entropy)).astype(state.positive.dtype)
        state = State(jnp.clip(state.positive + step, 1, 1.5), jnp.clip(state.negative - step, 0.5, 1))
    return entropy < target_entropy, state


def _most_surprising(
    surprise: Float[Array, "B T"], mask: Bool[Array, "B T"], fraction: float, axis_name: str | None
) -> Bool[Array, "B T"]:
    surprise, candidates = surprise.reshape(1, -1), mask.reshape(1, -1)
    n = masked.count(candidates, surprise, axis=1, axis_name=axis_name)[:, 0]
    k = jnp.maximum(jnp.floor(fraction * n + 0.999999), 1).astype(jnp.int32)
    return masked.largest(surprise, candidates, k, axis_name=axis_name).reshape(mask.shape)
