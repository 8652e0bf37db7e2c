import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.rollouts import check
from jaxrl_tok.rollouts.vine_ppo import step_starts


def contains(text):
    return np.array([text in token for token in ("", "<end>", "a", "\n", ".\n")])


def test_a_step_begins_behind_a_line_and_the_end_token_begins_none():
    tokens = jnp.array([[[2, 3, 2, 4, 1, 2], [3, 3, 2, 2, 2, 2], [1, 3, 2, 2, 2, 2]]], jnp.int32)
    got = jax.jit(functools.partial(step_starts, end_ids=(1,)))(tokens, jnp.asarray(contains("\n")))
    np.testing.assert_array_equal(got, np.array([[[1, 0, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0], [1, 0, 1, 0, 0, 0]]], bool))


@pytest.mark.parametrize(
    ("hyper", "words"),
    [
        ({"separator": "#"}, "separator = '#': expected text that some token of the vocabulary has in it"),
        ({"separator": ""}, "separator = ''"),
        ({"samples": 0}, "samples = 0: expected at least 1"),
        ({"segments": 0}, "segments = 0: expected at least 1"),
    ],
)
def test_what_gives_no_values_is_refused(hyper, words):
    check("vine_ppo", 8, 64, contains)
    with pytest.raises(ConfigError) as error:
        check("vine_ppo", 8, 64, contains, **hyper)
    assert words in str(error.value)
