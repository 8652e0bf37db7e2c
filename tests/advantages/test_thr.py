import jax
import numpy as np
import pytest

from jaxrl_tok.advantages import thr
from jaxrl_tok.errors import ConfigError
from tests.conformance.fields import assemble, spoil
from tests.oracles import objectives as oracle

THR = jax.jit(thr, static_argnames=("p", "tau"))
READS = ("advantages", "rewards", "hidden", "token_errors", "mask", "valid")


@pytest.mark.parametrize(("p", "tau"), [(0.1, 0.0), (-0.2, 0.8)])
def test_oracle(p, tau):
    for seed in range(3):
        fields = assemble(seed)
        advantages, rewards, hidden, errors, mask, valid = (np.asarray(fields[name]) for name in READS)
        correct = rewards > 0.5
        scores = oracle.thr_scores(hidden, errors, correct, mask, valid)
        expected = np.where(mask, advantages, 0)
        for i, g, t in np.argwhere(mask):
            if (correct & valid)[i].any() and (~correct & valid)[i].any():
                h = scores[i, g, t] if correct[i, g] else -scores[i, g, t]
                expected[i, g, t] *= (1 + p * np.sign(h)) * (abs(h) > tau)
        result = THR(*(spoil(fields)[name] for name in READS), p=p, tau=tau)
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("hyper", [{"p": 2.0}, {"tau": -0.1}])
def test_bad_options_are_refused(hyper):
    with pytest.raises(ConfigError, match=f"{next(iter(hyper))} = "):
        thr(*(assemble(0)[name] for name in READS), **hyper)
