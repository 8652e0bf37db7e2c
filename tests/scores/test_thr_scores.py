import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.scores import thr_scores
from tests.conformance.fields import assemble, spoil
from tests.oracles import objectives as oracle

SCORES = jax.jit(thr_scores)
READS = ("hidden", "token_errors", "rewards", "mask", "valid")


def test_hand_numbers():
    """A correct token with e = (1, -1), h = 2: another of e = (3, 1), h = 5 has (3 - 1) 10 = 20, itself 2 * 4 = 8."""
    hidden, errors = jnp.array([[[[2.0]], [[5.0]]]]), jnp.array([[[[1.0, -1.0]], [[3.0, 1.0]]]])
    result = SCORES(hidden, errors, jnp.array([[1.0, 0.0]]), jnp.ones((1, 2, 1), bool))
    np.testing.assert_array_equal(result[0, :, 0], [8, 20])


def test_oracle():
    for seed in range(2):
        fields = assemble(seed)
        hidden, errors, rewards, mask, valid = (np.asarray(fields[name]) for name in READS)
        expected = oracle.thr_scores(hidden, errors, rewards > 0.5, mask, valid)
        result = SCORES(*(spoil(fields)[name] for name in READS))
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)
