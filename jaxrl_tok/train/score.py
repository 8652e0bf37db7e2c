"""Scoring passes: log-probs and entropies of given completions. The one place that shifts tokens."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok import models
from jaxrl_tok.kernels import kept_logprobs, token_score
from jaxrl_tok.models import transformer
from jaxrl_tok.types import Leaf, Prompts, pytree


@pytree
class Scores:
    """What one pass of one policy says about each completion token."""

    logprobs: Leaf  # f32[P, G, T], of the distribution that was sampled: same temperature, same kept set
    entropy: Leaf  # f32[P, G, T], at that temperature, before filtering


def score(
    params: Any,
    arch: models.Architecture,
    prompts: Prompts,
    tokens: Int[Array, "P G T"],
    mask: Bool[Array, "P G T"],
    temperature: Float[Array, "P G"],
    keep_thresholds: Float[Array, "P G T"] | None = None,
    *,
    backend: str = "auto",
) -> Scores:
    """Returns log p(tokens[t] | prompt, tokens[<t]) and the entropy of that distribution, 0 where masked.

    `keep_thresholds` renormalises over the tokens that the sampler's filters kept; None when it had none.
    Temperature 0 (greedy) is scored at 1.
    """
    prompt, completion = transformer.forward(params, arch, prompts.tokens, prompts.lengths, tokens)
    # Token t is predicted by the state at t - 1; the first one by the prompt's last token.
    first = jnp.broadcast_to(prompt[:, None, -1:], (*completion.shape[:2], 1, completion.shape[-1]))
    hidden = jnp.concatenate([first, completion[:, :, :-1]], axis=2)
    targets = jnp.where(mask, tokens, -1)
    inverse = jnp.where(temperature > 0, 1 / jnp.where(temperature > 0, temperature, 1), 1)
    inverse = jnp.broadcast_to(inverse[:, :, None], tokens.shape)
    head = transformer.head(params).astype(hidden.dtype)
    options = {"inv_temperature": inverse, "head_layout": "vd", "backend": backend}
    scores = token_score(hidden, head, targets, **options)
    logprobs = scores.logprobs
    if keep_thresholds is not None:
        logprobs = kept_logprobs(hidden, head, targets, keep_thresholds, scores.lse, **options)
    return Scores(logprobs, scores.entropy)
