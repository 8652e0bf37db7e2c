"""Scoring passes over given completions: log-probs, entropies, distances. The one place that shifts tokens."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok import models
from jaxrl_tok.kernels import TokenScores, divergence, kept_logprobs, token_score
from jaxrl_tok.kernels.logits import kept_logit_score, logit_divergence, logit_score
from jaxrl_tok.sharding.local import Over, per_shard
from jaxrl_tok.train.left_out import log_rest, logits_left_out
from jaxrl_tok.types import Batch, Leaf, LeftOut, Prompts, Tries, pytree

STATISTICS = ("target_logit", "sum_logits", "lse", "max_logit", "sum_p2")
# Names in docs/notation.md -> what the kernel calls them.
DISTANCES = {"hellinger": "squared_hellinger", "kl_to_ref": "kl_policy_ref", "js_to_ref": "jsd"}
# Logical axes of token arrays and of the head.
ROWS, HEAD = ("batch", "completions", "positions"), ("vocab", "embed")
# What does the same for a model that gives logits.
ON_LOGITS = {token_score: logit_score, kept_logprobs: kept_logit_score}
# Share of the likeliest token's probability under which Lp-Reg's proxy drops a token; its paper's value.
PROXY_MIN_P = 0.02


@pytree
class Scores:
    """What one pass of one policy says about each completion token."""

    logprobs: Leaf  # f32[P, G, T], of the distribution that was sampled: same temperature, same kept set
    entropy: Leaf  # f32[P, G, T], at that temperature, before anything is filtered or left out
    statistics: dict[str, Leaf] = dataclasses.field(default_factory=dict)  # f32[P, G, T], those asked for
    balance: Leaf = None  # f32[P, G], how unevenly experts were used; None without experts
    values: Leaf = None  # f32[P, G, T], of the state before each token; None without a critic


class _States(NamedTuple):
    """What predicts each completion token; of tries [R, 1, N] in place of [P, G, T]."""

    hidden: Array  # [P, G, T, D]; the logits [P, G, T, V] of a model without a head
    head: Array | None  # [V, D]
    targets: Array  # i32[P, G, T], -1 where masked
    inverse: Array  # f32[P, G, T], 1 / temperature
    thresholds: Array | None  # f32[P, G, T]
    place: Array  # i32[P, G, T], tokens of the completion before it
    balance: Array | None  # f32[P, G]
    by_token: Callable[[Array], Array]  # from the layout of these arrays to [P, G, T], 0 where masked


def score(
    params: Any,
    model: models.Model,
    prompts: Prompts,
    tokens: Int[Array, "P G T"],
    mask: Bool[Array, "P G T"],
    temperature: Float[Array, "P G"] | Float[Array, "P G T"],
    keep_thresholds: Float[Array, "P G T"] | None = None,
    tries: Tries | None = None,
    *,
    left_out: LeftOut | None = None,
    statistics: tuple[str, ...] = (),
    backend: str = "auto",
) -> Scores:
    """Returns log p(tokens[t] | prompt, tokens[<t]) and the entropy of that distribution, 0 where masked.

    `keep_thresholds` renormalises over the tokens that the sampler's filters kept; None when it had none. So does
    `left_out` over those that could be drawn at all; the entropy and the statistics are of all tokens.
    Temperature 0 (greedy) is scored at 1. `statistics` are names of `STATISTICS`, before filtering and, but for
    "target_logit", at the temperature; or "proxy_logprobs": the log-prob among tokens with at least 0.02 of the
    likeliest one's probability, -inf for another token.

    With `tries` of these completions each of their distinct tokens is computed and scored once, and the results are
    taken from there: the same numbers, and so the same gradients, which autodiff adds up where tokens are shared.
    """
    states = _states(params, model, prompts, tokens, mask, temperature, keep_thresholds, tries)
    options = {"soft_cap": model.logit_cap, "head_layout": "vd", "backend": backend}
    proxy = "proxy_logprobs" in statistics
    # The log-sum-exp is there in any case.
    wanted = {"logprobs", *statistics, *(["max_logit"] if proxy else [])} - {"lse", "proxy_logprobs"}
    scores = _per_shard(token_score, states, statistics=sorted(wanted), **options)
    logprobs = _sampled_logprobs(states, scores, model.logit_cap, left_out, options)
    found = {name: getattr(scores, name) for name in statistics if name in STATISTICS}
    if "target_logit" in found:
        found["target_logit"] = found["target_logit"] / states.inverse
    if proxy:
        least = scores.max_logit - scores.lse + math.log(PROXY_MIN_P)
        kept = _per_shard(kept_logprobs, states, least, scores.lse, **options)
        found["proxy_logprobs"] = jnp.where(scores.logprobs >= least, kept, -jnp.inf)
    values = model.values(params, states.hidden) if isinstance(model, models.Critic) else None
    given = (logprobs, scores.entropy, found, values)
    logprobs, entropy, found, values = jax.tree.map(states.by_token, given)
    return Scores(logprobs, entropy, found, states.balance, values)


def _sampled_logprobs(
    states: _States, scores: TokenScores, cap: float | None, left: LeftOut | None, options: dict[str, Any]
) -> Array:
    """Returns the log-probs among what the sampler drew from."""
    if left is None:
        if states.thresholds is None:
            return scores.logprobs
        return _per_shard(kept_logprobs, states, states.thresholds, scores.lse, **options)
    out = logits_left_out(states.hidden, states.head, states.inverse, states.targets >= 0, states.place, left, cap=cap)
    rest = log_rest(out, scores.lse)
    logprobs = scores.logprobs - rest
    if states.thresholds is not None:
        # Thresholds are log-probs among what was not left out. What a filter keeps by them has in it again the tokens
        # left out that are as likely.
        lse = scores.lse + rest
        kept = _per_shard(kept_logprobs, states, states.thresholds, lse, **options)
        cut = jax.lax.stop_gradient(states.thresholds + lse)
        logprobs = kept - log_rest(jnp.where(out >= cut[..., None], out, -jnp.inf), scores.logprobs + scores.lse - kept)
    # Rounding can lift it over 0; that has no gradient.
    return logprobs - jax.lax.stop_gradient(jnp.maximum(logprobs, 0))


def score_batch(params: Any, model: models.Model, batch: Batch, *, backend: str = "auto") -> Scores:
    """Returns `score` of a training batch's completions, as they were sampled."""
    sampled = (batch.fields["tokens"], batch.fields["mask"], batch.temperature, batch.keep_thresholds, batch.tries)
    return score(params, model, batch.prompts, *sampled, left_out=batch.left_out, backend=backend)


