"""Checks of laws that read a few arrays by name and give one pair."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.conformance.fields import assemble

SEEDS = 3


def holds(law, *names, of=assemble, rtol=1e-5, atol=5e-6):
    """Checks that law(*fields) gives two equal results, over a few seeds in one compiled call."""
    drawn = [[of(seed)[name] for name in names] for seed in range(SEEDS)]
    stacked = [jnp.stack(x) for x in zip(*drawn, strict=True)]
    left, right = jax.jit(jax.vmap(law))(*stacked)
    assert np.isfinite(np.asarray(left)).all() and np.any(np.asarray(left) != 0)
    np.testing.assert_allclose(left, right, rtol=rtol, atol=atol)


def without_holes(mask):
    """The same number of trained tokens in each row, one after the other."""
    return jnp.arange(mask.shape[2])[None, None] < jnp.sum(mask, axis=2, keepdims=True)
