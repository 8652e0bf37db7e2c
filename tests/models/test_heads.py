"""A critic's values and a reward model's score against indexing by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.models import Critic, Lora, RewardModel, params
from jaxrl_tok.models.row_model import RowModel
from jaxrl_tok.train.score import score
from tests import tiny

POLICY = tiny.model(layers=1)
PROMPTS = tiny.prompts(2, 6)
RNG = np.random.default_rng(1)
AFTER = jnp.asarray(RNG.integers(3, 37, (2, 3, 5)), jnp.int32)
LENGTHS = np.array([[5, 2, 1], [4, 0, 3]])
MASK = jnp.asarray(np.arange(5) < LENGTHS[..., None])

forward = jax.jit(lambda weights, model, *arrays: model.forward(weights, *arrays), static_argnums=1)


@functools.cache
def hidden():
    """The policy's states, the prompt's [P, S, D] and the completions' [P, G, T, D]."""
    found = forward(tiny.weights(POLICY), POLICY, PROMPTS.tokens, PROMPTS.lengths, AFTER)
    return np.asarray(found.prompt, np.float64), np.asarray(found.completion, np.float64)


KERNEL = jnp.asarray(RNG.normal(size=32), jnp.float32)
HEAD = {"kernel": KERNEL, "bias": jnp.float32(0.25)}


def by_hand(state):
    return state @ np.asarray(KERNEL, np.float64) + 0.25


@functools.cache
def scorer(model):
    return jax.jit(lambda weights, after, mask: score(weights, model, PROMPTS, after, mask, jnp.ones((2, 3))))


@pytest.mark.parametrize("trunk", ["shared", pytest.param("detached", marks=pytest.mark.slow)])
def test_a_value_is_of_the_state_before_its_token(trunk):
    """So it sees the prompt and earlier tokens, and neither its own token nor a later one."""
    critic = Critic(POLICY, trunk)
    weights = {"policy": tiny.weights(POLICY), "value": HEAD}
    found = scorer(critic)(weights, AFTER, MASK)
    prompt, completion = hidden()
    for p, g, t in np.ndindex(2, 3, 5):
        before = prompt[p, -1] if t == 0 else completion[p, g, t - 1]
        expected = by_hand(before) if t < LENGTHS[p, g] else 0
        np.testing.assert_allclose(found.values[p, g, t], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found.logprobs, scorer(POLICY)(weights["policy"], AFTER, MASK).logprobs)
    last = AFTER.at[0, 0, 4].set(11)  # the first completion's last token
    np.testing.assert_array_equal(scorer(critic)(weights, last, MASK).values, found.values)
    middle = scorer(critic)(weights, AFTER.at[0, 0, 2].set(11), MASK).values
    moved = np.asarray(middle != found.values)
    assert moved[0, 0].tolist() == [False, False, False, True, True] and not moved[0, 1:].any() and not moved[1].any()


def test_values_start_at_0_and_no_policy_without_a_critic_has_any():
    critic = Critic(POLICY)
    found = scorer(critic)(tiny.weights(critic), AFTER, MASK)
    np.testing.assert_array_equal(found.values, np.zeros((2, 3, 5)))
    assert scorer(POLICY)(tiny.weights(POLICY), AFTER, MASK).values is None


@pytest.mark.slow
@pytest.mark.parametrize("trunk", ["shared", "detached"])
def test_a_loss_of_values_reaches_the_trunk_only_if_it_is_shared(trunk):
    critic = Critic(POLICY, trunk)
    weights = {"policy": tiny.weights(POLICY), "value": HEAD}

    def loss(weights):
        found = score(weights, critic, PROMPTS, AFTER, MASK, jnp.ones((2, 3)))
        return jnp.sum(jnp.where(MASK, (found.values - 1) ** 2, 0))

    grads = jax.jit(jax.grad(loss))(weights)
    norms = [float(jnp.linalg.norm(g)) for g in jax.tree.leaves(grads["policy"]["layers"])]
    assert min(norms) > 0 if trunk == "shared" else max(norms) == 0
    prompt, completion = hidden()
    states = np.concatenate([np.repeat(prompt[:, None, -1:], 3, axis=1), completion[:, :, :-1]], axis=2)
    errors = np.where(np.asarray(MASK), by_hand(states) - 1, 0)
    np.testing.assert_allclose(grads["value"]["bias"], 2 * errors.sum(), rtol=1e-4)
    kernel = 2 * np.einsum("pgt,pgtd->d", errors, states)
    np.testing.assert_allclose(grads["value"]["kernel"], kernel, rtol=1e-3, atol=1e-3)


