import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.models import transformer
from jaxrl_tok.train.score import score
from tests import tiny
from tests.train import cases

forward = jax.jit(transformer.forward, static_argnums=1)
scored = jax.jit(score, static_argnums=1)


def dense(params, arch, prompts, tokens, temperature):
    """Log-softmax of all logits in float64, of prompt and completion as one text."""
    logprobs, entropy = np.zeros(tokens.shape), np.zeros(tokens.shape)
    size, (rows, group, length) = prompts.tokens.shape[1], tokens.shape
    joined = jnp.concatenate([prompts.tokens.repeat(group, 0), jnp.asarray(tokens.reshape(-1, length))], axis=1)
    none = jnp.zeros((rows * group, 1, 1), jnp.int32)
    states, _ = forward(params, arch, joined, prompts.lengths.repeat(group) + length, none)
    states = np.asarray(states, np.float64).reshape(rows, group, size + length, -1)
    for p, g in np.ndindex(tokens.shape[:2]):
        logits = states[p, g] @ np.asarray(transformer.head(params), np.float64).T
        for t, token in enumerate(tokens[p, g]):
            z = logits[size + t - 1] / temperature
            z = z - np.log(np.exp(z - z.max()).sum()) - z.max()
            logprobs[p, g, t], entropy[p, g, t] = z[token], -(np.exp(z) * z).sum()
    return logprobs, entropy


def test_each_token_is_scored_by_the_state_before_it():
    arch = tiny.architecture()
    params, prompts = tiny.weights(arch), tiny.prompts(2, 5)
    fields = cases.fields()
    tokens, mask = np.array(fields["tokens"][:2, :2]), np.array(fields["mask"][:2, :2])
    heat = jnp.full((2, 2), 0.7, jnp.float32)
    got = scored(params, arch, prompts, jnp.asarray(tokens), jnp.asarray(mask), heat)
    logprobs, entropy = dense(params, arch, prompts, tokens, 0.7)
    np.testing.assert_allclose(got.logprobs, np.where(mask, logprobs, 0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got.entropy, np.where(mask, entropy, 0), rtol=1e-4, atol=1e-5)


def test_greedy_completions_are_scored_at_temperature_one():
    arch = tiny.architecture()
    params, prompts, fields = tiny.weights(arch), tiny.prompts(8, 5), cases.fields()
    at = [scored(params, arch, prompts, fields["tokens"], fields["mask"], jnp.full((8, 4), t)) for t in (0.0, 1.0)]
    np.testing.assert_array_equal(at[0].logprobs, at[1].logprobs)