def distances(
    params: Any,
    ref_params: Any,
    model: models.Model,
    ref_model: models.Model,
    prompts: Prompts,
    tokens: Int[Array, "P G T"],
    mask: Bool[Array, "P G T"],
    temperature: Float[Array, "P G"] | Float[Array, "P G T"],
    tries: Tries | None = None,
    *,
    kinds: tuple[str, ...],
    backend: str = "auto",
) -> dict[str, Float[Array, "P G T"]]:
    """Returns how far the distribution of each next token is from the reference's, 0 where masked.

    `kinds` are names of `DISTANCES`: the Hellinger distance, KL(policy || reference), the Jensen-Shannon divergence
    (base e, halves), all at the temperature that was sampled with.
    """
    sampled = (tokens, mask, temperature, None, tries)
    states = _states(params, model, prompts, *sampled)
    reference = _states(ref_params, ref_model, prompts, *sampled)
    trained = states.targets >= 0

    wanted: dict[str, Any] = {"kinds": tuple(DISTANCES[kind] for kind in kinds), "soft_cap": model.logit_cap}

    def local(*arrays: Any) -> Any:
        *pair_and_mask, inverse, over = arrays
        return divergence(
            *pair_and_mask, inv_temperature=inverse, **wanted,
            head_layout="vd", ref_head_layout="vd", backend=backend, **_split(over),
        )  # fmt: skip

    if states.head is None or reference.head is None:
        found = logit_divergence(states.hidden, reference.hidden, trained, inv_temperature=states.inverse, **wanted)
    else:
        arrays = states.hidden, states.head, reference.hidden, reference.head, trained, states.inverse
        found = per_shard(local, arrays, ((*ROWS, None), HEAD) * 2 + (ROWS, ROWS), ROWS)
    values = {kind: states.by_token(getattr(found, DISTANCES[kind])) for kind in kinds}
    return values | {"hellinger": jnp.sqrt(values["hellinger"])} if "hellinger" in values else values


