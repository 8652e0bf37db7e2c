from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.token_weights import tw_grpo
from tests.conformance.fields import assemble
from tests.oracles import weights as oracle

DIVERGENCE = jnp.array([[2.0, 1.0, 5.0, jnp.nan]])
MASK = jnp.array([[[True, True, True, False], [True, False, False, False]]])


@pytest.mark.parametrize("as_released", [False, True])
def test_oracle(as_released):
    method = jax.jit(partial(tw_grpo, alpha=1.4, as_released=as_released))
    for seed in range(3):
        fields = assemble(seed)
        arrays = fields["group_divergence"], fields["mask"]
        expected = oracle.tw_grpo(*map(np.asarray, arrays), 1.4, as_released)
        np.testing.assert_allclose(method(*arrays), expected, rtol=1e-5)


def test_four_positions_by_hand():
    """From 1 at a divergence of 1 to 1.7 at 5; with the padded position's 0 as released, 2 is 2/5 of the way."""
    np.testing.assert_allclose(jax.jit(tw_grpo)(DIVERGENCE, MASK), [[[1.175, 1, 1.7, 0], [1.175, 0, 0, 0]]], rtol=1e-6)
    released = tw_grpo(DIVERGENCE, MASK, as_released=True)
    np.testing.assert_allclose(released, [[[1.28, 1.14, 1.7, 0], [1.28, 0, 0, 0]]], rtol=1e-6)


def test_padding_the_batch_matters_only_as_released():
    longer = [jnp.pad(x, (*((0, 0),) * (x.ndim - 1), (0, 2))) for x in (DIVERGENCE[:, :3], MASK[:, :, :3])]
    for as_released, same in ((False, True), (True, False)):
        method = jax.jit(partial(tw_grpo, as_released=as_released))
        short = method(DIVERGENCE[:, :3], MASK[:, :, :3])
        assert np.allclose(method(*longer)[:, :, :3], short) == same


def test_a_negative_weight_is_refused():
    with pytest.raises(ConfigError, match=r"alpha = -0.1 must be at least 0"):
        tw_grpo(DIVERGENCE, MASK, alpha=-0.1)
