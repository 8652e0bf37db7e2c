import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.losses import adaptive_entropy_bonus
from jaxrl_tok.losses.adaptive_entropy_bonus import EntropyController, init, prepare
from tests.conformance.fields import mesh

PREPARE = jax.jit(prepare, static_argnames=("target", "step_size"))


def entropies(mean):
    """A batch with this mean entropy, if the masked token does not count."""
    return jnp.array([[mean - 0.1, mean + 0.1], [mean, 77.0]]), jnp.array([[True, True], [True, False]])


def test_the_coefficient_rises_below_the_target_and_falls_above():
    """0 at first; it acts only while the entropy is below the target, with what the updates before led to."""
    state, used, kept = init(), [], []
    for mean in (0.15, 0.15, 0.15, 0.3, 0.15, 0.3, 0.3, 0.3):
        prepared, state = PREPARE(state, *entropies(mean), target=0.2, step_size=0.001)
        used.append(float(prepared[0]))
        kept.append(float(state.coefficient))
    np.testing.assert_allclose(used, [0, 0.001, 0.002, 0, 0.002, 0, 0, 0], atol=1e-9)
    np.testing.assert_allclose(kept, [0.001, 0.002, 0.003, 0.002, 0.003, 0.002, 0.001, 0], atol=1e-9)


def test_the_coefficient_keeps_to_its_bounds():
    _, state = PREPARE(init(start=0.005), *entropies(0.1))
    np.testing.assert_allclose(state.coefficient, 0.005)
    with pytest.raises(ConfigError, match=r"start = 0\.1 must lie between lowest = 0\.0 and highest = 0\.005"):
        init(start=0.1)
    with pytest.raises(ConfigError, match=r"step_size = -1\.0"):
        prepare(init(), *entropies(0.1), step_size=-1.0)


def test_loss_is_the_entropy_times_the_coefficient_and_has_its_gradient():
    entropy, mask = entropies(0.5)
    prepared = jnp.array([0.25, 0.25])
    np.testing.assert_allclose(adaptive_entropy_bonus(entropy, prepared, mask), [[-0.1, -0.15], [-0.125, 0]], rtol=1e-6)
    grads = jax.jit(jax.grad(lambda x: jnp.sum(adaptive_entropy_bonus(x, prepared, mask))))(entropy)
    np.testing.assert_allclose(grads, [[-0.25, -0.25], [-0.25, 0]])


def test_a_batch_without_a_token_changes_nothing():
    entropy, mask = entropies(0.1)
    prepared, state = PREPARE(EntropyController(jnp.float32(0.003)), entropy, jnp.zeros_like(mask))
    assert (prepared.tolist(), float(state.coefficient)) == ([0, 0], pytest.approx(0.003))


def test_in_shard_map_the_mean_is_over_all_shards():
    """Each shard alone would be on another side of the target."""
    entropy = jnp.array([[0.1], [0.1], [0.1], [0.9]])
    spec, none = PartitionSpec("data"), PartitionSpec()
    method = jax.shard_map(
        lambda state, *arrays: prepare(state, *arrays, target=0.2, axis_name="data"),
        mesh=mesh(), in_specs=(none, spec, spec), out_specs=(spec, none),
    )  # fmt: skip
    prepared, state = jax.jit(method)(init(start=0.002), entropy, jnp.ones((4, 1), bool))
    np.testing.assert_allclose(prepared, 0)
    np.testing.assert_allclose(state.coefficient, 0.0019, rtol=1e-5)
