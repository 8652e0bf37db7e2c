import numpy as np
import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.samplers.token_mask import token_mask


def test_marks_each_id_once():
    np.testing.assert_array_equal(token_mask((3, 0, 3), 5, "x"), [True, False, False, True, False])
    assert not token_mask((), 5, "x").any()


@pytest.mark.parametrize("i", [-1, 5])
def test_an_id_outside_the_vocabulary(i):
    with pytest.raises(ConfigError, match=rf"ids = \(1, {i}\): token {i} is not among the ids 0 to 4"):
        token_mask((1, i), 5, "ids")
