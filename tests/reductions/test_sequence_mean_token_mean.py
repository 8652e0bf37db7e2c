import numpy as np
import pytest

from jaxrl_tok.reductions import sequence_mean_token_mean
from tests.conformance.fields import step
from tests.oracles import reductions as oracle
from tests.reductions.example import LOSS, MASK


def test_hand_numbers():
    mean = sequence_mean_token_mean(LOSS, MASK)
    assert (mean.total, mean.count) == (1.5 + 6, 2)
    assert sequence_mean_token_mean(LOSS, MASK, eps=1.0).total == 1 + 3
    mean = sequence_mean_token_mean(LOSS, MASK, rows="all")
    assert (mean.total, mean.count) == (1.5 + 6, 3)


@pytest.mark.parametrize("seed", range(3))
def test_oracle(seed):
    fields = step(seed)
    expected = oracle.sequence_mean_token_mean(np.asarray(fields["loss"]), np.asarray(fields["mask"]))
    result = sequence_mean_token_mean(fields["loss"], fields["mask"]).value()
    assert result == pytest.approx(expected, rel=1e-5, abs=1e-6)
