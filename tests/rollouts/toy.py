"""A model so small that every completion's probability can be written down."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.train.score import score
from jaxrl_tok.types import Prompts
from tests import tiny


@functools.cache
def toy():
    """A vocabulary of three with one end, completions of up to three tokens: 15 of them. Their probabilities."""
    model = tiny.model(vocab=3, layers=1, tied=False)
    weights = tiny.weights(model)
    texts = [t for n in (1, 2, 3) for t in itertools.product(range(3), repeat=n)]
    texts = [t for t in texts if 0 not in t[:-1] and (len(t) == 3 or t[-1] == 0)]
    tokens = np.zeros((1, len(texts), 3), np.int32)
    for i, text in enumerate(texts):
        tokens[0, i, : len(text)] = text
    mask = np.arange(3) < np.array([[len(text)] for text in texts])
    prompt = jnp.array([[1, 2, 1]], jnp.int32), jnp.array([3], jnp.int32)
    arrays = jnp.asarray(tokens), jnp.asarray(mask)[None], jnp.ones((1, len(texts)), jnp.float32)
    scored = jax.jit(score, static_argnums=1)(weights, model, Prompts(*prompt, jnp.zeros(1, jnp.int32)), *arrays)
    logprobs = np.where(mask, np.asarray(scored.logprobs, np.float64)[0], 0).sum(-1)
    return model, weights, prompt, {text: np.exp(x) for text, x in zip(texts, logprobs, strict=True)}


def chi_square(counts, probabilities, total):
    assert abs(sum(probabilities.values()) - 1) < 1e-5 and min(probabilities.values()) * total > 5
    return sum((counts.get(t, 0) - total * p) ** 2 / (total * p) for t, p in probabilities.items())
