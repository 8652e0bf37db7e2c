import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.losses import gmpo
from jaxrl_tok.reductions import sequence_mean_token_mean
from tests.conformance.fields import step
from tests.oracles import objectives as oracle

GMPO = jax.jit(gmpo)
READS = ("log_ratio", "low", "high", "advantages", "token_weights", "mask")


def test_hand_numbers():
    """Logs 0.2 and 1.0, the second clipped to 0.4 for A > 0 and free for A < 0: means 0.3 and 0.6."""
    log_ratio = jnp.array([[0.2, 1.0], [0.2, 1.0]])
    bounds = jnp.full((2, 2), jnp.exp(-0.4)), jnp.full((2, 2), jnp.exp(0.4))
    advantages = jnp.array([[2.0, 2.0], [-2.0, -2.0]])
    result = GMPO(log_ratio, *bounds, advantages, jnp.ones((2, 2)), jnp.ones((2, 2), bool))
    np.testing.assert_allclose(result, [[-2 * np.exp(0.3)] * 2, [2 * np.exp(0.6)] * 2], rtol=1e-6)


def test_oracle():
    for seed in range(3):
        fields = step(seed) | {"token_weights": jnp.ones((16, 7))}
        arrays = [fields[name] for name in READS]
        mask = np.asarray(fields["mask"])
        of_rows = oracle.gmpo(*map(np.asarray, (*arrays[:4], arrays[5])))
        np.testing.assert_allclose(GMPO(*arrays), np.where(mask, of_rows[:, None], 0), rtol=1e-5, atol=1e-6)
        mean = sequence_mean_token_mean(GMPO(*arrays), fields["mask"], rows="all").value()
        np.testing.assert_allclose(mean, of_rows.mean(), rtol=1e-5)


def test_gradient_of_a_free_token_is_its_share_of_the_completions():
    fields = step(0) | {"log_ratio": jnp.zeros((16, 7)), "token_weights": jnp.ones((16, 7))}

    def total(x):
        losses = gmpo(*((fields | {"log_ratio": x})[name] for name in READS))
        return sequence_mean_token_mean(losses, fields["mask"]).total

    mask, advantages = np.asarray(fields["mask"]), np.asarray(fields["advantages"])
    n = np.maximum(mask.sum(1, keepdims=True), 1)
    of_row = np.where(mask, advantages, 0).sum(1, keepdims=True) / n
    np.testing.assert_allclose(
        jax.jit(jax.grad(total))(fields["log_ratio"]), np.where(mask, -of_row / n, 0), rtol=1e-5, atol=1e-7
    )


def test_a_length_with_eps_lowers_the_completions_advantage():
    arrays = [jnp.full((1, 1), x) for x in (0.0, 0.5, 2.0, 3.0, 1.0)]
    np.testing.assert_allclose(gmpo(*arrays, jnp.ones((1, 1), bool), eps=0.5), [[-2.0]])
