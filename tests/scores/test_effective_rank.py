import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.scores import effective_rank

METHOD = jax.jit(effective_rank)


def test_singular_values_of_the_centred_states():
    """Of each completion's trained tokens alone, by NumPy."""
    rng = np.random.default_rng(0)
    hidden, mask = rng.normal(size=(2, 2, 7, 4)), rng.random((2, 2, 7)) < 0.7
    spoilt = jnp.asarray(np.where(mask[..., None], hidden, np.nan), jnp.float32)
    result = METHOD(spoilt, jnp.asarray(mask))
    for p, g in np.ndindex(2, 2):
        states = hidden[p, g][mask[p, g]]
        s = np.linalg.svd(states - states.mean(axis=0), compute_uv=False)
        np.testing.assert_allclose(result[p, g], np.exp(-(s / s.sum() * np.log(s / s.sum() + 1e-8)).sum()), rtol=1e-5)


def test_directions_of_equal_size_count():
    """+-e1, +-e2, +-e3 are centred and have three equal singular values."""
    hidden = jnp.concatenate([jnp.eye(3), -jnp.eye(3)])[None, None]
    np.testing.assert_allclose(METHOD(hidden, jnp.ones((1, 1, 6), bool)), [[3.0]], rtol=1e-5)


def test_equal_states_one_token_and_none():
    hidden = jnp.broadcast_to(jnp.array([1.0, 2.0, 3.0]), (1, 3, 4, 3))
    mask = jnp.array([[[True] * 4, [True, False, False, False], [False] * 4]])
    np.testing.assert_allclose(METHOD(hidden, mask), [[1, 0, 0]], atol=1e-6)
