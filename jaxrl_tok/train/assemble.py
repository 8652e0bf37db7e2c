"""From rollouts, rewards and scores to a training batch: filters, advantages, token weights. Pure, whole batch."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from jaxrl_tok.train.recipe import Recipe
from jaxrl_tok.types import Batch, Leaf, Prompts

Fields = Mapping[str, Leaf]


def assemble(recipe: Recipe, prompts: Prompts, fields: Fields, temperature: Leaf, keep_thresholds: Leaf) -> Batch:
    """Runs the assemble stage over a whole rollout batch, without gradient.

    `fields` has arrays by their names in docs/notation.md, `[P, ...]`; at least `tokens`, `mask`, `valid`.
    What a filter drops is no longer valid, for the methods after it too, and leaves every denominator.
    """
    have: dict[str, Any] = dict(fields)
    have["mask"] = have["mask"] & have["valid"][..., None]
    if recipe.filter is not None:
        have["valid"] = have["valid"] & recipe.filter(have)
        have["mask"] = have["mask"] & have["valid"][..., None]
    mask = have["mask"]
    advantages = jnp.zeros(mask.shape, jnp.float32) if recipe.advantage is None else recipe.advantage(have)
    ones = jnp.where(mask, jnp.float32(1), jnp.float32(0))
    weights = ones if recipe.token_weight is None else recipe.token_weight(have)
    step = {name: have[name] for name in recipe.step_reads if name in have}
    step |= {name: have[name] for name in ("tokens", "mask", "valid", "sampler_logprobs") if name in have}
    step |= {"advantages": advantages, "token_weights": weights}
    return Batch(prompts, step, temperature, keep_thresholds)
