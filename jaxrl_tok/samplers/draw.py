"""One token a row from the filtered distribution, with what the trainer must know of it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

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
    kept = filter_min_p(filter_top_p(filter_top_k(scaled, top_k), top_p), min_p)
    noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:], logits.dtype))(keys)
    greedy = temperature <= 0
    tokens = jnp.argmax(jnp.where(greedy[:, None], scaled, kept + noise), axis=-1).astype(jnp.int32)
    chosen = jnp.take_along_axis(kept, tokens[:, None], axis=-1)[:, 0]
    logprobs = jnp.where(greedy, 0, chosen - jax.nn.logsumexp(kept, axis=-1))
    return tokens, logprobs, jnp.where(greedy, -jnp.inf, _threshold(scaled, kept))


def _threshold(scaled: Float[Array, "B V"], kept: Float[Array, "B V"]) -> Float[Array, " B"]:
    is_kept = kept > -jnp.inf
    lowest = jnp.min(jnp.where(is_kept, scaled, jnp.inf), axis=-1)
    highest = jnp.max(jnp.where(is_kept, -jnp.inf, scaled), axis=-1)  # -inf where all are kept
    return (lowest + highest) / 2 - jax.nn.logsumexp(scaled, axis=-1)
