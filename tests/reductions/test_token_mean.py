import numpy as np
import pytest

from jaxrl_tok.reductions import token_mean
from tests.conformance.fields import step
from tests.oracles import reductions as oracle
from tests.reductions.example import LOSS, MASK


def test_hand_numbers():
    mean = token_mean(LOSS, MASK)
    assert (mean.total, mean.count) == (1 + 2 + 6, 3)
    assert mean.value() == 3


@pytest.mark.parametrize("seed", range(3))
def test_oracle(seed):
    fields = step(seed)
    expected = oracle.token_mean(np.asarray(fields["loss"]), np.asarray(fields["mask"]))
    assert token_mean(fields["loss"], fields["mask"]).value() == pytest.approx(expected, rel=1e-5, abs=1e-6)
