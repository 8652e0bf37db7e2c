"""Scoring under jit, vmap, remat, shard_map and on a mesh gives what it gives alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxrl_tok.kernels import kept_logprobs, token_score
from tests.kernels.token_score.cases import Case

# The same sums over rows, split over devices: another order of float32 additions.
CLOSE = {"rtol": 1e-6, "atol": 2e-6}


@pytest.fixture(scope="module")
def problem():
    hidden, head, targets, inv_temperature, _ = Case(per_row_temperature=True).arrays()
    return jnp.float32(hidden), jnp.float32(head), jnp.asarray(targets), jnp.asarray(inv_temperature)


def loss(hidden, head, targets, inv_temperature, block=None):
    scores = token_score(hidden, head, targets, inv_temperature=inv_temperature, block=block)
    return jnp.sum(scores.logprobs + 0.3 * scores.entropy + 0.1 * scores.lse)


def loss_in_blocks(*arguments):
    return loss(*arguments, block=64)


def kept_loss(hidden, head, targets, inv_temperature):
    thresholds = jnp.full(targets.shape, -5.0)
    return jnp.sum(kept_logprobs(hidden, head, targets, thresholds, inv_temperature=inv_temperature, block=64))


@pytest.fixture(scope="module")
def expected(problem):
    return jax.jit(jax.value_and_grad(loss, (0, 1)))(*problem)


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))


def check(got, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **CLOSE), got, expected)


def test_without_jit(problem, expected):
    check(jax.value_and_grad(loss, (0, 1))(*problem), expected)


def test_remat(problem, expected):
    check(jax.jit(jax.value_and_grad(jax.checkpoint(loss), (0, 1)))(*problem), expected)


def test_vmap_over_rows(problem, expected):
    def mapped(hidden, head, targets, inv_temperature):
        return jnp.sum(jax.vmap(loss, in_axes=(0, None, 0, 0))(hidden, head, targets, inv_temperature))

    check(jax.jit(jax.value_and_grad(mapped, (0, 1)))(*problem), expected)


def test_on_a_mesh_with_rows_sharded(problem, expected, mesh):
    rows, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    f = jax.jit(jax.value_and_grad(loss_in_blocks, (0, 1)), in_shardings=(rows, whole, rows, rows))
    check(jax.device_get(f(*problem)), jax.device_get(expected))


SPECS = (P("data"), P(), P("data"), P("data"))


def test_gradient_inside_shard_map(problem, expected, mesh):
    def local(*arguments):
        return jax.lax.psum(loss_in_blocks(*arguments), "data")

    f = jax.value_and_grad(local, (0, 1))
    f = jax.shard_map(f, mesh=mesh, in_specs=SPECS, out_specs=(P(), (P("data"), P())))
    check(jax.device_get(jax.jit(f)(*problem)), jax.device_get(expected))


@pytest.mark.parametrize("f", [loss, kept_loss])
def test_gradient_of_a_shard_map(problem, mesh, f):
    sharded = jax.shard_map(
        lambda *arguments: jax.lax.psum(f(*arguments), "data"), mesh=mesh, in_specs=SPECS, out_specs=P()
    )
    got, want = (jax.jit(jax.value_and_grad(g, (0, 1)))(*problem) for g in (sharded, f))
    check(jax.device_get(got), jax.device_get(want))
