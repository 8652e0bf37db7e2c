"""One update of the policy: (TrainState, Batch) -> (TrainState, metrics). Pure."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxrl_tok import models
from jaxrl_tok.config.catalogue import STEP_ARRAYS
from jaxrl_tok.train.prepare import prepare
from jaxrl_tok.train.recipe import Recipe, Term
from jaxrl_tok.train.rows import add_result, call, split, step_rows, to_rows
from jaxrl_tok.train.score import score_batch
from jaxrl_tok.types import Batch, Leaf, Mean, TrainState, joined

Metrics = dict[str, Leaf]


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    recipe: Recipe,
    model: models.Model,
    optimizer: optax.GradientTransformation,
    rate: optax.Schedule,
    microbatches: int = 1,
    backend: str = "auto",
) -> tuple[TrainState, Metrics]:
    """Takes one optimizer step on `batch`, computed in `microbatches` parts of whole groups.

    The objective is sum_k weight_k total_k / count_k over the recipe's terms, each count that of the whole
    batch, so the split changes nothing but rounding. A step whose loss or gradient is not finite leaves the
    state as it was; the metrics then say which term (`loss/NAME`) it was.
    """
    program = {"recipe": recipe, "model": model, "microbatches": microbatches, "backend": backend}
    batch, method_state = prepare(state.model_params, state.method_state, batch, **program)
    grads, metrics = gradients(state.params, batch, state.frozen, **program)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    metrics["learning_rate"] = jnp.asarray(rate(state.updates), jnp.float32)
    params = optax.apply_updates(state.params, updates)
    fine = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
    params, opt_state, method_state = jax.tree.map(
        lambda new, old: jnp.where(fine, new, old),
        (params, opt_state, method_state),
        (state.params, state.opt_state, state.method_state),
    )
    new = {"params": params, "opt_state": opt_state, "updates": state.updates + 1, "method_state": method_state}
    return dataclasses.replace(state, **new), metrics


def gradients(
    params: Any,
    batch: Batch,
    frozen: Any = None,
    *,
    recipe: Recipe,
    model: models.Model,
    microbatches: int = 1,
    backend: str = "auto",
) -> tuple[Any, Metrics]:
    """Returns the gradient of the objective on `batch` with respect to `params`, and its metrics; see `train_step`.

    `frozen` are the model's other parameters, None where there are none.
    """
    counts = {term.name: _count(recipe, term, batch) for term in recipe.terms}
    settings = {"recipe": recipe, "model": model, "counts": counts, "backend": backend}
    objective = functools.partial(_objective, frozen=frozen, **settings)
    gradient = jax.value_and_grad(objective, has_aux=True)
    if microbatches == 1:
        (_, seen), grads = gradient(params, batch)
    else:
        grads, seen = _accumulate(gradient, params, split(batch, microbatches))
    means, extremes = seen
    metrics = {name: mean.value() for name, mean in means.items()} | _named(extremes)
    for term in recipe.terms:
        metrics[f"loss/{term.name}"] = Mean(means[f"loss/{term.name}"].total, counts[term.name]).value()
    metrics["loss"] = sum(term.weight * metrics[f"loss/{term.name}"] for term in recipe.terms)
    metrics["grad_norm"] = optax.tree.norm(grads)
    return grads, metrics


def _accumulate(gradient: Any, params: Any, parts: Batch) -> tuple[Any, Any]:
    """Sums gradients and metrics over microbatches, one after the other."""

    def add(total: Any, part: Batch) -> tuple[Any, None]:
        (_, (means, extremes)), grads = gradient(params, part)
        sums = jax.tree.map(jnp.add, total[:2], (grads, means))
        return (*sums, jax.tree.map(jnp.maximum, total[2], extremes)), None

    (_, seen), grads = jax.eval_shape(gradient, params, jax.tree.map(lambda x: x[0], parts))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (grads, seen[0]))
    lowest = jax.tree.map(lambda x: jnp.full(x.shape, -jnp.inf, x.dtype), seen[1])
    grads, means, extremes = jax.lax.scan(add, (*zeros, lowest), parts)[0]
    return grads, (means, extremes)


def _objective(
    params: Any,
    batch: Batch,
    *,
    frozen: Any,
    recipe: Recipe,
    model: models.Model,
    counts: dict[str, Leaf],
    backend: str,
) -> tuple[Leaf, tuple[dict[str, Mean], dict[str, Leaf]]]:
    """Returns this part's share of the objective, and its metrics: means as sums and counts, and maxima."""
    scores = score_batch(joined(params, frozen), model, batch, backend=backend)
    rows = step_rows(batch, scores)
    for path in recipe.step:
        add_result(recipe, path, rows)
    total, means = 0.0, {}
    for term in recipe.terms:
        loss = call(recipe, f"loss.{term.name}", rows)
        mean = term.reduction(rows | {"loss": loss, "mask": _counted(term, rows)})
        total = total + term.weight * mean.total / jnp.maximum(counts[term.name], 1e-30)
        means[f"loss/{term.name}"] = mean
    return total, jax.lax.stop_gradient((means | _diagnostics(rows), _extremes(rows)))


