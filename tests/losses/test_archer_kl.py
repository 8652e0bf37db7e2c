import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.losses import archer_kl
from jaxrl_tok.losses.archer_kl import counted
from tests.conformance.fields import step
from tests.oracles import losses
from tests.oracles import objectives as oracle

LOSS, COUNTED = (jax.jit(f, static_argnames="quantile") for f in (archer_kl, counted))
READS = ("logprobs", "ref_logprobs", "old_entropy", "mask")


def test_oracle():
    for seed in range(3):
        fields = step(seed)
        arrays = [np.asarray(fields[name]) for name in READS]
        low = oracle.low_entropy(*arrays[2:], 0.6)
        expected = np.zeros(low.shape)
        for b, t in np.argwhere(low):
            expected[b, t] = min(losses.kl(arrays[0][b, t], arrays[1][b, t], "k3"), 10)
        result = LOSS(*(fields[name] for name in READS), quantile=0.6)
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(COUNTED(fields["old_entropy"], fields["mask"], quantile=0.6), low)


def test_the_average_is_over_the_low_tokens():
    """Of five tokens four are low: distances of log 2 on them, and the high one does not count."""
    mask, entropy = jnp.ones((1, 5), bool), jnp.arange(5.0)[None]
    losses = LOSS(jnp.zeros((1, 5)), jnp.full((1, 5), jnp.log(2.0)), entropy, mask)
    k3 = 2 - 1 - np.log(2)
    np.testing.assert_allclose(losses, [[k3] * 4 + [0]], rtol=1e-6)
    assert COUNTED(entropy, mask).tolist() == [[True] * 4 + [False]]
