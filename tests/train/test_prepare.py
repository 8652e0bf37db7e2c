import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrl_tok.config.bind import bind
from jaxrl_tok.config.schema import RecipeConfig
from jaxrl_tok.errors import ConfigError
from jaxrl_tok.losses import LOSSES
from jaxrl_tok.train.prepare import prepare
from jaxrl_tok.train.recipe import build_recipe
from jaxrl_tok.train.rows import join, split, to_groups, to_rows
from jaxrl_tok.train.step import train_step
from jaxrl_tok.types import Batch, TrainState
from tests import tiny
from tests.train import cases

SGD = optax.sgd(0.1)


def recipe(**losses):
    """GRPO with other losses."""
    terms = {name: {"reduction": {"method": "token_mean"}} | term for name, term in losses.items()}
    slots = {"advantage": {"method": "grpo"}, "ratio": {"method": "token"}}
    if any(term["method"] == "ppo_clip" for term in terms.values()):
        slots["clip"] = {"method": "asymmetric"}
    return build_recipe(RecipeConfig.model_validate({"name": "mine", "loss": terms} | slots))


def batch(built) -> Batch:
    have = cases.fields() | {"priority": jnp.asarray(np.random.default_rng(1).random((8, 4, 6)), jnp.float32)}
    wanted = built.assemble_reads | built.step_reads | {"mask", "valid", "tokens", "rewards"}
    heat = jnp.ones((cases.PROMPTS, cases.GROUP), jnp.float32)
    kept = {name: x for name, x in have.items() if name in wanted and name not in ("advantages", "token_weights")}
    run = jax.jit(lambda f: cases.assemble(built, {}, tiny.prompts(cases.PROMPTS, 5), f, heat, None)[0])
    return run(kept)


COVARIANCE = {"policy": {"method": "kl_cov", "fraction": 0.2}}


@pytest.fixture(scope="module")
def model():
    decoder = tiny.model(layers=1)
    return decoder, tiny.weights(decoder)


def updated(model, built, parts, data):
    decoder, params = model
    states = {path: method.init() for path, method in built.stateful.items()}
    state = TrainState(params, SGD.init(params), jnp.int32(0), None, states)
    rate = lambda step: 0.1  # noqa: E731
    program = functools.partial(train_step, recipe=built, model=decoder, optimizer=SGD, rate=rate, microbatches=parts)
    return jax.jit(program)(state, data)


def test_a_selection_over_the_batch_does_not_depend_on_microbatches(model):
    built = recipe(**COVARIANCE)
    data = batch(built)
    whole, parts = (updated(model, built, n, data)[1] for n in (1, 4))
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose(whole[name], parts[name], rtol=2e-5, err_msg=name)


def test_what_is_prepared_is_of_the_whole_minibatch_and_has_its_rows(model):
    decoder, params = model
    built = recipe(**COVARIANCE)
    data = batch(built)
    program = functools.partial(prepare, recipe=built, model=decoder)
    (one, _), (four, _) = (jax.jit(functools.partial(program, microbatches=n))(params, {}, data) for n in (1, 4))
    name = "prepared/loss.policy"
    assert set(one.fields) == set(data.fields) | {name}
    for a, b in zip(jax.tree.leaves(one.fields[name]), jax.tree.leaves(four.fields[name]), strict=True):
        assert a.shape[:2] == (cases.PROMPTS, cases.GROUP)
        np.testing.assert_array_equal(a, b)
    selected = np.asarray(jax.tree.leaves(one.fields[name])[0])
    assert 0 < selected.sum() < np.asarray(data.fields["mask"]).sum()


def test_without_a_method_that_prepares_nothing_is_scored(model):
    decoder, params = model
    built = cases.recipe("grpo")
    data = cases.batch("grpo")
    got, states = prepare(params, {}, data, recipe=built, model=decoder)
    assert got is data and states == {}


@pytest.mark.slow
def test_a_controllers_state_changes_once_an_update_and_is_kept(model):
    built = recipe(policy={"method": "ppo_clip"}, entropy={"method": "adaptive_entropy_bonus", "target": 100.0})
    assert list(built.stateful) == ["loss.entropy"]
    data = batch(built)
    state, _ = updated(model, built, 2, data)
    before = built.stateful["loss.entropy"].init()
    after = state.method_state["loss.entropy"]
    assert not np.array_equal(jax.tree.leaves(before)[0], jax.tree.leaves(after)[0])
    again, _ = updated(model, built, 1, data)
    np.testing.assert_array_equal(jax.tree.leaves(again.method_state)[0], jax.tree.leaves(state.method_state)[0])


def test_an_update_that_is_not_applied_leaves_the_controller_alone(model):
    built = recipe(policy={"method": "ppo_clip"}, entropy={"method": "adaptive_entropy_bonus", "target": 100.0})
    data = batch(built)
    broken = data.fields | {"advantages": jnp.full_like(data.fields["advantages"], jnp.inf)}
    state, metrics = updated(model, built, 1, dataclasses.replace(data, fields=broken))
    assert not np.isfinite(metrics["loss"])
    before = built.stateful["loss.entropy"].init()
    np.testing.assert_array_equal(jax.tree.leaves(state.method_state)[0], jax.tree.leaves(before)[0])


@pytest.mark.slow
def test_a_term_is_divided_by_the_tokens_that_it_counts(model):
    """LA-GRPO's anchor is a mean over the functional tokens: the policy's loss with those as mask."""
    anchor = {"policy": {"method": "ppo_clip"}, "anchor": {"method": "functional_anchor"}}
    with pytest.raises(ConfigError, match="reads 'planning', which nothing in this run supplies: it needs a matcher"):
        recipe(**anchor)
    built = recipe(policy={"method": "ppo_clip"})
    functional = bind(LOSSES, "functional_anchor")
    terms = (*built.terms, dataclasses.replace(built.terms[0], name="anchor", loss=functional))
    data = batch(built)
    planning = jnp.broadcast_to(jnp.arange(cases.SIZE) % 2 == 0, data.fields["mask"].shape)
    both = dataclasses.replace(data, fields=data.fields | {"planning": planning})
    alone = dataclasses.replace(data, fields=data.fields | {"mask": data.fields["mask"] & planning})
    got = updated(model, dataclasses.replace(built, terms=terms), 2, both)[1]
    assert got["loss/anchor"] == pytest.approx(float(updated(model, built, 1, alone)[1]["loss/policy"]), rel=1e-5)
    assert got["loss/anchor"] != pytest.approx(float(got["loss/policy"]), rel=1e-2)


def test_rows_and_parts_go_back_to_where_they_were():
    x = jnp.arange(8 * 4 * 3).reshape(8, 4, 3)
    np.testing.assert_array_equal(to_groups(to_rows(x), 4), x)
    np.testing.assert_array_equal(join(split({"x": x}, 2))["x"], x)
