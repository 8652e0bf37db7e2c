import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.train.score import distances, score
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