def test_the_head_is_float32_with_a_learning_rate_of_its_own():
    specs = Critic(Lora(POLICY, 2, 4.0)).specs()
    assert {spec.group for spec in jax.tree.leaves(specs["value"])} == {"critic"}
    assert all(spec.trained for spec in jax.tree.leaves(specs["value"]))
    value = params.abstract(specs, jnp.bfloat16)["value"]
    assert {name: (x.shape, x.dtype) for name, x in value.items()} == {
        "kernel": ((32,), jnp.float32),
        "bias": ((), jnp.float32),
    }


REWARD = RewardModel(POLICY)
rewards = jax.jit(REWARD.score)


@functools.cache
def reward_weights():
    return {"model": tiny.weights(POLICY), "score": HEAD}


def test_a_score_is_of_the_state_that_has_read_the_last_token():
    got = rewards(reward_weights(), PROMPTS.tokens, PROMPTS.lengths, AFTER, MASK)
    prompt, completion = hidden()
    for p, g in np.ndindex(2, 3):
        # A completion without tokens: what the prompt is worth.
        state = completion[p, g, LENGTHS[p, g] - 1] if LENGTHS[p, g] else prompt[p, -1]
        np.testing.assert_allclose(got[p, g], by_hand(state), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_score_does_not_depend_on_padding():
    got = rewards(reward_weights(), PROMPTS.tokens, PROMPTS.lengths, AFTER, MASK)
    front = np.arange(6) < (6 - np.asarray(PROMPTS.lengths))[:, None]
    assert front.any()
    tokens, after = jnp.where(front, 9, PROMPTS.tokens), jnp.where(MASK, AFTER, 9)
    np.testing.assert_array_equal(rewards(reward_weights(), tokens, PROMPTS.lengths, after, MASK), got)
    # Two more places on either side: other shapes, so other roundings.
    wider = [np.pad(x, [(0, 0)] * (x.ndim - 1) + [by]) for x, by in ((tokens, (2, 0)), (after, (0, 2)), (MASK, (0, 2)))]
    again = rewards(reward_weights(), wider[0], PROMPTS.lengths, *wider[1:])
    np.testing.assert_allclose(again, got, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_score_is_trained_on_preferences():
    """Bradley-Terry: the first completion of each prompt is to score above the others."""
    model = RewardModel(Lora(POLICY, 2, 4.0))
    weights = tiny.weights(model)
    assert np.linalg.norm(weights["score"]["kernel"]) > 0

    def loss(score, lora):
        own = {"model": weights["model"] | {"lora": lora}, "score": score}
        scores = model.score(own, PROMPTS.tokens, PROMPTS.lengths, AFTER, MASK)
        return -jnp.mean(jax.nn.log_sigmoid(scores[:, :1] - scores[:, 1:]))

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    own, losses = (weights["score"], weights["model"]["lora"]), []
    for _ in range(20):
        value, grads = step(*own)
        losses.append(float(value))
        own = jax.tree.map(lambda x, g: x - jnp.float32(0.05) * g, own, grads)
    assert losses[-1] < losses[0] / 2
    moved = jax.tree.map(lambda x, y: float(jnp.abs(x - y).max()), own, (weights["score"], weights["model"]["lora"]))
    # The bias is in both scores, so nothing tells how large it is to be.
    assert moved[0]["kernel"] > 1e-3 and moved[0]["bias"] < 1e-6
    assert all(pair["a"] > 0 and pair["b"] > 0 for pair in moved[1].values())


def test_a_model_of_logits_has_no_states_for_a_head():
    logits = RowModel(lambda params, tokens, positions, seen: tokens, None, 37, jax.tree.structure({}), ())
    with pytest.raises(ConfigError, match="gives logits and no hidden states"):
        Critic(logits).specs()
