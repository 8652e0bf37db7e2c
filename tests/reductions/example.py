"""Completions of two, one and no trained tokens."""

import jax.numpy as jnp

LOSS = jnp.array([[1.0, 2.0, jnp.nan], [6.0, jnp.nan, jnp.inf], [jnp.nan, 5.0, 5.0]])
MASK = jnp.array([[True, True, False], [True, False, False], [False, False, False]])
