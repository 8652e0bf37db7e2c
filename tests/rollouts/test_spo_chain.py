import jax
import numpy as np
import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.rollouts import check
from jaxrl_tok.rollouts.extend import Engine, nothing_contains
from jaxrl_tok.rollouts.spo_chain import spo_chain
from tests import tiny
from tests.rollouts.running import keys_of, sharp

MODEL = tiny.model(tied=False, layers=1)
WEIGHTS = sharp(MODEL, 4)


def test_it_cuts_at_every_second_uncertain_token():
    @jax.jit
    def run(prompts, sampling):
        engine = Engine.read(WEIGHTS, MODEL, prompts, max_tokens=8, end_ids=(), slots=50)
        keys = keys_of(prompts, 2)
        return spo_chain(engine, keys, sampling, samples=1, segments=4, threshold=0.7, interval=2)

    sampled = jax.device_get(run(tiny.prompts(4, 5), tiny.sampling((4, 2), 8)))
    probabilities = np.exp(sampled.rollouts.sampler_logprobs)
    assert ((probabilities > 0.7).sum(-1) > 1).any()
    for p, g in np.ndindex(4, 2):
        expected = [int(t) for t in np.flatnonzero(probabilities[p, g] < 0.7)[::2]]
        assert list(sampled.probes.cuts[p, g]) == expected + [-1] * (4 - len(expected))


@pytest.mark.parametrize(
    ("hyper", "words"),
    [
        ({"interval": 0}, "interval = 0: expected at least 1"),
        ({"threshold": 0.0}, "threshold = 0.0: expected more than 0"),
        ({"samples": 0}, "samples = 0: expected at least 1"),
    ],
)
def test_what_gives_no_values_is_refused(hyper, words):
    check("spo_chain", 8, 64, nothing_contains)
    with pytest.raises(ConfigError) as error:
        check("spo_chain", 8, 64, nothing_contains, **hyper)
    assert words in str(error.value)
