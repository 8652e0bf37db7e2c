import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.train.score import distances, score
from jaxrl_tok.types import LeftOut
from tests import tiny
from tests.train import cases

forward = jax.jit(lambda params, model, *arrays: model.forward(params, *arrays).prompt, static_argnums=1)
scored = jax.jit(score, static_argnums=1)


def dense_logits(params, model, prompts, tokens):
    """Logits before each completion token in float64, of prompt and completion as one text."""
    size, (rows, group, length) = prompts.tokens.shape[1], tokens.shape
    joined = jnp.concatenate([prompts.tokens.repeat(group, 0), jnp.asarray(tokens.reshape(-1, length))], axis=1)
    none = jnp.zeros((rows * group, 1, 1), jnp.int32)
    states = forward(params, model, joined, prompts.lengths.repeat(group) + length, none)
    states = np.asarray(states, np.float64).reshape(rows, group, size + length, -1)
    return states[:, :, size - 1 : -1] @ np.asarray(model.head(params), np.float64).T


def log_softmax(z):
    z = z - z.max(axis=-1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


def chosen(x, tokens):
    return np.take_along_axis(x, tokens[..., None], axis=-1)[..., 0]


def dense(params, model, prompts, tokens, temperature):
    """Log-probs and entropies by the softmax of all logits."""
    z = log_softmax(dense_logits(params, model, prompts, tokens) / temperature)
    return chosen(z, tokens), -(np.exp(z) * z).sum(axis=-1)


def test_each_token_is_scored_by_the_state_before_it():
    model = tiny.model()
    params, prompts = tiny.weights(model), tiny.prompts(2, 5)
    fields = cases.fields()
    tokens, mask = np.array(fields["tokens"][:2, :2]), np.array(fields["mask"][:2, :2])
    heat = jnp.full((2, 2), 0.7, jnp.float32)
    got = scored(params, model, prompts, jnp.asarray(tokens), jnp.asarray(mask), heat)
    logprobs, entropy = dense(params, model, prompts, tokens, 0.7)
    np.testing.assert_allclose(got.logprobs, np.where(mask, logprobs, 0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got.entropy, np.where(mask, entropy, 0), rtol=1e-4, atol=1e-5)


def test_statistics_are_of_the_same_distribution():
    model = tiny.model()
    params, prompts = tiny.weights(model), tiny.prompts(2, 5)
    fields = cases.fields()
    tokens, mask = np.array(fields["tokens"][:2, :2]), np.array(fields["mask"][:2, :2])
    heat = jnp.full((2, 2), 0.7, jnp.float32)
    names = ("lse", "max_logit", "proxy_logprobs", "sum_logits", "sum_p2", "target_logit")
    arrays = (prompts, jnp.asarray(tokens), jnp.asarray(mask), heat)
    program = jax.jit(score, static_argnums=1, static_argnames="statistics")
    got = program(params, model, *arrays, statistics=names).statistics
    raw = dense_logits(params, model, prompts, tokens)
    z, p = raw / 0.7, np.exp(log_softmax(raw / 0.7))
    kept = p >= 0.02 * p.max(axis=-1, keepdims=True)
    among_kept = np.where(kept, np.log(p / np.where(kept, p, 0).sum(axis=-1, keepdims=True)), -np.inf)
    wanted = {
        "lse": np.log(np.exp(z).sum(axis=-1)),
        "max_logit": z.max(axis=-1),
        "proxy_logprobs": chosen(among_kept, tokens),
        "sum_logits": z.sum(axis=-1),
        "sum_p2": (p**2).sum(axis=-1),
        "target_logit": chosen(raw, tokens),  # before the temperature
    }
    assert got.keys() == wanted.keys()
    for name, x in wanted.items():
        np.testing.assert_allclose(got[name], np.where(mask, x, 0), rtol=1e-4, atol=2e-5, err_msg=name)


def test_distances_are_those_of_the_two_distributions():
    model = tiny.model()
    params, prompts = tiny.weights(model), tiny.prompts(2, 5)
    reference = jax.tree.map(lambda x: x + 0.3 * jnp.sin(7 * x), params)
    fields = cases.fields()
    tokens, mask = np.array(fields["tokens"][:2, :2]), np.array(fields["mask"][:2, :2])
    arrays = (prompts, jnp.asarray(tokens), jnp.asarray(mask), jnp.full((2, 2), 0.7, jnp.float32))
    program = jax.jit(distances, static_argnums=(2, 3), static_argnames="kinds")
    got = program(params, reference, model, model, *arrays, kinds=("hellinger", "js_to_ref", "kl_to_ref"))
    p, q = (np.exp(log_softmax(dense_logits(x, model, prompts, tokens) / 0.7)) for x in (params, reference))
    middle = (p + q) / 2
    wanted = {
        "hellinger": np.sqrt(1 - np.sqrt(p * q).sum(axis=-1)),
        "js_to_ref": (p * np.log(p / middle) + q * np.log(q / middle)).sum(axis=-1) / 2,
        "kl_to_ref": (p * np.log(p / q)).sum(axis=-1),
    }
    for name, x in wanted.items():
        assert x.min() > 1e-3
        np.testing.assert_allclose(got[name], np.where(mask, x, 0), rtol=1e-3, atol=1e-6, err_msg=name)


def test_greedy_completions_are_scored_at_temperature_one():
    model = tiny.model()
    params, prompts, fields = tiny.weights(model), tiny.prompts(8, 5), cases.fields()
    at = [scored(params, model, prompts, fields["tokens"], fields["mask"], jnp.full((8, 4), t)) for t in (0.0, 1.0)]
    np.testing.assert_array_equal(at[0].logprobs, at[1].logprobs)


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [None, -4.5])
@pytest.mark.parametrize("cap", [None, 3.0])
def test_what_was_not_drawn_is_not_in_the_normaliser_nor_in_its_gradient(threshold, cap):
    """Log-probs and slopes beside those of a softmax of all logits in which the tokens are -inf."""
    model = tiny.model(layers=1, tied=False, logit_cap=cap)
    params, prompts, fields = tiny.weights(model), tiny.prompts(2, 5), cases.fields()
    left = LeftOut((1, 9, 30), (2, 9), 3)
    heat, mask = jnp.full((2, 2), 0.7, jnp.float32), fields["mask"][:2, :2]
    gone = np.zeros((mask.shape[-1], 37), bool)
    gone[:, left.ids] = True
    gone[:3, 2] = True
    tokens = np.array(fields["tokens"][:2, :2]) % 5 + 3  # none of them
    weights = jnp.asarray(np.random.default_rng(0).normal(size=mask.shape), jnp.float32)
    tokens = jnp.asarray(tokens, jnp.int32)

    def direct(params):
        states = model.forward(params, prompts.tokens, prompts.lengths, tokens)
        first = jnp.broadcast_to(states.prompt[:, None, -1:], (2, 2, 1, model.arch.dim))
        hidden = jnp.concatenate([first, states.completion[:, :, :-1]], axis=2)
        z = jnp.einsum("PGTD,VD->PGTV", hidden, model.head(params))
        z = jnp.where(gone, -jnp.inf, (z if cap is None else cap * jnp.tanh(z / cap)) / 0.7)
        z = jax.nn.log_softmax(z, axis=-1)
        if threshold is not None:
            z = jax.nn.log_softmax(jnp.where(z >= threshold, z, -jnp.inf), axis=-1)
        z = jnp.take_along_axis(z, tokens[..., None], axis=-1)[..., 0]
        z = jnp.where(mask & (z > -jnp.inf), z, 0)
        return jnp.sum(z * weights), z

    def scored(params):
        kept = None if threshold is None else jnp.full(mask.shape, threshold)
        z = score(params, model, prompts, tokens, mask, heat, kept, left_out=left).logprobs
        return jnp.sum(jnp.where(direct(params)[1] < 0, z, 0) * weights), z

    (_, want), want_grads = jax.jit(jax.value_and_grad(direct, has_aux=True))(params)
    (_, got), grads = jax.jit(jax.value_and_grad(scored, has_aux=True))(params)
    known = np.asarray(want) < 0
    assert known.sum() > 5
    np.testing.assert_allclose(np.where(known, got, 0), want, rtol=1e-4, atol=1e-5)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(want_grads), strict=True):
        assert np.linalg.norm(a - b) <= 1e-4 * np.linalg.norm(b)
