from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.token_weights import stare
from jaxrl_tok.token_weights.stare import State, controller, init, prepare
from tests.conformance.fields import mesh, step
from tests.oracles import weights as oracle


def arrays(seed, entropy=0.2):
    fields = step(seed)
    return fields["logprobs"], jnp.full_like(fields["old_entropy"], entropy), fields["advantages"], fields["mask"]


@pytest.mark.parametrize(("variant", "fraction"), [("O1", 0.1), ("C2", 0.3), ("C2", 1.0)])
def test_oracle(variant, fraction):
    method = jax.jit(partial(prepare, variant=variant, fraction=fraction))
    state = init()
    for seed in range(3):
        logprobs, entropy, advantages, mask = arrays(seed)
        weights, after = method(state, logprobs, entropy, advantages, mask)
        negative = 0.9 if variant == "C2" else 1.0
        options = {"fraction": fraction, "positive": 1.1, "negative": negative}
        expected = oracle.stare(np.asarray(logprobs), np.asarray(advantages), np.asarray(mask), **options)
        np.testing.assert_allclose(weights, expected, rtol=1e-6)
        np.testing.assert_array_equal(stare(weights, mask), weights)
        assert (after.positive, after.negative) == (state.positive, state.negative)


def test_what_was_prepared_under_the_mask_does_not_matter():
    result = stare(jnp.array([[1.1, 0.9, 1.1, jnp.nan]]), jnp.array([[True, True, False, False]]))
    np.testing.assert_array_equal(result, jnp.array([[1.1, 0.9, 0, 0]]))


def test_an_entropy_at_the_target_or_above_switches_it_off():
    logprobs, entropy, advantages, mask = arrays(0, entropy=0.25)  # whose mean is exact
    method = jax.jit(partial(prepare, target_entropy=0.25))
    weights, _ = method(init(), logprobs, entropy, advantages, mask)
    np.testing.assert_array_equal(weights, mask)


def test_a_sign_without_a_token_is_skipped():
    logprobs, entropy, advantages, mask = arrays(0)
    weights, _ = jax.jit(prepare)(init(), logprobs, entropy, -jnp.abs(advantages), mask)
    np.testing.assert_array_equal(weights, mask)


def test_controller_moves_both_weights_towards_the_target():
    state = State(jnp.float32(1.1), jnp.float32(0.9))
    for entropy, on, positive, negative in ((0.2, True, 1.11, 0.89), (0.4, False, 1.09, 0.91), (0.3, False, 1.1, 0.9)):
        gate, after = controller(state, jnp.float32(entropy), target_entropy=0.3, adapt=0.01)
        assert bool(gate) is on
        np.testing.assert_allclose([after.positive, after.negative], [positive, negative], rtol=1e-6)


def test_controller_stays_within_its_bounds_and_rests_without_a_step():
    far = State(jnp.float32(1.5), jnp.float32(0.5))
    _, after = controller(far, jnp.float32(0.0), adapt=0.01)
    assert (after.positive, after.negative) == (1.5, 0.5)
    outside = State(jnp.float32(3.0), jnp.float32(0.0))
    assert controller(outside, jnp.float32(0.0))[1] is outside


def test_the_moved_weight_is_the_one_that_is_used():
    logprobs, entropy, advantages, mask = arrays(0)
    method = jax.jit(partial(prepare, adapt=0.05))
    weights, state = method(init(weight=1.2), logprobs, entropy, advantages, mask)
    assert float(state.positive) == pytest.approx(1.25)
    assert float(weights.max()) == pytest.approx(1.25)


def test_over_shards():
    spec, whole = PartitionSpec("data"), PartitionSpec()
    method = partial(prepare, variant="C2", fraction=0.3)
    specs = {"in_specs": (whole, spec, spec, spec, spec), "out_specs": (spec, whole)}
    sharded = jax.shard_map(partial(method, axis_name="data"), mesh=mesh(), **specs)
    np.testing.assert_array_equal(jax.jit(sharded)(init(), *arrays(0))[0], jax.jit(method)(init(), *arrays(0))[0])


def test_bad_numbers_are_refused():
    with pytest.raises(ConfigError, match=r"fraction = 0.0 must lie in \(0, 1\]"):
        prepare(init(), *arrays(0), fraction=0.0)
    with pytest.raises(ConfigError, match=r"weight = -1\.0"):
        init(weight=-1.0)
