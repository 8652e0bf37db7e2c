import jax.numpy as jnp
import numpy as np

from jaxrl_tok.samplers import left_out
from jaxrl_tok.types import LeftOut

LOGITS = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5)), jnp.float32)
PLACES = jnp.array([0, 1, 2], jnp.int32)


def test_nothing_is_left_out():
    assert left_out(LOGITS, PLACES, None) is LOGITS


def test_some_tokens_always_and_the_ends_before_the_minimum():
    got = np.asarray(left_out(LOGITS, PLACES, LeftOut((1,), (3,), 2)))
    gone = np.zeros((3, 5), bool)
    gone[:, 1] = True
    gone[:2, 3] = True
    np.testing.assert_array_equal(got, np.where(gone, -np.inf, LOGITS))
    np.testing.assert_array_equal(left_out(LOGITS, PLACES, LeftOut((1,))), np.where(np.arange(5) == 1, -np.inf, LOGITS))
