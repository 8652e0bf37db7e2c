"""Checks of laws that give several pairs or truths."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.conformance import fields as data

SEEDS = range(3)


def holds(law, fields=data.assemble, seeds=SEEDS):
    """Checks the pairs that a law gives, compiled once: equal up to rounding."""
    law = jax.jit(law)
    for seed in seeds:
        for one, other in law(fields(seed)):
            np.testing.assert_allclose(one, jnp.broadcast_to(other, one.shape).astype(one.dtype), rtol=2e-5, atol=2e-6)


def always(law, fields=data.assemble):
    """Checks that the truths a law gives are true."""
    law = jax.jit(law)
    for seed in SEEDS:
        for truth in law(fields(seed)):
            assert np.all(truth)


def of(f, *names):
    return [f[name] for name in names]
