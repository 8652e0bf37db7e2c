import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.models import transformer
from jaxrl_tok.train.score import score
from tests import tiny
from tests.train import cases


def dense(params, arch, prompts, tokens, temperature):
    """Log-softmax of all logits, one text at a time, in float64."""
    logprobs, entropy = np.zeros(tokens.shape), np.zeros(tokens.shape)
    for p, g in np.ndindex(tokens.shape[:2]):
        text = np.asarray(prompts.tokens[p, prompts.tokens.shape[1] - int(prompts.lengths[p]) :])
        joined = jnp.asarray(np.concatenate([text, tokens[p, g]]))[None]
        none = jnp.zeros((1, 1, 1), jnp.int32)
        hidden, _ = transformer.forward(params, arch, joined, jnp.array([joined.shape[1]], jnp.int32), none)
        logits = np.asarray(hidden[0], np.float64) @ np.asarray(transformer.head(params), np.float64).T
        for t, token in enumerate(tokens[p, g]):
            z = logits[len(text) + t - 1] / temperature
            z = z - np.log(np.exp(z - z.max()).sum()) - z.max()
            logprobs[p, g, t], entropy[p, g, t] = z[token], -(np.exp(z) * z).sum()
    return logprobs, entropy


def test_each_token_is_scored_by_the_state_before_it():
    arch = tiny.architecture()
    params, prompts = tiny.weights(arch), tiny.prompts(2, 5)
    fields = cases.fields()
    tokens, mask = np.array(fields["tokens"][:2, :2]), np.array(fields["mask"][:2, :2])
    heat = jnp.full((2, 2), 0.7, jnp.float32)
    got = jax.jit(score, static_argnums=1)(params, arch, prompts, jnp.asarray(tokens), jnp.asarray(mask), heat)
    logprobs, entropy = dense(params, arch, prompts, tokens, 0.7)
    np.testing.assert_allclose(got.logprobs, np.where(mask, logprobs, 0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got.entropy, np.where(mask, entropy, 0), rtol=1e-4, atol=1e-5)


def test_greedy_completions_are_scored_at_temperature_one():
    arch = tiny.architecture()
    params, prompts, fields = tiny.weights(arch), tiny.prompts(8, 5), cases.fields()
    at = [score(params, arch, prompts, fields["tokens"], fields["mask"], jnp.full((8, 4), t)) for t in (0.0, 1.0)]
    np.testing.assert_array_equal(at[0].logprobs, at[1].logprobs)