def _per_shard(kernel: Callable[..., Any], states: _States, *rows: Array, **options: Any) -> Any:
    """Runs a scoring kernel, on a mesh on each device's tokens with the parts of the head over all that have one."""

    def local(hidden: Array, head: Array, targets: Array, inverse: Array, *rest: Any) -> Any:
        *rows, over = rest
        return kernel(hidden, head, targets, *rows, inv_temperature=inverse, **_split(over), **options)

    if states.head is None:
        known = {name: options[name] for name in ("soft_cap", "statistics") if name in options}
        return ON_LOGITS[kernel](states.hidden, states.targets, *rows, inv_temperature=states.inverse, **known)
    arrays = states.hidden, states.head, states.targets, states.inverse, *rows
    return per_shard(local, arrays, ((*ROWS, None), HEAD, *(ROWS,) * (len(arrays) - 2)), ROWS)


def _split(over: Over) -> dict[str, str | None]:
    """Returns the mesh axes of the head as the kernels take them."""
    return {"vocab_axis": next(iter(over["vocab"]), None), "fsdp_axis": next(iter(over["embed"]), None)}


def _states(
    params: Any,
    model: models.Model,
    prompts: Prompts,
    tokens: Array,
    mask: Array,
    temperature: Array,
    thresholds: Array | None,
    tries: Tries | None,
) -> _States:
    def masked(x: Array) -> Array:
        return jnp.where(mask, x, 0)

    if tries is None:
        found = model.forward(params, prompts.tokens, prompts.lengths, tokens, mask)
        prompt, completion = found.prompt, found.completion
        # Token t is predicted by the state at t - 1; the first one by the prompt's last token.
        first = jnp.broadcast_to(prompt[:, None, -1:], (*completion.shape[:2], 1, completion.shape[-1]))
        hidden = jnp.concatenate([first, completion[:, :, :-1]], axis=2)
        targets, balance, by_token = jnp.where(mask, tokens, -1), found.balance, masked
        heat = temperature if temperature.ndim == 3 else temperature[:, :, None]
        inverse = jnp.broadcast_to(_inverse(heat), tokens.shape)
        place = jnp.broadcast_to(jnp.arange(tokens.shape[2], dtype=jnp.int32)[None, None], tokens.shape)
    else:
        assert isinstance(model, models.TrieModel)
        hidden, balance = model.forward_tries(params, tries, mask)
        hidden = jnp.take_along_axis(hidden, tries.before[:, :, None], axis=1)[:, None]
        targets = jnp.where(tries.real, jnp.take_along_axis(tries.tokens, tries.node, axis=1), -1)[:, None]
        inverse, place = _inverse(tries.temperature)[:, None], tries.place[:, None]
        thresholds = None if tries.keep_thresholds is None else tries.keep_thresholds[:, None]

        def by_token(x: Array) -> Array:
            return masked(tries.of_completions(x[:, 0]))

    head = model.head(params)
    head = None if head is None else head.astype(hidden.dtype)
    return _States(hidden, head, targets, inverse, thresholds, place, balance, by_token)


def _inverse(temperature: Array) -> Array:
    return jnp.where(temperature > 0, 1 / jnp.where(temperature > 0, temperature, 1), 1)
