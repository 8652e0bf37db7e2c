"""Scoring passes over given completions: log-probs, entropies, distances. The one place that shifts tokens."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok import models
from jaxrl_tok.kernels import divergence, kept_logprobs, token_score
from jaxrl_tok.types import Batch, Leaf, Prompts, pytree

STATISTICS = ("target_logit", "sum_logits", "lse", "max_logit", "sum_p2")
# Names in docs/notation.md -> what the kernel calls them.
DISTANCES = {"hellinger": "squared_hellinger", "kl_to_ref": "kl_policy_ref", "js_to_ref": "jsd"}
# Share of the likeliest token's probability under which Lp-Reg's proxy drops a token; its paper's value.
PROXY_MIN_P = 0.02


@pytree
class Scores:
    """What one pass of one policy says about each completion token."""

    logprobs: Leaf  # f32[P, G, T], of the distribution that was sampled: same temperature, same kept set
    entropy: Leaf  # f32[P, G, T], at that temperature, before filtering
    statistics: dict[str, Leaf] = dataclasses.field(default_factory=dict)  # f32[P, G, T], those asked for
    balance: Leaf = None  # f32[P, G], how unevenly experts were used; None without experts


class _States(NamedTuple):
    """What predicts each completion token."""

    hidden: Array  # [P, G, T, D]
    head: Array  # [V, D]
    targets: Array  # i32[P, G, T], -1 where masked
    inverse: Array  # f32[P, G, T], 1 / temperature
    balance: Array | None  # f32[P, G]


def score(
    params: Any,
    model: models.Model,
    prompts: Prompts,
    tokens: Int[Array, "P G T"],
    mask: Bool[Array, "P G T"],
    temperature: Float[Array, "P G"],
    keep_thresholds: Float[Array, "P G T"] | None = None,
    *,
    statistics: tuple[str, ...] = (),
    backend: str = "auto",
) -> Scores:
    """Returns log p(tokens[t] | prompt, tokens[<t]) and the entropy of that distribution, 0 where masked.

    `keep_thresholds` renormalises over the tokens that the sampler's filters kept; None when it had none.
    Temperature 0 (greedy) is scored at 1. `statistics` are names of `STATISTICS`, before filtering and, but for
    "target_logit", at the temperature; or "proxy_logprobs": the log-prob among tokens with at least 0.02 of the
    likeliest one's probability, -inf for another token.
    """
    states = _states(params, model, prompts, tokens, mask, temperature)
    options = {"inv_temperature": states.inverse, "soft_cap": model.logit_cap, "head_layout": "vd", "backend": backend}
    proxy = "proxy_logprobs" in statistics
    # The log-sum-exp is there in any case.
    wanted = {"logprobs", *statistics, *(["max_logit"] if proxy else [])} - {"lse", "proxy_logprobs"}
    scores = token_score(states.hidden, states.head, states.targets, statistics=sorted(wanted), **options)
    logprobs = scores.logprobs
    if keep_thresholds is not None:
        logprobs = kept_logprobs(states.hidden, states.head, states.targets, keep_thresholds, scores.lse, **options)
    found = {name: jnp.where(mask, getattr(scores, name), 0) for name in statistics if name in STATISTICS}
    if "target_logit" in found:
        found["target_logit"] = found["target_logit"] / states.inverse
    if proxy:
        least = scores.max_logit - scores.lse + math.log(PROXY_MIN_P)
        kept = kept_logprobs(states.hidden, states.head, states.targets, least, scores.lse, **options)
        found["proxy_logprobs"] = jnp.where(mask, jnp.where(scores.logprobs >= least, kept, -jnp.inf), 0)
    return Scores(logprobs, scores.entropy, found, states.balance)


def score_batch(params: Any, model: models.Model, batch: Batch, *, backend: str = "auto") -> Scores:
    """Returns `score` of a training batch's completions, as they were sampled."""
    sampled = (batch.fields["tokens"], batch.fields["mask"], batch.temperature, batch.keep_thresholds)
    return score(params, model, batch.prompts, *sampled, backend=backend)


def distances(
    params: Any,
    ref_params: Any,
    model: models.Model,
    prompts: Prompts,
    tokens: Int[Array, "P G T"],
    mask: Bool[Array, "P G T"],
    temperature: Float[Array, "P G"],
    *,
    kinds: tuple[str, ...],
    backend: str = "auto",
) -> dict[str, Float[Array, "P G T"]]:
    """Returns how far the distribution of each next token is from the reference's, 0 where masked.

    `kinds` are names of `DISTANCES`: the Hellinger distance, KL(policy || reference), the Jensen-Shannon divergence
    (base e, halves), all at the temperature that was sampled with.
    """
    states = _states(params, model, prompts, tokens, mask, temperature)
    reference = _states(ref_params, model, prompts, tokens, mask, temperature)
    found = divergence(
        states.hidden, states.head, reference.hidden, reference.head, mask,
        kinds=tuple(DISTANCES[kind] for kind in kinds), inv_temperature=states.inverse,
        soft_cap=model.logit_cap, head_layout="vd", ref_head_layout="vd", backend=backend,
    )  # fmt: skip
    values = {kind: getattr(found, DISTANCES[kind]) for kind in kinds}
    return values | {"hellinger": jnp.sqrt(values["hellinger"])} if "hellinger" in values else values


def _states(
    params: Any, model: models.Model, prompts: Prompts, tokens: Array, mask: Array, temperature: Array
) -> _States:
    found = model.forward(params, prompts.tokens, prompts.lengths, tokens, mask)
    prompt, completion = found.prompt, found.completion
    # Token t is predicted by the state at t - 1; the first one by the prompt's last token.
    first = jnp.broadcast_to(prompt[:, None, -1:], (*completion.shape[:2], 1, completion.shape[-1]))
    hidden = jnp.concatenate([first, completion[:, :, :-1]], axis=2)
    inverse = jnp.where(temperature > 0, 1 / jnp.where(temperature > 0, temperature, 1), 1)
    inverse = jnp.broadcast_to(inverse[:, :, None], tokens.shape)
    head = model.head(params).astype(hidden.dtype)
    return _States(hidden, head, jnp.where(mask, tokens, -1), inverse, found.balance)
