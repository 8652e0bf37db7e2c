import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.models import moe

E, K, D, F = 6, 2, 4, 3


@functools.cache
def arrays(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"x": (2, 5, D), "router": (D, E), "gate_up": (E, D, 2, F), "down": (E, F, D)}
    return {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def by_hand(x, router, gate_up, down, normalise):
    """Token by token and expert by expert, in float64."""
    x, router, gate_up, down = (np.asarray(a, np.float64) for a in (x, router, gate_up, down))
    out = np.zeros_like(x)
    for at in np.ndindex(*x.shape[:-1]):
        probs = softmax(x[at] @ router)
        chosen = np.argsort(-probs)[:K]
        total = probs[chosen].sum() if normalise else 1.0
        for e in chosen:
            gate, up = x[at] @ gate_up[e, :, 0], x[at] @ gate_up[e, :, 1]
            out[at] += probs[e] / total * ((gate / (1 + np.exp(-gate)) * up) @ down[e])
    return out


@jax.jit
def layer(x, router, gate_up, down):
    ids, weights, _ = moe.route(x, router, K, True)
    return moe.experts(x, ids, weights, gate_up, down)


@pytest.mark.parametrize("normalise", [True, False])
def test_each_token_gets_its_experts(normalise):
    a = arrays()
    ids, weights, probs = moe.route(a["x"], a["router"], K, normalise)
    got = moe.experts(a["x"], ids, weights, a["gate_up"], a["down"])
    np.testing.assert_allclose(got, by_hand(**a, normalise=normalise), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(jnp.sum(probs, axis=-1), np.ones((2, 5)), rtol=1e-6)


def test_all_tokens_may_take_the_same_experts():
    """Nothing is dropped where one expert is wanted by all, and experts without tokens give nothing."""
    a = arrays() | {"router": jnp.zeros((D, E)).at[:, 4].set(9.0)}
    a["x"] = jnp.abs(a["x"])
    np.testing.assert_allclose(layer(**a), by_hand(**a, normalise=True), rtol=1e-4, atol=1e-5)


def test_a_token_does_not_depend_on_the_others():
    a = arrays()
    alone = layer(a["x"][:1, 2:3], a["router"], a["gate_up"], a["down"])
    np.testing.assert_allclose(layer(**a)[:1, 2:3], alone, rtol=1e-6)


def test_gradient_is_that_of_the_sum_over_all_experts():
    a = arrays()

    def dense(x, router, gate_up, down):
        probs = jax.nn.softmax(jnp.einsum("BTD,DE->BTE", x, router))
        weights, ids = jax.lax.top_k(probs, K)
        weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
        share = jnp.sum(jax.nn.one_hot(ids, E) * weights[..., None], axis=2)
        h = jnp.einsum("BTD,EDCF->BTECF", x, gate_up)
        return jnp.einsum("BTE,BTEF,EFD->BTD", share, jax.nn.silu(h[..., 0, :]) * h[..., 1, :], down)

    def gradients(f):
        return jax.jit(jax.grad(lambda a: jnp.sum(jnp.sin(f(**a)))))(a)

    got, want = gradients(layer), gradients(dense)
    for name in a:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_balance_is_one_for_even_use_and_the_number_of_experts_for_one():
    ids = jnp.arange(6, dtype=jnp.int32).reshape(1, 3, 2)
    even = jnp.full((1, 3, 6), 1 / 6)
    everyone = jnp.ones((1, 3), bool)
    np.testing.assert_allclose(moe.balance(ids, even, everyone), [1.0], rtol=1e-6)
    same = jax.nn.one_hot(jnp.full((1, 3), 2), 6)
    np.testing.assert_allclose(moe.balance(jnp.full((1, 3, 1), 2, jnp.int32), same, everyone), [6.0], rtol=1e-6)


def test_balance_does_not_see_what_is_masked():
    a = arrays()
    ids, _, probs = moe.route(a["x"], a["router"], K, True)
    mask = jnp.array([[True, True, False, True, False], [False] * 5])
    hole = jnp.where(mask[..., None], probs, jnp.nan)
    got = moe.balance(ids, hole, mask)
    kept = np.asarray(mask[0])
    chosen = np.bincount(np.asarray(ids[0])[kept].reshape(-1), minlength=E) / (3 * K)
    np.testing.assert_allclose(got[0], E * chosen @ np.asarray(probs[0], np.float64)[kept].mean(0), rtol=1e-6)
    assert got[1] == 0
    gradient = jax.grad(lambda p: jnp.sum(moe.balance(ids, p, mask)))(hole)
    np.testing.assert_allclose(gradient[0], np.where(kept[:, None], E * chosen / 3, 0), rtol=1e-5)
