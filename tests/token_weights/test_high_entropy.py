from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.token_weights import high_entropy
from tests.conformance.fields import assemble, mesh
from tests.oracles import token_weights as oracle

SCOPES = ["batch", "batch_quantile", "response"]


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.37, 1.0])
def test_oracle_with_and_without_ties(scope, fraction):
    select = jax.jit(partial(high_entropy, fraction=fraction, scope=scope))
    for seed in range(3):
        fields = assemble(seed)
        mask = fields["mask"]
        for entropy in (fields["old_entropy"], jnp.round(fields["old_entropy"])):
            arrays = np.asarray(entropy), np.asarray(mask)
            expected = oracle.high_entropy(*arrays, fraction=fraction, scope=scope)
            np.testing.assert_array_equal(select(entropy, mask), expected)


def test_scopes_differ_as_they_say():
    """Two completions of five tokens, the second ones all equal: two of ten, every tie, one of each five."""
    entropy = jnp.array([[[0.1, 0.9, 0.2, 0.3, 0.4], [0.9, 0.9, 0.9, 0.9, 0.9]]])
    mask = jnp.ones((1, 2, 5), bool)
    methods = {scope: jax.jit(partial(high_entropy, scope=scope)) for scope in SCOPES}
    kept = {scope: np.asarray(method(entropy, mask)).sum(axis=2)[0].tolist() for scope, method in methods.items()}
    assert kept == {"batch": [1, 1], "batch_quantile": [1, 5], "response": [1, 1]}


@pytest.mark.parametrize("scope", SCOPES)
def test_renormalized_weights_have_mean_one(scope):
    fields = assemble(0)
    mask = np.asarray(fields["mask"])
    weights = np.asarray(high_entropy(fields["old_entropy"], fields["mask"], scope=scope, renormalize=True))
    plain = np.asarray(high_entropy(fields["old_entropy"], fields["mask"], scope=scope))
    np.testing.assert_array_equal(weights > 0, plain > 0)
    if scope == "response":
        filled = mask.any(axis=2)
        np.testing.assert_allclose(weights.sum(axis=2)[filled], mask.sum(axis=2)[filled], rtol=1e-6)
    else:
        assert weights.sum() == pytest.approx(mask.sum(), rel=1e-6)


def test_batch_scope_in_shard_map_takes_an_axis_name():
    fields = assemble(0)
    arrays = jnp.round(fields["old_entropy"]), fields["mask"]  # with ties over the shards
    spec = PartitionSpec("data")

    def sharded(scope, axis_name):
        method = jax.shard_map(
            lambda *a: high_entropy(*a, scope=scope, renormalize=True, axis_name=axis_name),
            mesh=mesh(),
            in_specs=spec,
            out_specs=spec,
        )
        return jax.jit(method)(*arrays)

    for scope in SCOPES:
        expected = high_entropy(*arrays, scope=scope, renormalize=True)
        np.testing.assert_allclose(sharded(scope, "data"), expected, rtol=1e-6)
    assert not np.allclose(sharded("batch", None), high_entropy(*arrays, renormalize=True))


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.5, 20.0])
def test_fraction_outside_its_range_is_refused(fraction):
    with pytest.raises(ConfigError, match=r"fraction = .* must lie in \(0, 1\]"):
        high_entropy(jnp.ones((1, 1, 2)), jnp.ones((1, 1, 2), bool), fraction=fraction)
