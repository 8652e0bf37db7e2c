"""One pass without gradient over a whole minibatch, for what the step's methods want to know of it. Pure."""

import dataclasses
import functools
from typing import Any

import jax

from jaxrl_tok import models
from jaxrl_tok.train.assemble import States
from jaxrl_tok.train.recipe import Recipe
from jaxrl_tok.train.rows import PREPARED, add_result, join, split, step_rows, to_groups
from jaxrl_tok.train.score import Scores, score_batch
from jaxrl_tok.types import Batch


def prepare(
    params: Any,
    states: States,
    batch: Batch,
    *,
    recipe: Recipe,
    model: models.Model,
    microbatches: int = 1,
    backend: str = "auto",
) -> tuple[Batch, States]:
    """Returns the batch with what its methods prepared, and their states; unchanged where none prepares anything.

    A statistic of current values over the batch cannot come from a microbatch, of which each sees only itself. So
    the current policy scores the minibatch once more, in the same parts, and every `prepare` sees all of its rows,
    with what the slots before its own gave. The states of the step's methods change here, once an update.
    """
    if not recipe.passes(1)["prepare"]:
        return batch, states
    states, fields = dict(states), dict(batch.fields)
    group = fields["mask"].shape[1]
    rows = step_rows(batch, _scores(params, batch, model, microbatches, backend))
    for path, method in recipe.step.items():
        if method.prepare is not None:
            if method.init is None:
                prepared = method.prepare(rows)
            else:
                prepared, states[path] = method.prepare({**rows, "state": states[path]})
            rows[PREPARED + path] = prepared
            fields[PREPARED + path] = jax.tree.map(lambda x: to_groups(x, group), prepared)
        add_result(recipe, path, rows)
    return jax.lax.stop_gradient((dataclasses.replace(batch, fields=fields), states))


def _scores(params: Any, batch: Batch, model: models.Model, microbatches: int, backend: str) -> Scores:
    of_part = functools.partial(score_batch, params, model, backend=backend)
    return of_part(batch) if microbatches == 1 else join(jax.lax.map(of_part, split(batch, microbatches)))
