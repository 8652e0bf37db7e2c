import math

import jax.numpy as jnp
import numpy as np

from jaxrl_tok.kernels.token_score import statistics
from jaxrl_tok.kernels.token_score.common import Sums


def test_results_stay_in_bounds_when_sums_are_rounded_past_them():
    up = np.nextafter(np.float32(3), np.float32(4))
    # Rows: target above the maximum; a sum below its largest term; entropy below 0; entropy above log V.
    sums = Sums(
        max_logit=jnp.full(4, 3.0),
        sum_exp=jnp.float32([1, 1 - 1e-6, 1, 7]),
        sum_exp_shifted=jnp.float32([0, 0, 1e-7, -1e-5]),
        target_logit=jnp.float32([up, 3, 3, 3]),
    )
    logprobs, entropy, lse = statistics.finish(sums, 7)
    np.testing.assert_array_equal(logprobs[:3], 0)
    np.testing.assert_array_equal(entropy[:3], 0)
    np.testing.assert_array_equal(lse[:3], 3)
    assert 1.94 < float(entropy[3]) <= math.log(7)


def test_round_down_is_the_nearest_from_below():
    raised = 0
    for vocabulary in range(2, 200):
        exact = math.log(vocabulary)
        got = statistics.round_down(exact, np.dtype(np.float32))
        assert got.dtype == np.float32
        assert float(got) <= exact < float(np.nextafter(got, np.float32(10)))
        raised += float(np.float32(exact)) > exact
    assert raised > 50  # as many as plain rounding would have put above
