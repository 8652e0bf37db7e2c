"""What every processor of logits must do, and that the registry has them all."""

import functools
import importlib
import inspect
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl_tok.samplers
from jaxrl_tok.samplers import PROCESSORS, SAMPLERS
from jaxrl_tok.scores.normalized_entropy import EntropyScale

ROWS, VOCAB = 5, 8
HELPERS = {"draw", "left_out", "token_mask"}
SCALE = EntropyScale(jnp.float32(0.1), jnp.float32(-3.0), jnp.float32(0.6))
ARRAYS = {
    "bias": jnp.linspace(-2, 2, ROWS),
    "positions": jnp.array([0, 100, 300, 900, 5000], jnp.int32),
    "minimum": jnp.array([0, 100, 301, 2000, 6000], jnp.int32),
    "thinking": jnp.array([True, True, True, False, True]),
    "active": jnp.array([True, True, False, False, True]),
    "remaining": jnp.array([9, 1, 0, -5, 0], jnp.int32),
    "forced": jnp.array([0, 0, 0, 1, 3], jnp.int32),
    "scale": SCALE,
}
HYPER = {
    "token_bias": {"ids": (1, 3)},
    "cyclic_reflex": {"ids": (1, 3)},
    "bad_tokens": {"ids": (2,)},
    "min_tokens": {"end_ids": (0, 7)},
    "budget": {"tokens": (4, 6)},
}
# With these a processor leaves the logits as they are, to the last bit.
PLAIN = {
    "adaptive_temperature": ({}, {"strength": 0.0}),
    "token_bias": ({}, {"ids": ()}),
    "cyclic_reflex": ({}, {"amplitude": 0.0}),
    "bad_tokens": ({}, {"ids": ()}),
    "min_tokens": ({"minimum": jnp.zeros(ROWS, jnp.int32)}, {}),
    "budget": ({"remaining": jnp.full(ROWS, 99, jnp.int32), "forced": jnp.zeros(ROWS, jnp.int32)}, {}),
}


def logits():
    """Random ones, an offset of 300, a row with one token alone, and ones without mass."""
    x = np.random.default_rng(0).normal(size=(ROWS, VOCAB)).astype(np.float32) * 3
    x[1] += 300
    x[2] = -np.inf
    x[2, 5] = 1
    x[3, ::2] = -np.inf
    return jnp.asarray(x)


def processed(name, x, rows=slice(None), arrays=None, hyper=None):
    given = {**ARRAYS, **(arrays or {})}
    wanted = [p.name for p in inspect.signature(PROCESSORS[name]).parameters.values() if p.kind is not p.KEYWORD_ONLY]
    method = jax.jit(functools.partial(PROCESSORS[name], **{**HYPER.get(name, {}), **(hyper or {})}))
    own = (given[p] if p == "scale" else given[p][rows] for p in wanted[1:])
    return np.asarray(method(x[rows], *own))


def test_every_module_of_the_folder_is_registered():
    modules = {module.name for module in pkgutil.iter_modules(jaxrl_tok.samplers.__path__)}
    assert modules == HELPERS | set(SAMPLERS) | set(PROCESSORS)
    for name, method in {**SAMPLERS, **PROCESSORS}.items():
        assert method.__name__ == name
        assert method.__module__ == f"jaxrl_tok.samplers.{name}"
        assert getattr(importlib.import_module("jaxrl_tok.samplers"), name) is method


@pytest.mark.parametrize("name", PROCESSORS)
def test_it_changes_some_rows_and_gives_no_nan(name):
    result = processed(name, logits())
    assert result.shape == (ROWS, VOCAB) and result.dtype == np.float32
    assert not np.isnan(result).any() and not (result == np.inf).any()
    assert (result != np.asarray(logits())).any()
    assert (result > -np.inf).any(axis=-1).all()


@pytest.mark.parametrize("name", PROCESSORS)
def test_it_is_plain_where_it_should_be(name):
    arrays, hyper = PLAIN[name]
    np.testing.assert_array_equal(processed(name, logits(), arrays=arrays, hyper=hyper), logits())


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_row_depends_on_itself_alone(name):
    together = processed(name, logits())
    for row in range(ROWS):
        alone = processed(name, logits(), rows=slice(row, row + 1))
        np.testing.assert_allclose(together[row], alone[0], rtol=1e-6)


@pytest.mark.parametrize("name", sorted(set(PROCESSORS) - {"budget"}))
def test_what_has_no_mass_gets_none(name):
    without = np.asarray(logits()) == -np.inf
    assert (processed(name, logits())[without] == -np.inf).all()


def test_after_one_another_in_a_compiled_program():
    """In the registry's order; the budget, being last, forces even a token that is banned."""

    @jax.jit
    def run(x):
        x = PROCESSORS["adaptive_temperature"](x, SCALE)
        x = PROCESSORS["cyclic_reflex"](x, ARRAYS["positions"], ARRAYS["thinking"], ids=(1,))
        x = PROCESSORS["bad_tokens"](x, ids=(4,))
        return PROCESSORS["budget"](x, ARRAYS["remaining"], ARRAYS["forced"], ARRAYS["active"], tokens=(4, 6))

    result = np.asarray(run(logits()))
    assert (result[[0, 2, 4], 4] == -np.inf).all()
    assert result[1].argmax() == 4 and result[3].argmax() == 6
    assert (np.isfinite(result[[1, 3]]).sum(axis=-1) == 1).all()
    assert [*PROCESSORS][:: len(PROCESSORS) - 1] == ["adaptive_temperature", "budget"]
