import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.kernels.dispatch import choose

CANDIDATES = {"pallas_tpu": "the device is a cpu", "chunked": None, "reference": None}


def test_auto_takes_the_first_that_can_run():
    assert choose("auto", CANDIDATES) == "chunked"


def test_a_name_is_obeyed():
    assert choose("reference", CANDIDATES) == "reference"


def test_a_named_backend_that_cannot_run_says_why():
    with pytest.raises(ConfigError, match="'pallas_tpu' cannot run: the device is a cpu"):
        choose("pallas_tpu", CANDIDATES)


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(ConfigError, match="unknown backend 'chunkd'; did you mean 'chunked'"):
        choose("chunkd", CANDIDATES)


def test_auto_with_nothing_to_choose_says_why_for_each():
    with pytest.raises(ConfigError, match="a: no chip; b: D is odd"):
        choose("auto", {"a": "no chip", "b": "D is odd"})
