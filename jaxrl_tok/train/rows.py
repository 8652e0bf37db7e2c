"""Between the layouts of a training batch: `[P, G, ...]`, its microbatches, and the rows `[B, ...]` of the step."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl_tok.train.recipe import Recipe
from jaxrl_tok.train.score import Scores
from jaxrl_tok.types import Batch, Leaf

PREPARED = "prepared/"  # before the path of the method that a field of the batch was prepared for


def to_rows(x: Leaf) -> Leaf:
    """Joins P and G; a scalar stays one."""
    return x if x.ndim < 2 else x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def to_groups(x: Leaf, group: int) -> Leaf:
    """Parts rows into P and G."""
    return x.reshape(x.shape[0] // group, group, *x.shape[1:])


def split(batch: Any, parts: int) -> Any:
    """Cuts P into `parts`, taking every parts-th prompt, so that each part lies on all devices as P does."""

    def cut(x: Leaf) -> Leaf:
        if x.ndim == 0:
            return jnp.broadcast_to(x, (parts,))
        return jnp.moveaxis(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 1, 0)

    return _with_own_rows(jax.tree.map(cut, batch), parts)


def take(batch: Batch, part: Leaf, parts: int) -> Batch:
    """Returns one of the `parts` of `split`."""

    def one(x: Leaf) -> Leaf:
        if x.ndim == 0:
            return x
        rows = x.reshape(x.shape[0] // parts, parts, *x.shape[1:])
        return jax.lax.dynamic_index_in_dim(rows, part, axis=1, keepdims=False)

    return _with_own_rows(jax.tree.map(one, batch), parts)


def _with_own_rows(batch: Any, parts: int) -> Any:
    """Numbers the rows of tries within each part: a prompt's trie lies in its own part, of which every parts-th is."""
    if not isinstance(batch, Batch) or batch.tries is None:
        return batch
    return dataclasses.replace(batch, tries=dataclasses.replace(batch.tries, row=batch.tries.row // parts))


def join(parts: Any) -> Any:
    """Undoes `split`."""
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:]), parts)


def step_rows(batch: Batch, scores: Scores) -> dict[str, Any]:
    """Returns what the step's methods read, as rows; the old policy of a batch's only update is the current one."""
    rows = {name: jax.tree.map(to_rows, x) for name, x in batch.fields.items()}
    rows |= {"logprobs": to_rows(scores.logprobs), "entropy": to_rows(scores.entropy)}
    rows.setdefault("old_logprobs", jax.lax.stop_gradient(rows["logprobs"]))
    rows |= {"values": to_rows(scores.values)} if scores.values is not None else {}
    rows |= {"expert_balance": to_rows(scores.balance)} if scores.balance is not None else {}
    return rows


def call(recipe: Recipe, path: str, rows: Mapping[str, Any]) -> Any:
    """Calls a method of the step on rows, with what was prepared for it."""
    prepared = {"prepared": rows[PREPARED + path]} if PREPARED + path in rows else {}
    return recipe.step[path]({**rows, **prepared})


def add_result(recipe: Recipe, path: str, rows: dict[str, Any]) -> None:
    """Adds a slot's result to the rows, by the names that losses read; a loss has none."""
    if path == "ratio":
        rows["log_ratio"] = call(recipe, path, rows)
    elif path == "clip":
        rows["low"], rows["high"] = call(recipe, path, rows)
    elif path == "token_weight":
        rows["token_weights"] = call(recipe, path, rows)
