import jax.numpy as jnp
import pytest

from jaxrl_tok.scores import d3s_schedule


def test_linear_in_the_progress():
    for progress, value in ((0.0, 64.0), (0.25, 80.0), (1.0, 128.0)):
        assert d3s_schedule(jnp.float32(progress), initial=64.0, final=128.0) == pytest.approx(value)
