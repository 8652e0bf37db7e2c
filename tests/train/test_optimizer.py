import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrl_tok.train.optimizer import optimizer, schedule

# optax itself mixes Python floats with integer counters.
pytestmark = pytest.mark.usefixtures("standard_promotion")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("constant", [0.1, 0.2, 0.3, 0.3, 0.3, 0.3, 0.3]),
        ("linear", [0.1, 0.2, 0.3, 0.225, 0.15, 0.075, 0.0]),
        ("cosine", [0.1, 0.2, 0.3, *(0.15 * (1 + np.cos(np.pi * t / 4)) for t in range(1, 5))]),
    ],
)
def test_schedule_rises_then_falls(kind, expected):
    rate = schedule(kind, 0.3, warmup=2, total=6)
    np.testing.assert_allclose([rate(i) for i in range(7)], expected, rtol=1e-5, atol=1e-7)


def test_first_adamw_step_by_hand():
    params = {"w": jnp.array([2.0, -1.0]), "norm": jnp.array([3.0])}
    grads = {"w": jnp.array([3.0, 0.0]), "norm": jnp.array([4.0])}
    chain = optimizer(
        optax.constant_schedule(0.1), {"w": True, "norm": False},
        b1=0.9, b2=0.99, eps=1e-8, weight_decay=0.5, clip_norm=1.0,
    )  # fmt: skip
    updates, _ = chain.update(grads, chain.init(params), params)
    # After clipping to norm 1 the first Adam step is the sign of the gradient; decay only on w.
    np.testing.assert_allclose(updates["w"], [-0.1 * (1 + 0.5 * 2), -0.1 * (0.5 * -1)], rtol=1e-4)
    np.testing.assert_allclose(updates["norm"], [-0.1], rtol=1e-4)


def test_clipping_scales_the_whole_gradient():
    chain = optimizer(
        optax.constant_schedule(1.0), {"w": False}, b1=0.0, b2=0.0, eps=1e6, weight_decay=0.0, clip_norm=1.0
    )
    params = {"w": jnp.zeros(2)}
    updates, _ = chain.update({"w": jnp.array([30.0, 40.0])}, chain.init(params), params)
    # With eps far above the gradient, the step is -gradient / eps.
    np.testing.assert_allclose(updates["w"] * 1e6, [-0.6, -0.8], rtol=1e-4)


@pytest.mark.parametrize("state_dtype", ["float32", "bfloat16"])
def test_the_mean_of_gradients_is_kept_as_asked_and_that_of_squares_in_float32(state_dtype):
    params = {"w": jnp.ones(3, jnp.bfloat16)}
    chain = optimizer(
        optax.constant_schedule(0.1), {"w": False},
        b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.0, clip_norm=float("inf"), state_dtype=state_dtype,
    )  # fmt: skip
    state = chain.init(params)
    for _ in range(200):
        _, state = chain.update({"w": jnp.full(3, 0.5, jnp.bfloat16)}, state, params)
    adam = next(part for part in state if isinstance(part, optax.ScaleByAdamState))
    assert (adam.mu["w"].dtype, adam.nu["w"].dtype) == (state_dtype, "float32")
    # 1 - 0.999^200 of 0.25. In bfloat16 it would have stopped where a step is less than half of its last place.
    np.testing.assert_allclose(adam.nu["w"], 0.25 * (1 - 0.999**200), rtol=1e-3)
