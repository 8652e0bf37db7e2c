"""Random arrays by their names in docs/notation.md, and the ways in which every method is called."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

P, G, T = 4, 4, 7
B = P * G


def assemble(seed):
    """Arrays `[P, ...]` of a rollout batch: shared prefixes, ragged lengths, a hole, missing completions."""
    rng = np.random.default_rng(seed)
    mask = np.arange(T) < rng.integers(1, T + 1, (P, G, 1))
    mask[0, 0] = [True, True, False, True, True, False, False]  # a tool's output inside
    mask[1, 1] = False  # nothing to train on
    valid = rng.random((P, G)) < 0.85
    valid[0] = True
    arrays = {
        "tokens": rng.integers(1, 3, (P, G, T)).astype(np.int32),
        "mask": mask & valid[:, :, None],
        "valid": valid,
        "rewards": rng.choice([0.0, 0.25, 1.0], (P, G)).astype(np.float32),
        "old_entropy": rng.exponential(1.0, (P, G, T)).astype(np.float32),
    }
    return {name: jnp.asarray(x) for name, x in arrays.items()}


def step(seed):
    """Arrays `[B, T]` of a training step."""
    rng = np.random.default_rng(seed)
    mask = np.arange(T) < rng.integers(1, T + 1, (B, 1))
    mask[3] = False
    arrays = {
        "logprobs": -rng.exponential(1.0, (B, T)),
        "old_logprobs": -rng.exponential(1.0, (B, T)),
        "ref_logprobs": -rng.exponential(1.0, (B, T)),
        "log_ratio": rng.normal(0.0, 0.4, (B, T)),
        "low": rng.uniform(0.5, 0.9, (B, T)),
        "high": rng.uniform(1.1, 1.5, (B, T)),
        "advantages": rng.normal(0.0, 1.0, (B, T)),
        "token_weights": rng.uniform(0.0, 2.0, (B, T)),
        "loss": rng.normal(0.0, 1.0, (B, T)),
    }
    return {name: jnp.asarray(x, jnp.float32) for name, x in arrays.items()} | {"mask": jnp.asarray(mask)}


def spoil(fields):
    """Puts NaN, or another token, wherever the mask says that a value does not matter."""
    mask, out = fields["mask"], dict(fields)
    for name, x in fields.items():
        if x.shape == mask.shape and jnp.issubdtype(x.dtype, jnp.floating):
            out[name] = jnp.where(mask, x, jnp.nan)
    if "tokens" in fields:
        out["tokens"] = jnp.where(mask, fields["tokens"], 77)
    if "rewards" in fields:
        out["rewards"] = jnp.where(fields["valid"], fields["rewards"], jnp.nan)
    return out


def mesh(axis_type=AxisType.Auto):
    return jax.make_mesh((4,), ("data",), axis_types=(axis_type,))


def shard(fields):
    """Lays the first axis over four devices."""
    sharding = NamedSharding(mesh(), PartitionSpec("data"))
    return {name: jax.device_put(x, sharding) for name, x in fields.items()}


class Jitted:
    """A bound method, compiled once for all calls with arrays of the same shapes, and its gradient."""

    def __init__(self, bound):
        self.bound, self.reads, self.traces = bound, bound.reads, 0
        self.call = jax.jit(self._counted)
        self.grad = jax.jit(jax.grad(self._weighted_sum, argnums=1), static_argnums=0)

    def __call__(self, fields):
        return self.call(self._picked(fields))

    def gradient(self, fields, name):
        """Gradient of a weighted sum of the results with respect to `fields[name]`."""
        return np.asarray(self.grad(name, fields[name], self._picked(fields)))

    def traces_of_a_second_call(self, first, second):
        """How often the method is traced for `second` after a call on `first`, of the same shapes."""
        self(first)
        before = self.traces
        self(second)
        assert before > 0
        return self.traces - before

    def _counted(self, fields):
        self.traces += 1  # runs only when JAX traces
        return self.bound(fields)

    def _picked(self, fields):
        return {name: fields[name] for name in (*self.bound.reads, *self.bound.optional) if name in fields}

    def _weighted_sum(self, name, x, fields):
        leaves = jax.tree.leaves(self.bound(fields | {name: x}))
        return sum(jnp.vdot(leaf, jnp.linspace(0.5, 1.5, leaf.size).reshape(leaf.shape)) for leaf in leaves)


def close(a, b):
    """Equal up to the rounding of a few float32 operations in another order."""
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=2e-6, atol=2e-6)
