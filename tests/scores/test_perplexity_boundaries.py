import jax.numpy as jnp
import numpy as np

from jaxrl_tok.scores import perplexity_boundaries
from tests.conformance.fields import assemble
from tests.oracles import outcomes as oracle


def test_hand_numbers():
    """A macro action starts where the next token is less expected: at 1 here, beside the first and the last."""
    logprobs = jnp.array([[[-2.0, -1.0, jnp.nan, -1.5, -1.5, -1.0, jnp.nan]]])
    mask = ~jnp.isnan(logprobs)
    assert np.flatnonzero(perplexity_boundaries(logprobs, mask)).tolist() == [0, 1, 5]


def test_oracle():
    for seed in range(2):
        fields = assemble(seed)
        arrays = [fields[name] for name in ("ref_logprobs", "mask", "valid")]
        np.testing.assert_array_equal(perplexity_boundaries(*arrays), oracle.surprised(*map(np.asarray, arrays)))
