import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.advantages import ada_grpo
from tests.conformance.fields import assemble
from tests.oracles import outcomes as oracle

METHOD = jax.jit(ada_grpo)


def test_hand_numbers():
    """Formats 0, 0, 1 at the start: rewards times 3/2, 3/2, 3. All right: 1.5, 1.5, 3 has mean 2, std sqrt(3/4)."""
    arrays = jnp.ones((1, 3)), jnp.array([[0, 0, 1]]), jnp.float32(0.0), jnp.ones((1, 3, 1), bool)
    np.testing.assert_allclose(METHOD(*arrays)[0, :, 0], np.array([-0.5, -0.5, 1]) / 0.75**0.5, rtol=1e-5)


def test_equal_rewards_in_equally_frequent_formats_give_exactly_zero():
    arrays = jnp.full((1, 4), 0.9), jnp.array([[0, 1, 1, 0]]), jnp.float32(0.3), jnp.ones((1, 4, 1), bool)
    np.testing.assert_array_equal(METHOD(*arrays), np.zeros((1, 4, 1)))


def test_oracle():
    for seed in range(2):
        fields = assemble(seed)
        arrays = [fields[name] for name in ("rewards", "format_ids", "progress", "mask", "valid")]
        rewards, formats, progress, mask, valid = map(np.asarray, arrays)
        scaled = oracle.rarer_rewards(rewards, formats, progress, valid)
        credit = oracle.of_groups(scaled, mask, valid, lambda v, i, _: oracle.centred(v, i) / (oracle.spread(v) + 1e-6))
        np.testing.assert_allclose(METHOD(*arrays), oracle.per_token(credit, mask, valid), rtol=2e-5, atol=2e-6)
