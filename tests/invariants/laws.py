"""How a law is checked: on a few seeds, in one compiled call."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.conformance.fields import step

SEEDS = 3


def over_seeds(law, of=step):
    """Calls law(fields) on a few seeds in one compiled call."""
    drawn = [of(seed) for seed in range(SEEDS)]
    stacked = {name: jnp.stack([fields[name] for fields in drawn]) for name in drawn[0]}
    return jax.jit(jax.vmap(law))(stacked)


def equal(law, of=step, rtol=1e-5, atol=2e-6):
    """Checks that law(fields) gives two equal results, and not zeros."""
    left, right = over_seeds(law, of)
    for one, other in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert np.isfinite(np.asarray(one)).all() and np.any(np.asarray(one) != 0)
        np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)
