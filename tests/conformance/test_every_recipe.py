"""Every recipe that this trainer can run takes an update, and the split into microbatches does not matter to it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrl_tok.config.load import known, load_recipe
from jaxrl_tok.errors import ConfigError
from jaxrl_tok.train.assemble import assemble
from jaxrl_tok.train.recipe import DISTANCE_ARRAYS, STATISTIC_ARRAYS, build_recipe
from jaxrl_tok.train.step import train_step
from jaxrl_tok.types import TrainState
from tests import tiny
from tests.train import cases

SGD = optax.sgd(0.1)
MODEL = tiny.model(layers=1)
VOCABULARY = 37


def runnable():
    for name in sorted(known("recipes")):
        try:
            yield name, build_recipe(load_recipe(name), vocab_size=VOCABULARY)
        except ConfigError:
            continue


RECIPES = dict(runnable())


def fields(recipe):
    """What the recipe reads of a rollout batch."""
    rng = np.random.default_rng(2)
    shape = (cases.PROMPTS, cases.GROUP, cases.SIZE)
    have = cases.fields()
    have |= {name: jnp.asarray(rng.random(shape), jnp.float32) for name in sorted(STATISTIC_ARRAYS | DISTANCE_ARRAYS)}
    have |= {
        "finished": ~have["truncated"],
        "prompt_ids": jnp.arange(cases.PROMPTS, dtype=jnp.int32),
        "reward_parts": jnp.stack([have["rewards"], jnp.asarray(rng.random(shape[:2]), jnp.float32)], axis=-1),
        "priority": jnp.asarray(rng.random(shape), jnp.float32),
        "proxy_logprobs": jnp.minimum(have["old_logprobs"] + 0.3, 0),
        "lse": jnp.asarray(rng.random(shape) + 4, jnp.float32),
        "sampler_logprobs": have["old_logprobs"] + 0.01,
    }
    have |= of_rollouts()
    wanted = recipe.assemble_reads | recipe.step_reads | recipe.judged | {"tokens", "mask", "sampler_logprobs"}
    # Of another recipe than a tree's, what it can do without is not there.
    wanted = {name for name in wanted if name not in of_rollouts() or recipe.rollout is not None}
    return {name: x for name, x in have.items() if name in wanted}


def of_rollouts():
    """Two completions under each of two nodes, which have the first half of the tokens; the halves as segments."""
    half = np.arange(cases.SIZE) < cases.SIZE // 2
    leaf = np.arange(cases.GROUP)[:, None]
    ids = np.where(half, 1 + leaf // 2, 3 + leaf)
    shape = (cases.PROMPTS, cases.GROUP, cases.SIZE)
    return {
        "segment_ids": jnp.asarray(np.broadcast_to(np.where(half, 0, 1), shape), jnp.int32),
        "state_values": jnp.asarray(np.random.default_rng(3).random((*shape[:2], 3)), jnp.float32),
        "budget_rewards": jnp.asarray(np.random.default_rng(4).random((*shape[:2], 2, 3)), jnp.float32),
        "greedy_rewards": jnp.asarray(np.random.default_rng(5).random(shape[0]), jnp.float32),
        "node_ids": jnp.asarray(np.broadcast_to(ids, shape), jnp.int32),
        "node_parents": jnp.asarray(np.broadcast_to([-1, 0, 0, 1, 1, 2, 2], (cases.PROMPTS, 7)), jnp.int32),
        "multiplicity": jnp.asarray(np.broadcast_to(np.where(half, 2.0, 1.0), shape), jnp.float32),
    }


def first_states(recipe):
    sized = {"dcpo_smooth": {"num_prompts": cases.PROMPTS}}
    return {path: method.init(**sized.get(method.name, {})) for path, method in recipe.stateful.items()}


def same_steps():
    """Recipes by what their steps do: those of one line share a program, so it is compiled once."""
    groups = {}
    for name, recipe in RECIPES.items():
        fields = tuple(sorted(recipe.step_reads & set(cases.fields())))
        methods = tuple((path, method.name, repr(sorted(method.hyper.items()))) for path, method in recipe.step.items())
        groups.setdefault((recipe.source, fields, methods), []).append(name)
    return sorted(groups.values())


def assembled(recipe):
    """The training batch, and the states of the methods after it."""

    @jax.jit
    def run(have, states):
        heat = jnp.ones((cases.PROMPTS, cases.GROUP), jnp.float32)
        return assemble(recipe, states, tiny.prompts(cases.PROMPTS, 5), have, heat, None)

    return run(fields(recipe), first_states(recipe))


def update(recipe, parts):
    options = {"recipe": recipe, "model": MODEL, "optimizer": SGD, "rate": lambda step: 0.1}
    return jax.jit(lambda state, batch: train_step(state, batch, microbatches=parts, **options))


@pytest.mark.slow
@pytest.mark.parametrize("names", same_steps(), ids=" ".join)
def test_an_update_is_finite_and_moves_the_policy(names):
    params, step = tiny.weights(MODEL), None
    for name in names:
        recipe = RECIPES[name]
        batch, states = assembled(recipe)
        step = step or update(recipe, 1)
        metrics = step(TrainState(params, SGD.init(params), jnp.int32(0), None, states), batch)[1]
        assert np.isfinite([float(x) for x in metrics.values()]).all(), name
        assert metrics["grad_norm"] > 0, name


PREPARING = sorted(name for name, recipe in RECIPES.items() if recipe.passes(1)["prepare"])


@pytest.mark.slow
@pytest.mark.parametrize("name", PREPARING)
def test_a_statistic_of_the_minibatch_does_not_depend_on_microbatches(name):
    recipe, params = RECIPES[name], tiny.weights(MODEL)
    batch, states = assembled(recipe)
    state = TrainState(params, SGD.init(params), jnp.int32(0), None, states)
    (one, whole), (four, parts) = (update(recipe, n)(state, batch) for n in (1, 4))
    for key in ("loss", "grad_norm"):
        np.testing.assert_allclose(whole[key], parts[key], rtol=3e-5, atol=1e-6, err_msg=key)
    for a, b in zip(jax.tree.leaves(one.method_state), jax.tree.leaves(four.method_state), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
