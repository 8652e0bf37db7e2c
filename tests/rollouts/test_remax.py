"""A greedy completion beside each group: it is greedy, and the group is what it would have been."""

import jax
import numpy as np
import pytest

from jaxrl_tok.rollouts import remax as module
from jaxrl_tok.rollouts.extend import Engine, extend
from jaxrl_tok.rollouts.generate import generate
from tests import tiny
from tests.rollouts.running import keys_of

PROMPTS, GROUP, SIZE, LIMIT, ENDS = 4, 3, 5, 8, (0, 1, 2)
MODEL = tiny.model(tied=False, layers=1)
WEIGHTS = tiny.weights(MODEL)


def test_a_greedy_completion_stands_beside_the_independent_ones():
    prompts = tiny.prompts(PROMPTS, SIZE)
    keys = keys_of(prompts, GROUP)

    @jax.jit
    def run(prompts, sampling, greedy):
        how = {"max_tokens": LIMIT, "end_ids": ENDS, "slots": 5}
        own = module.remax(Engine.read(WEIGHTS, MODEL, prompts, **how), keys, sampling)
        plain = generate(WEIGHTS, MODEL, prompts, keys, sampling, **how)[0]
        return own, plain, generate(WEIGHTS, MODEL, prompts, keys, greedy, **how)[0]

    samplings = (tiny.sampling((PROMPTS, GROUP), LIMIT, heat) for heat in (1.0, 0.0))
    sampled, plain, greedy = jax.device_get(run(prompts, *samplings))
    np.testing.assert_array_equal(sampled.rollouts.mask, plain.mask)
    np.testing.assert_array_equal(*(np.where(plain.mask, x.tokens, 0) for x in (sampled.rollouts, plain)))
    np.testing.assert_array_equal(sampled.rollouts.temperature, 1)
    probes = sampled.probes
    assert probes.cuts.shape == (PROMPTS, 1, 1) and not probes.cuts.any()
    for p in range(PROMPTS):
        assert probes.lengths[p, 0, 0, 0] == greedy.mask[p, 0].sum()
        own = probes.tokens[p, 0, 0, 0, : probes.lengths[p, 0, 0, 0]]
        assert list(own) == list(greedy.tokens[p, 0][greedy.mask[p, 0]])
    assert (greedy.tokens[:, 0] != plain.tokens[:, 0]).any()
    np.testing.assert_array_equal(sampled.tokens, plain.mask.sum((1, 2)) + greedy.mask[:, 0].sum(1))


@pytest.mark.parametrize(("slots", "used"), [(PROMPTS * GROUP, PROMPTS * (GROUP + 1)), (PROMPTS * GROUP - 1,) * 2])
def test_with_a_slot_for_each_completion_the_greedy_ones_do_not_wait(slots, used, monkeypatch):
    def counted(engine, *rest):
        seen.append(engine.slots)
        return extend(engine, *rest)

    seen = []
    monkeypatch.setattr(module, "extend", counted)
    prompts = tiny.prompts(PROMPTS, SIZE)
    how = {"max_tokens": LIMIT, "end_ids": ENDS, "slots": slots}
    sampling = tiny.sampling((PROMPTS, GROUP), LIMIT, 1.0)
    keys = keys_of(prompts, GROUP)
    jax.eval_shape(lambda: module.remax(Engine.read(WEIGHTS, MODEL, prompts, **how), keys, sampling))
    assert seen == [used]
