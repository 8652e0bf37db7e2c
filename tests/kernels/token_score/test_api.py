import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.kernels import token_score
from tests.kernels import oracle
from tests.kernels.token_score.cases import BACKENDS, CASES


@functools.partial(jax.jit, static_argnames=("layout", "soft_cap", "options"))
def value_and_gradients(hidden, head, targets, inv_temperature, cotangents, layout, soft_cap, options):
    """Gives (logprobs, entropy, lse), stacked, and the gradients of hidden and head [D, V] for cotangents [3, N]."""

    def scores(hidden, head):
        result = token_score(
            hidden,
            head if layout == "dv" else head.T,
            targets,
            inv_temperature=inv_temperature,
            soft_cap=soft_cap,
            **dict(options),
        )
        return jnp.stack([result.logprobs, result.entropy, result.lse])

    value, pull = jax.vjp(scores, hidden, head)
    return value, *pull(cotangents)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name, backend):
    case, options = CASES[name], tuple(BACKENDS[backend].items())
    hidden, head, targets, inv_temperature, all_cotangents = case.arrays()
    expected, state = oracle.score(hidden, head, targets, inv_temperature, case.soft_cap)
    with jax.enable_x64(case.dtype == "float64"):
        inputs = jnp.asarray(hidden, case.dtype), jnp.asarray(head, case.dtype), targets, inv_temperature
        for subset in ([1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]):
            cotangents = all_cotangents * np.asarray(subset, all_cotangents.dtype)[:, None]
            results = value_and_gradients(*inputs, cotangents, case.layout, case.soft_cap, options)
            again = value_and_gradients(*inputs, cotangents, case.layout, case.soft_cap, options)
            for first, second in zip(results, again, strict=True):
                np.testing.assert_array_equal(first, second)
            value, *gradients = results
            assert [x.dtype for x in gradients] == [case.dtype] * 2
            want = oracle.gradients(hidden, head, targets, state, cotangents)
            gradients = [np.asarray(x, np.float64) for x in gradients]
            check_gradients(case, gradients, want, hidden, head, cotangents, state[0])
    assert value.dtype == case.accumulation
    check_values(case, value, expected, state[0])
