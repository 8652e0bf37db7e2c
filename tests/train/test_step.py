import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrl_tok.sharding.mesh import make_mesh
from jaxrl_tok.sharding.place import replicate, shard_batch
from jaxrl_tok.train.score import score
from jaxrl_tok.train.step import gradients, train_step
from jaxrl_tok.types import TrainState
from tests import tiny
from tests.kernels.jaxpr_shapes import offending
from tests.train import cases

MODEL = tiny.model()
RATE = optax.constant_schedule(0.5)
SGD = optax.sgd(0.5)
# Momentum without decay: after one step its state is the gradient itself.
GRADIENT = optax.chain(optax.trace(decay=0.0), optax.scale(-0.5))


@functools.cache
def program(name, microbatches):
    step = functools.partial(
        train_step, recipe=cases.recipe(name), model=MODEL, microbatches=microbatches, optimizer=GRADIENT, rate=RATE
    )
    return jax.jit(step)


def run(name, microbatches=1, devices=1, batch=None):
    """Metrics, gradients, and parameters after one SGD step, by one compiled program."""
    mesh = make_mesh({"data": devices}, jax.devices()[:devices])
    params = replicate(tiny.weights(MODEL), mesh)
    batch = shard_batch(cases.batch(name) if batch is None else batch, mesh)
    state = TrainState(params, GRADIENT.init(params), jnp.int32(0), None, {})
    after, metrics = program(name, microbatches)(state, batch)
    return metrics, after.opt_state[0].trace, after.params


@functools.cache
def whole(name):
    return run(name)


@pytest.mark.parametrize(
    ("name", "microbatches", "devices"),
    [
        ("grpo_kl", 2, 1),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("grpo_kl", 1, 4), ("grpo_kl", 4, 1), ("dapo", 4, 1), ("dapo", 2, 4))
        ),
    ],
)
def test_microbatches_and_devices_change_only_rounding(name, microbatches, devices):
    metrics, grads, params = run(name, microbatches, devices)
    metrics_1, grads_1, params_1 = whole(name)
    np.testing.assert_allclose(metrics["loss"], metrics_1["loss"], rtol=1e-6, atol=1e-7)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(grads_1), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert np.linalg.norm(a - b) <= 2e-6 * np.linalg.norm(b)
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(params_1), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@jax.jit
def logprobs_of(params, batch):
    fields = batch.fields
    return score(params, MODEL, batch.prompts, fields["tokens"], fields["mask"], batch.temperature).logprobs


def by_hand(name, weight_of_row):
    """PPO-clip loss by loops in float64 from the model's log-probs; `weight_of_row(mask, rows)` is the reduction."""
    batch, params = cases.batch(name), tiny.weights(MODEL)
    f = {k: np.asarray(v, np.float64) if v.dtype == jnp.float32 else np.asarray(v) for k, v in batch.fields.items()}
    logprobs = np.asarray(logprobs_of(params, batch), np.float64)
    low, high = (0.8, 1.28) if name == "dapo" else (0.8, 1.2)
    total = 0.0
    weights = weight_of_row(f["mask"])
    for at in zip(*np.nonzero(f["mask"]), strict=True):
        ratio = np.exp(logprobs[at] - f["old_logprobs"][at])
        advantage = f["advantages"][at]
        total += weights[at] * max(-advantage * ratio, -advantage * np.clip(ratio, low, high))
    return total


def rows_then_tokens(mask):
    lengths = mask.sum(-1, keepdims=True)
    return np.where(mask, 1 / np.maximum(lengths, 1), 0) / (lengths > 0).sum()


def tokens(mask):
    return np.where(mask, 1 / mask.sum(), 0)


@pytest.mark.parametrize(
    ("name", "weights"), [("grpo", rows_then_tokens), pytest.param("dapo", tokens, marks=pytest.mark.slow)]
)
def test_the_loss_is_the_papers(name, weights):
    batch = cases.batch(name)
    fields = cases.fields()
    batch = dataclasses.replace(batch, fields=batch.fields | {"old_logprobs": fields["old_logprobs"]})
    metrics, _, _ = run(name, batch=batch)
    np.testing.assert_allclose(metrics["loss"], by_hand(name, weights), rtol=1e-5)


