import jax.numpy as jnp
import numpy as np

from jaxrl_tok.losses import functional_anchor, ppo_clip
from jaxrl_tok.losses.functional_anchor import counted
from jaxrl_tok.reductions import token_mean
from tests.conformance.fields import step

READS = ("log_ratio", "low", "high", "advantages", "token_weights")


def test_only_functional_tokens_count_in_sum_and_mean():
    fields = step(0)
    arrays = [fields[name] for name in READS]
    losses = functional_anchor(*arrays, fields["planning"], fields["mask"])
    kept = np.asarray(fields["planning"] & fields["mask"])
    plain = np.asarray(ppo_clip(*arrays, fields["mask"]))
    np.testing.assert_array_equal(losses, np.where(kept, plain, 0))
    mean = token_mean(losses, counted(fields["planning"], fields["mask"])).value()
    np.testing.assert_allclose(mean, plain[kept].mean(), rtol=1e-5)


def test_without_a_functional_token_the_term_is_zero():
    fields = step(0)
    none = jnp.zeros_like(fields["mask"])
    losses = functional_anchor(*(fields[name] for name in READS), none, fields["mask"])
    assert token_mean(losses, counted(none, fields["mask"])).value() == 0


def test_a_planning_token_that_is_not_trained_counts_in_neither():
    """By hand at ratio 1: -A on the first token alone."""
    planning, mask = jnp.array([[True, False, True]]), jnp.array([[True, True, False]])
    one = jnp.ones((1, 3))
    losses = functional_anchor(0 * one, 0.8 * one, 1.2 * one, 3 * one, one, planning, mask)
    np.testing.assert_allclose(losses, [[-3.0, 0, 0]], rtol=1e-6)
    assert counted(planning, mask).tolist() == [[True, False, False]]
