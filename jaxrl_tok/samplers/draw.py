"""One token a row from the filtered distribution, with what the trainer must know of it."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jaxrl_tok.samplers.min_p import min_p as filter_min_p
from jaxrl_tok.samplers.temperature import temperature as divide_by_temperature
from jaxrl_tok.samplers.top_k import top_k as filter_top_k
from jaxrl_tok.samplers.top_p import top_p as filter_top_p


def draw(
    keys: Key[Array, " B"],
    logits: Float[Array, "B V"],
    temperature: Float[Array, " B"],
    top_k: Int[Array, " B"],
    top_p: Float[Array, " B"],
    min_p: Float[Array, " B"],
) -> tuple[Int[Array, " B"], Float[Array, " B"], Float[Array, " B"]]:
    """Returns a token a row, its log-prob under the distribution drawn from, and the threshold of that one.

    Filters apply in the order temperature, top-k, top-p, min-p, each on what the one before left.
    A token was kept iff its log-prob before filtering is at least the threshold, which lies halfway between
    the least probable kept and the most probable dropped token (-inf if none was dropped): so rounding in
    another program does not change the set. Temperature 0 takes the argmax, with log-prob 0.
    Ties of the argmax go to the lowest id.
    """
    scaled = divide_by_temperature(logits, temperature)

    def keep(scaled: Array) -> tuple[Array, Array]:
        kept = filter_min_p(filter_top_p(filter_top_k(scaled, top_k), top_p), min_p)
        return kept, _threshold(scaled, kept)

    def keep_all(scaled: Array) -> tuple[Array, Array]:
        return scaled, jnp.full_like(scaled[:, 0], -jnp.inf)

    kept, threshold = jax.lax.cond(jnp.any((top_k > 0) | (top_p < 1) | (min_p > 0)), keep, keep_all, scaled)
    greedy = temperature <= 0
    tokens, total = _choose(keys, kept, greedy)
    chosen = jnp.take_along_axis(kept, tokens[:, None], axis=-1)[:, 0]
    return tokens, jnp.where(greedy, 0, chosen - total), jnp.where(greedy, -jnp.inf, threshold)


def sampled_entropy(
    logits: Float[Array, "B V"], temperature: Float[Array, " B"], threshold: Float[Array, " B"]
) -> Float[Array, " B"]:
    """Returns the entropy, in nats, of what `draw` draws from: 0 at temperature 0. Logits of -inf count nothing."""
    logprobs = jax.nn.log_softmax(logits / jnp.where(temperature > 0, temperature, 1)[:, None], axis=-1)
    kept = (logprobs >= threshold[:, None]) & (logprobs > -jnp.inf)
    logprobs = jnp.where(kept, logprobs, -jnp.inf)
    total = jax.nn.logsumexp(logprobs, axis=-1, keepdims=True)
    entropy = -jnp.sum(jnp.where(kept, jnp.exp(logprobs - total) * (logprobs - total), 0), axis=-1)
    return jnp.where(temperature > 0, entropy, 0)


def _choose(
    keys: Key[Array, " B"], logits: Float[Array, "B V"], greedy: Bool[Array, " B"]
) -> tuple[Int[Array, " B"], Float[Array, " B"]]:
    """Draws from softmax(logits), or takes the argmax; also returns the log of the sum of exponentials.

    In two stages: a block of about sqrt(V) tokens by its mass, then a token of the block, each as the argmax of
    log-mass plus Gumbel noise. P(block) P(token | block) = P(token), with 2 sqrt(V) random numbers in place of V.
    Unlike a comparison of one uniform number with cumulated masses it adds up no rounding errors, resolves
    rare tokens beside likely ones, and draws no token of mass 0. Maddison et al. 2014, arXiv 1411.0030.
    """
    rows, vocab = logits.shape
    size = 1 << round(math.log2(vocab) / 2)
    padding = [(0, 0), (0, -vocab % size)]
    blocks = jnp.pad(logits, padding, constant_values=-jnp.inf).reshape(rows, -1, size)
    mass = jax.nn.logsumexp(blocks, axis=-1)
    count = mass.shape[1]
    noise = jax.vmap(lambda key: jax.random.gumbel(key, (count + size,), logits.dtype))(keys)
    noise = jnp.where(greedy[:, None], 0, noise)
    block = jnp.argmax(jnp.where(greedy[:, None], jnp.max(blocks, axis=-1), mass) + noise[:, :count], axis=-1)
    inside = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    token = block * size + jnp.argmax(inside + noise[:, count:], axis=-1)
    return token.astype(jnp.int32), jax.nn.logsumexp(mass, axis=-1)


def _threshold(scaled: Float[Array, "B V"], kept: Float[Array, "B V"]) -> Float[Array, " B"]:
    is_kept = kept > -jnp.inf
    lowest = jnp.min(jnp.where(is_kept, scaled, jnp.inf), axis=-1)
    highest = jnp.max(jnp.where(is_kept, -jnp.inf, scaled), axis=-1)  # -inf where all are kept
    return (lowest + highest) / 2 - jax.nn.logsumexp(scaled, axis=-1)
