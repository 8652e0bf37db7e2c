"""Prompts read so many at a time are read as all at once."""

import jax
import numpy as np
import pytest

from jaxrl_tok.rollouts.generate import plain
from jaxrl_tok.rollouts.waves import prefilled
from tests import tiny
from tests.rollouts.running import on_all_devices, sampled, sharp

PROMPTS, SIZE, GROUP, LIMIT = 8, 6, 2, 8
MODELS = {"a cache a layer": tiny.model(tied=False), "one of all layers": tiny.model(scan_decoding=True)}
HOW = {"max_tokens": LIMIT, "end_ids": (2,), "slots": 16}


@pytest.mark.parametrize("wave", [1, 3, 8])
@pytest.mark.parametrize("model", MODELS)
def test_states_and_caches_are_those_of_all_at_once(model, wave):
    model, prompts = MODELS[model], tiny.prompts(PROMPTS, SIZE)
    weights = tiny.weights(model)

    def read(wave):
        return jax.jit(lambda: prefilled(model, weights, prompts.tokens, prompts.lengths, wave))()

    expected, found = (jax.tree.leaves(jax.device_get(read(number))) for number in (0, wave))
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def test_less_is_in_memory():
    """A wave of one: no array of the program is as large as what the layers of all prompts have."""
    model, prompts = MODELS["a cache a layer"], tiny.prompts(PROMPTS, SIZE)
    weights = tiny.weights(model)

    def temporary(wave):
        run = jax.jit(lambda weights: prefilled(model, weights, prompts.tokens, prompts.lengths, wave))
        return run.lower(weights).compile().as_text().count(f"f32[{PROMPTS},{SIZE},48]")

    assert temporary(0) > 0 and temporary(1) == 0


@pytest.mark.slow
def test_completions_are_the_same_on_one_device_and_on_four():
    model, prompts = MODELS["a cache a layer"], tiny.prompts(PROMPTS, SIZE)
    weights, asked = sharp(model), tiny.sampling((PROMPTS, GROUP), LIMIT, temperature=0.7)
    expected = sampled(plain, model, weights, prompts, asked, **HOW).rollouts
    alone = sampled(plain, model, weights, prompts, asked, **HOW, wave=3).rollouts
    _, run = on_all_devices(plain, model, weights, prompts, asked, **HOW, wave=4)
    for found in (alone, run(1).rollouts):
        np.testing.assert_array_equal(found.mask, expected.mask)
        np.testing.assert_array_equal(np.where(found.mask, found.tokens, 0), np.where(found.mask, expected.tokens, 0))
