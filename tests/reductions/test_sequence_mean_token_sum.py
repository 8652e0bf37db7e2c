import numpy as np
import pytest

from jaxrl_tok.reductions import sequence_mean_token_sum
from tests.conformance.fields import step
from tests.oracles import reductions as oracle
from tests.reductions.example import LOSS, MASK


def test_hand_numbers():
    mean = sequence_mean_token_sum(LOSS, MASK)
    assert (mean.total, mean.count) == (9, 2)
    mean = sequence_mean_token_sum(LOSS, MASK, rows="all")
    assert (mean.total, mean.count) == (9, 3)


@pytest.mark.parametrize("seed", range(3))
def test_oracle(seed):
    fields = step(seed)
    expected = oracle.sequence_mean_token_sum(np.asarray(fields["loss"]), np.asarray(fields["mask"]))
    result = sequence_mean_token_sum(fields["loss"], fields["mask"]).value()
    assert result == pytest.approx(expected, rel=1e-5, abs=1e-6)
