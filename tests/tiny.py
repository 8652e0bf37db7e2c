"""A model small enough for any test, and prompts for it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.models import Architecture, Transformer, params
from jaxrl_tok.types import Prompts, Sampling


def architecture(**changes) -> Architecture:
    """Two layers, eight query heads over two key/value heads."""
    sizes = {"vocab": 37, "layers": 2, "dim": 32, "heads": 4, "kv_heads": 2, "head_dim": 8, "ffw": 48}
    return Architecture(**(sizes | {"scale_embedding": True} | changes))


def model(**changes) -> Transformer:
    """A decoder of these sizes."""
    return Transformer(architecture(**changes))


def weights(model, seed: int = 0):
    """Parameters of a model."""
    return jax.jit(functools.partial(params.init, model.specs(), seed))()


def prompts(count: int, size: int, vocab: int = 37, seed: int = 0) -> Prompts:
    """Prompts of different lengths, padded on the left."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, size + 1, count)
    tokens = rng.integers(3, vocab, (count, size))
    tokens[np.arange(size) < (size - lengths)[:, None]] = 0
    return Prompts(
        jnp.asarray(tokens, jnp.int32), jnp.asarray(lengths, jnp.int32), jnp.arange(count, dtype=jnp.int32) + 7
    )


def sampling(shape, limit, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0) -> Sampling:
    """The same settings for every request."""
    return Sampling(
        jnp.full(shape, limit, jnp.int32),
        jnp.full(shape, temperature, jnp.float32),
        jnp.full(shape, top_k, jnp.int32),
        jnp.full(shape, top_p, jnp.float32),
        jnp.full(shape, min_p, jnp.float32),
    )
