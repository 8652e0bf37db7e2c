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


def test_a_token_that_is_not_finite_leaves_masked_ones_and_other_prompts_alone():
    fields = assemble(0)
    bad = dict(fields, hidden=jnp.asarray(fields["hidden"]).at[0, 0, 0].set(jnp.inf))
    bad |= {"mask": jnp.asarray(fields["mask"]).at[0, 0, 0].set(True), "rewards": jnp.ones_like(fields["rewards"])}
    bad |= {"valid": jnp.ones_like(fields["valid"])}
    result = SCORES(*(bad[name] for name in READS))
    assert not np.isfinite(result[0, 0, 0]) and np.isfinite(result[1:]).all()
    np.testing.assert_array_equal(np.asarray(result)[~np.asarray(bad["mask"])], 0)


def test_temporaries_are_of_one_completion_a_prompt():
    """What is masked for the products is never as large as the hidden states."""
    shape = (2, 16, 64, 32)
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32)] * 2
    groups = [jax.ShapeDtypeStruct(shape[:2], jnp.float32), jax.ShapeDtypeStruct(shape[:3], jnp.bool_)]
    temporaries = SCORES.lower(*arrays, *groups).compile().memory_analysis().temp_size_in_bytes
    assert temporaries < 4 * np.prod(shape) / 2
