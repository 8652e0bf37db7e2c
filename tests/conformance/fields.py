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


def traces(fn, first, second):
    """How often `fn` is traced when it is called under jit on two inputs of equal shapes."""
    count = 0

    def counted(fields):
        nonlocal count
        count += 1
        return fn(fields)

    jitted = jax.jit(counted)
    jax.block_until_ready((jitted(first), jitted(second)))
    return count


def gradient(fn, fields, name):
    """Gradient of the weighted sum of all float results with respect to `fields[name]`."""

    def scalar(x):
        leaves = [leaf for leaf in jax.tree.leaves(fn(fields | {name: x}))]
        return sum(jnp.vdot(leaf, jnp.linspace(0.5, 1.5, leaf.size).reshape(leaf.shape)) for leaf in leaves)

    return np.asarray(jax.grad(scalar)(fields[name]))


def close(a, b):
    """Equal up to the rounding of a few float32 operations in another order."""
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=2e-6, atol=2e-6)