def _counted(term: Term, rows: dict[str, Any]) -> Leaf:
    """The tokens that the term is an average over."""
    return rows["mask"] if term.loss.counted is None else rows["mask"] & term.loss.counted(rows)


def _count(recipe: Recipe, term: Term, batch: Batch) -> Leaf:
    """The term's denominator over the whole batch: its reduction of a loss of zeros."""
    rows = {name: jax.tree.map(to_rows, x) for name, x in batch.fields.items()}
    dtype = batch.temperature.dtype  # as of all numbers of a batch
    tokens = jax.ShapeDtypeStruct(rows["mask"].shape, dtype)
    known = dict.fromkeys(("old_logprobs", "values", *STEP_ARRAYS), tokens) | rows
    known["expert_balance"] = jax.ShapeDtypeStruct(rows["valid"].shape, dtype)
    shape = jax.eval_shape(lambda rows: call(recipe, f"loss.{term.name}", rows), known).shape
    return term.reduction(rows | {"loss": jnp.zeros(shape, dtype), "mask": _counted(term, rows)}).count


def _diagnostics(rows: dict[str, Leaf]) -> dict[str, Mean]:
    mask = rows["mask"]
    means = {"entropy": _mean(rows["entropy"], mask)}
    if "log_ratio" in rows and "low" in rows:
        ratio = jnp.exp(rows["log_ratio"])
        low = (ratio < rows["low"]) & (rows["advantages"] < 0)
        high = (ratio > rows["high"]) & (rows["advantages"] > 0)
        means["clip_ratio/low_mean"] = _mean(low.astype(jnp.float32), mask)
        means["clip_ratio/high_mean"] = _mean(high.astype(jnp.float32), mask)
        means["clip_ratio/region_mean"] = _mean((low | high).astype(jnp.float32), mask)
    means |= {f"critic/{x}/mean": _mean(rows[x], mask) for x in ("values", "returns") if x in rows}
    if "expert_balance" in rows:
        means["expert_balance"] = _mean(rows["expert_balance"], rows["valid"])
    if "ref_logprobs" in rows:
        away = rows["ref_logprobs"] - rows["logprobs"]
        means["kl"] = _mean(jnp.exp(away) - 1 - away, mask)
    if "sampler_logprobs" in rows:
        away = jnp.where(mask, rows["logprobs"] - rows["sampler_logprobs"], 0)
        means["sampling/sampling_logp_difference/mean"] = _mean(jnp.abs(away), mask)
        means["sampling/importance_sampling_ratio/mean"] = _mean(jnp.exp(away), mask)
    return means


def _extremes(rows: dict[str, Leaf]) -> dict[str, Leaf]:
    """Maxima over the batch; what is wanted as a minimum is negated until `_named`."""
    if "sampler_logprobs" not in rows:
        return {}
    away = jnp.where(rows["mask"], rows["logprobs"] - rows["sampler_logprobs"], 0)
    return {"difference": jnp.max(jnp.abs(away)), "ratio": jnp.max(away), "-ratio": jnp.max(-away)}


def _named(extremes: dict[str, Leaf]) -> Metrics:
    if not extremes:
        return {}
    return {
        "sampling/sampling_logp_difference/max": extremes["difference"],
        "sampling/importance_sampling_ratio/max": jnp.exp(extremes["ratio"]),
        "sampling/importance_sampling_ratio/min": jnp.exp(-extremes["-ratio"]),
    }


def _mean(x: Leaf, mask: Leaf) -> Mean:
    return Mean(jnp.sum(jnp.where(mask, x, 0)), jnp.sum(mask.astype(x.dtype)))
