"""From rollouts, rewards and scores to a training batch: advantages, filters, token weights. Pure, whole batch."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from jaxrl_tok.config.bind import Bound, bind
from jaxrl_tok.scores import SCORES
from jaxrl_tok.scores.normalized_entropy import entropy_scale
from jaxrl_tok.train.recipe import DERIVED_ARRAYS, Recipe
from jaxrl_tok.types import Batch, Leaf, Prompts

Fields = Mapping[str, Leaf]
States = dict[str, Any]  # of stateful methods, by their paths in the recipe

# What is made of other arrays where a method needs it: the outcome as the last token's reward, actions of five tokens,
# and the outcomes of a tree's completions as those of its leaves.
DERIVED: dict[str, Bound] = {
    "token_rewards": bind(SCORES, "outcome_token_rewards"),
    "boundaries": bind(SCORES, "ngram_boundaries"),
    "node_rewards": bind(SCORES, "leaf_rewards"),
}
assert DERIVED.keys() == DERIVED_ARRAYS


def assemble(
    recipe: Recipe, states: States, prompts: Prompts, fields: Fields, temperature: Leaf, keep_thresholds: Leaf
) -> tuple[Batch, States]:
    """Runs the assemble stage over a whole rollout batch, without gradient.

    `fields` has arrays by their names in docs/notation.md, `[P, ...]`; at least `tokens`, `mask`, `valid`. A token that
    is not `trained`, where rollouts say so, leaves the mask: it was sampled, and is seen by those behind it, no more.
    Advantages are those of all completions with a reward. What the filter drops after that no longer trains:
    it leaves the mask, and so every denominator and the token weights' statistics. With a critic its `values`
    become the `old_values` of the step, and `returns` are its targets. With a `sampler` the scale of its next batch is
    of all tokens of this one.
    """
    have: dict[str, Any] = dict(fields)
    states = dict(states)
    if recipe.sampler is not None:  # the next batch's temperatures go by this one's entropies, all of them
        size = have["mask"].shape[-1]
        states["sampler"] = entropy_scale(have["sampler_entropy"].reshape(-1, size), have["mask"].reshape(-1, size))
    have["mask"] = have["mask"] & have["valid"][..., None]
    if "trained" in have:
        have["mask"] = have["mask"] & have["trained"]
    have["advantages"] = jnp.zeros(have["mask"].shape, jnp.float32)
    have["token_weights"] = jnp.where(have["mask"], jnp.float32(1), jnp.float32(0))
    for name in recipe.assemble_reads & DERIVED.keys() - have.keys():
        if any(name in method.needs for method in recipe.assemble.values()):
            have[name] = DERIVED[name](have)
    if recipe.targets is not None:
        have["returns"] = recipe.targets(have)
    if "values" in have:
        have["old_values"] = have["values"]
    for slot, method in recipe.assemble.items():
        if method.init is None:
            result = method(have)
        else:
            result, states[slot] = method(have | {"state": states[slot]})
        if slot == "filter":
            have["valid"] = have["valid"] & result
            have["mask"] = have["mask"] & have["valid"][..., None]
            have["advantages"] = jnp.where(have["mask"], have["advantages"], 0)
            have["token_weights"] = jnp.where(have["mask"], have["token_weights"], 0)
        else:
            have["token_weights" if slot == "token_weight" else "advantages"] = result
    always = {"tokens", "mask", "valid", "sampler_logprobs", "advantages", "token_weights"}
    # The step has values of its own: the current critic's.
    step = {name: have[name] for name in (recipe.step_reads | always) - {"values"} if name in have}
    return Batch(prompts, step, temperature, keep_thresholds), states