def test_samples_without_a_reward_do_not_train():
    """What stands in an invalid row changes neither loss nor gradient."""
    fields = cases.fields()
    assert not fields["valid"].all()
    batch = cases.batch()
    other = jnp.where(fields["valid"][..., None], batch.fields["tokens"], 5)
    assert not np.array_equal(other, batch.fields["tokens"])
    changed = dataclasses.replace(batch, fields=batch.fields | {"tokens": other})
    for a, b in zip(jax.tree.leaves(run("grpo", batch=changed)[:2]), jax.tree.leaves(whole("grpo")[:2]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_padding_does_not_train():
    batch = cases.batch()
    filled = jnp.where(batch.fields["mask"], batch.fields["tokens"], 9)
    assert not np.array_equal(filled, batch.fields["tokens"])
    changed = dataclasses.replace(batch, fields=batch.fields | {"tokens": filled})
    for a, b in zip(jax.tree.leaves(run("grpo", batch=changed)[1]), jax.tree.leaves(whole("grpo")[1]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_only_update_of_a_batch_has_ratio_one():
    batch = cases.batch()
    assert "old_logprobs" in batch.fields
    alone = dataclasses.replace(batch, fields={k: v for k, v in batch.fields.items() if k != "old_logprobs"})
    metrics, _, _ = run("grpo", batch=alone)
    assert metrics["clip_ratio/region_mean"] == 0
    by_row = np.where(batch.fields["mask"], batch.fields["advantages"], 0).sum(-1)
    lengths = np.asarray(batch.fields["mask"]).sum(-1)
    expected = -np.mean((by_row / np.maximum(lengths, 1))[lengths > 0])
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5, atol=1e-7)


def test_the_kl_metric_and_term_are_against_the_reference():
    metrics, _, _ = whole("grpo_kl")
    batch, params = cases.batch("grpo_kl"), tiny.weights(MODEL)
    mask = np.asarray(batch.fields["mask"])
    away = np.asarray(batch.fields["ref_logprobs"], np.float64) - np.asarray(logprobs_of(params, batch))
    np.testing.assert_allclose(metrics["kl"], (np.exp(away) - 1 - away)[mask].mean(), rtol=1e-5)


@pytest.mark.usefixtures("standard_promotion")
def test_a_step_that_is_not_finite_changes_nothing_and_names_its_term():
    batch = cases.batch("grpo_kl")
    fields = batch.fields | {"ref_logprobs": batch.fields["ref_logprobs"].at[0, 0, 0].set(jnp.nan)}
    fields |= {"mask": fields["mask"].at[0, 0, 0].set(True)}
    params = tiny.weights(MODEL)
    adam = optax.adam(1.0)
    state = TrainState(params, adam.init(params), jnp.int32(0), None, {})
    step = functools.partial(train_step, recipe=cases.recipe("grpo_kl"), model=MODEL, optimizer=adam, rate=RATE)
    after, metrics = jax.jit(step)(state, dataclasses.replace(batch, fields=fields))
    assert not np.isfinite(metrics["loss/kl"]) and np.isfinite(metrics["loss/policy"])
    jax.tree.map(np.testing.assert_array_equal, (after.params, after.opt_state), (state.params, state.opt_state))


def test_no_intermediate_of_the_update_has_both_a_token_and_the_vocabulary_axis():
    """With a prime vocabulary above 4096 and more tokens than model width; on the dense backend there is one."""
    vocab = 4099
    model = tiny.model(vocab=vocab)
    params = tiny.weights(model)
    state = TrainState(params, SGD.init(params), jnp.int32(0), params, {})
    batch = cases.batch("grpo_kl")
    count = cases.PROMPTS * cases.GROUP * cases.SIZE
    assert count > model.arch.dim

    def jaxpr(backend):
        step = functools.partial(
            train_step, recipe=cases.recipe("grpo_kl"), model=model, optimizer=SGD, rate=RATE, backend=backend
        )
        return jax.make_jaxpr(step)(state, batch)

    assert not offending(jaxpr("auto"), count, vocab)
    assert offending(jaxpr("reference"), count, vocab)


def test_a_second_call_compiles_nothing():
    traced = []
    options = {"recipe": cases.recipe(), "model": MODEL}

    @jax.jit
    def step(params, batch):
        traced.append(1)
        return gradients(params, batch, **options)

    for seed in (0, 1):
        step(tiny.weights(MODEL), cases.batch(seed=seed))
    assert len(traced) == 1
