import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.reductions import constant_length
from tests.conformance.fields import step
from tests.oracles import reductions as oracle
from tests.reductions.example import LOSS, MASK


def test_hand_numbers():
    mean = constant_length(LOSS, MASK, length=10)
    assert (mean.total, mean.count) == (9, 2 * 10)
    assert constant_length(LOSS, MASK, length=10, rows="all").count == 3 * 10
    assert constant_length(LOSS, MASK).count == 2 * 3
    mean = constant_length(LOSS, MASK, length=10, rows="none")
    assert (mean.total, mean.count) == (9, 10)


def test_padding_changes_nothing_once_the_length_is_set():
    padded = [jnp.pad(x, ((0, 0), (0, 5))) for x in (LOSS, MASK)]
    assert constant_length(*padded, length=4).value() == constant_length(LOSS, MASK, length=4).value()


@pytest.mark.parametrize("seed", range(3))
def test_oracle(seed):
    fields = step(seed)
    expected = oracle.constant_length(np.asarray(fields["loss"]), np.asarray(fields["mask"]), 100)
    result = constant_length(fields["loss"], fields["mask"], length=100).value()
    assert result == pytest.approx(expected, rel=1e-5, abs=1e-8)
