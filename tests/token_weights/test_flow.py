import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.token_weights import flow
from tests.conformance.fields import assemble
from tests.oracles import weights as oracle


def test_the_largest_flows_of_each_completion_count_more():
    """ceil(0.4 * 4) = 2 of the first, 1 of the second."""
    through, mask = (
        jnp.array([[[1.0, 4.0, 3.0, 2.0], [5.0, 6.0, 9.0, 9.0]]]),
        jnp.array([[[True] * 4, [True, True, False, False]]]),
    )
    np.testing.assert_array_equal(jax.jit(flow)(through, mask), [[[1, 1.5, 1.5, 1], [1, 1.5, 0, 0]]])


def test_oracle():
    method = jax.jit(flow)
    for seed in range(2):
        fields = assemble(seed)
        through, mask = np.asarray(fields["attention_flow"]), np.asarray(fields["mask"])
        expected = np.where(mask, 1 + 0.5 * oracle.top(through, mask, 0.4), 0)
        np.testing.assert_array_equal(method(fields["attention_flow"], fields["mask"]), expected)


@pytest.mark.parametrize("option", [{"fraction": 1.2}, {"amplify": -1.0}])
def test_bad_numbers_are_refused(option):
    with pytest.raises(ConfigError, match="flow: fraction"):
        flow(jnp.ones((1, 1, 2)), jnp.ones((1, 1, 2), bool), **option)
