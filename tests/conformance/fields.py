"""Random arrays by their names in docs/notation.md, and the ways in which every method is called."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

P, G, T = 4, 4, 7
B = P * G
STEPS, NODES, ITEMS, BUDGETS, SUMMARIES, CRITIQUES, SIZE, VOCABULARY = 3, 7, 3, 3, 2, 2, 5, 6


def assemble(seed):
    """Arrays `[P, ...]` of a rollout batch: shared prefixes, ragged lengths, a hole, missing completions."""
    rng = np.random.default_rng(seed)
    mask = np.arange(T) < rng.integers(1, T + 1, (P, G, 1))
    mask[0, 0] = [True, True, False, True, True, False, False]  # a tool's output inside
    mask[1, 1] = False  # nothing to train on
    valid = rng.random((P, G)) < 0.85
    valid[0] = True
    mask &= valid[:, :, None]
    arrays = {
        "tokens": rng.integers(1, 3, (P, G, T)).astype(np.int32),
        "mask": mask,
        "valid": valid,
        "rewards": rng.choice([0.0, 0.25, 1.0], (P, G)),
        "old_entropy": rng.exponential(1.0, (P, G, T)),
        "truncated": rng.random((P, G)) < 0.3,
        "finished": rng.random((P, G)) < 0.8,
        "prompt_ids": rng.permutation(P).astype(np.int32),
        "progress": np.float32(0.3),
        "step": np.int32(7),
    }
    rewards = arrays["rewards"]
    arrays |= _of_completions(rng, rewards) | _of_steps(rng, rewards, mask) | _of_tree(rewards, mask, valid)
    arrays |= _of_tokens(rng, mask)
    return {name: jnp.asarray(x.astype(np.float32) if x.dtype == np.float64 else x) for name, x in arrays.items()}


def _of_completions(rng, rewards):
    """Arrays with one entry, or a few, a completion or prompt."""
    return {
        "reward_parts": np.stack([rewards, rng.choice([0.0, 1.0], (P, G))], axis=-1),
        "greedy_rewards": rng.choice([0.0, 1.0], P),
        "format_ids": rng.integers(0, 3, (P, G)).astype(np.int32),
        "last_token_score": rng.random((P, G)),
        "item_rewards": rng.choice([0.0, 1.0], (P, G, ITEMS)) * rewards[:, :, None],
        "budget_rewards": rng.choice([0.0, 1.0], (P, G, BUDGETS, SUMMARIES)) * rewards[:, :, None, None],
    }


def _of_steps(rng, rewards, mask):
    """Arrays of steps. A token's step follows from its place, so every step has tokens while the completion lasts.

    Tokens that do not train may lie in a step, or in a phrase, as a tool's output does.
    """
    segments = np.broadcast_to(np.arange(T) * STEPS // T, mask.shape)
    step_mask = (np.where(mask, segments, -1)[..., None] == np.arange(STEPS)).any(axis=2)
    segment_ids = np.where(mask | (rng.random(mask.shape) < 0.5), segments, -1).astype(np.int32)
    values = rng.random((P, G, STEPS + 1))
    values[:, :, 1] = np.where(rng.random((P, G)) < 0.3, np.nan, values[:, :, 1])
    return {
        "segment_ids": segment_ids,
        "state_values": values,
        "step_rewards": np.where(step_mask, rng.normal(0.0, 0.5, step_mask.shape) + rewards[:, :, None], 0),
        "step_mask": step_mask,
        "step_states": rng.integers(0, 3, step_mask.shape).astype(np.int32),
        "wrong_steps": rng.random((P, G, CRITIQUES, STEPS)) < 0.5,
        "boundaries": mask & (rng.random(mask.shape) < 0.4),
        "planning": rng.random(mask.shape) < 0.5,
    }


def _of_tree(rewards, mask, valid):
    """A tree for each prompt: two inner nodes under the root, two completions as leaves of each."""
    parents = np.broadcast_to(np.array([-1, 0, 0, 1, 1, 2, 2], np.int32), (P, NODES))
    leaves = np.where(valid, rewards, np.nan)
    inner = np.nan_to_num(np.stack([leaves[:, :2], leaves[:, 2:]], axis=1)).mean(axis=2)
    values = np.concatenate([inner.mean(axis=1, keepdims=True), inner, np.nan_to_num(leaves)], axis=1)
    depth = np.arange(T) * 2 // T  # 0 in the inner node, 1 in the leaf
    completion = np.arange(G)[:, None]
    nodes = np.where(depth == 0, 1 + completion // 2, 3 + completion)
    return {
        "node_parents": parents,
        "node_values": values,
        "node_rewards": np.concatenate([np.zeros((P, NODES - G)), np.nan_to_num(leaves)], axis=1),
        "node_ids": np.where(mask | (depth == 0), np.broadcast_to(nodes, mask.shape), -1).astype(np.int32),
        "multiplicity": np.broadcast_to(np.where(depth == 0, 2.0, 1.0), mask.shape),
    }


def _of_tokens(rng, mask):
    """Arrays with one number, or a vector, a token."""
    old = -rng.exponential(1.0, mask.shape)
    positive = "token_rewards", "hellinger", "kl_to_ref", "js_to_ref", "sum_p2"
    positive += "attention_distance", "attention_received", "attention_flow", "attention_entropy"
    signed = "values", "advantages", "target_logit", "sum_logits", "max_logit"
    near = "sampler_logprobs", "ref_logprobs", "context_logprobs", "proxy_logprobs", "dpo_logprobs", "prm_logprobs"
    arrays = {name: rng.random(mask.shape) for name in positive}
    arrays |= {name: rng.normal(0.0, 1.0, mask.shape) for name in signed}
    arrays |= {name: np.minimum(old + rng.normal(0.0, 0.4, mask.shape), 0) for name in near}
    return arrays | {
        "old_logprobs": old,
        "lse": rng.random(mask.shape) + 3,
        "group_divergence": rng.random((P, T)),
        "hidden": rng.normal(0.0, 1.0, (*mask.shape, SIZE)),
        "token_errors": rng.normal(0.0, 0.5, (*mask.shape, VOCABULARY)),
    }


def step(seed):
    """Arrays `[B, T]` of a training step."""
    rng = np.random.default_rng(seed)
    mask = np.arange(T) < rng.integers(1, T + 1, (B, 1))
    mask[3] = False
    old = -rng.exponential(1.0, (B, T))
    arrays = {
        "logprobs": np.minimum(old + rng.normal(0.0, 0.4, (B, T)), -0.01),
        "entropy": rng.exponential(1.0, (B, T)),
        "old_logprobs": old,
        "old_entropy": rng.exponential(1.0, (B, T)),
        "ref_logprobs": -rng.exponential(1.0, (B, T)),
        "sampler_logprobs": np.minimum(old + rng.normal(0.0, 0.1, (B, T)), 0),
        "proxy_logprobs": np.minimum(old + rng.exponential(0.5, (B, T)), 0),
        "log_ratio": rng.normal(0.0, 0.4, (B, T)),
        "low": rng.uniform(0.5, 0.9, (B, T)),
        "high": rng.uniform(1.1, 1.5, (B, T)),
        "advantages": rng.normal(0.0, 1.0, (B, T)),
        "token_weights": rng.uniform(0.1, 2.0, (B, T)),
        "loss": rng.normal(0.0, 1.0, (B, T)),
        "multiplicity": rng.integers(1, 3, (B, T)).astype(np.float64),
        "values": rng.normal(0.0, 1.0, (B, T)),
        "old_values": rng.normal(0.0, 1.0, (B, T)),
        "returns": rng.normal(0.0, 1.0, (B, T)),
        "proxy_rewards": rng.normal(0.0, 1.0, (B, T)),
        "expert_balance": rng.uniform(1.0, 4.0, B),
        "priority": rng.random((B, T)),
        "rewards": rng.choice([0.0, 1.0], B),
        "last_token_score": rng.random(B),
        "progress": np.float64(0.3),
    }
    others = {
        "mask": mask,
        "valid": mask.any(axis=1),
        "planning": rng.random((B, T)) < 0.6,
        "finished": rng.random(B) < 0.8,
        "segment_ids": np.where(mask | (rng.random((B, T)) < 0.5), np.arange(T) * STEPS // T, -1).astype(np.int32),
        "step": np.int32(7),
    }
    fields = {name: jnp.asarray(x, jnp.float32) for name, x in arrays.items()}
    return fields | {name: jnp.asarray(x) for name, x in others.items()}


def spoil(fields):
    """Puts NaN, or another token, wherever a mask says that a value does not matter."""
    mask, out = fields["mask"], dict(fields)
    for name, x in fields.items():
        if x.shape[: mask.ndim] == mask.shape and jnp.issubdtype(x.dtype, jnp.floating):
            out[name] = jnp.where(mask.reshape(*mask.shape, *[1] * (x.ndim - mask.ndim)), x, jnp.nan)
    if "tokens" in fields:
        out["tokens"] = jnp.where(mask, fields["tokens"], 77)
    for name in ("rewards", "reward_parts", "item_rewards", "budget_rewards", "last_token_score"):
        if name in fields:
            valid = fields["valid"].reshape(*fields["valid"].shape, *[1] * (fields[name].ndim - fields["valid"].ndim))
            out[name] = jnp.where(valid, fields[name], jnp.nan)
    if "step_rewards" in fields:
        out["step_rewards"] = jnp.where(fields["step_mask"], fields["step_rewards"], jnp.nan)
    return out


def mesh(axis_type=AxisType.Auto):
    return jax.make_mesh((4,), ("data",), axis_types=(axis_type,))


def shard(fields):
    """Lays the first axis over four devices."""
    on = mesh()
    return {name: jax.device_put(x, NamedSharding(on, specs(fields)[name])) for name, x in fields.items()}


def specs(fields):
    """The first axis over the devices, scalars on each."""
    return {name: PartitionSpec("data") if x.ndim else PartitionSpec() for name, x in fields.items()}


def permuted(fields, order):
    """The same fields with the completions of each group in another order."""
    of_completions = {name for name, x in fields.items() if x.ndim > 1 and x.shape[1] == G}
    return {name: x[:, order] if name in of_completions else x for name, x in fields.items()}


class Jitted:
    """A bound method, compiled once for all calls with arrays of the same shapes, and its gradient.

    A stateful one starts from its first state; what one prepares, it prepares on the same arrays.
    """

    def __init__(self, bound):
        self.bound, self.needs, self.traces = bound, bound.needs, 0
        self.call = jax.jit(self._counted)
        self.grad = jax.jit(jax.grad(self._weighted_sum))

    def __call__(self, fields):
        return self.call(self._picked(fields))

    def run(self, fields):
        """Calls the method, operation by operation."""
        fields = self.prepared(fields)
        result = self.bound(fields)
        return result[0] if self.bound.init and not self.bound.prepare else result

    def prepared(self, fields):
        """Adds the method's first state, or what it prepares."""
        if self.bound.init is not None:
            parameters = inspect.signature(self.bound.init).parameters
            state = self.bound.init(**({"num_prompts": P} if "num_prompts" in parameters else {}))
            fields = fields | {"state": state}
        if self.bound.prepare is None:
            return fields
        prepared = self.bound.prepare(fields)
        return fields | {"prepared": prepared[0] if self.bound.init is not None else prepared}

    def gradients(self, fields):
        """Gradients of a weighted sum of the results with respect to every array of floats that is read."""
        picked = self._picked(fields)
        floats = {name: x for name, x in picked.items() if jnp.issubdtype(x.dtype, jnp.floating)}
        return {name: np.asarray(x) for name, x in self.grad(floats, picked).items()}

    def traces_of_a_second_call(self, first, second):
        """How often the method is traced for `second` after a call on `first`, of the same shapes."""
        self(first)
        before = self.traces
        self(second)
        assert before > 0
        return self.traces - before

    def _counted(self, fields):
        self.traces += 1  # runs only when JAX traces
        return self.run(fields)

    def _picked(self, fields):
        return {name: fields[name] for name in self.bound.takes if name in fields}

    def _weighted_sum(self, floats, fields):
        leaves = jax.tree.leaves(self.run(fields | floats))
        return sum(jnp.vdot(leaf, jnp.linspace(0.5, 1.5, leaf.size).reshape(leaf.shape)) for leaf in leaves)


def close(a, b):
    """Equal up to the rounding of a few float32 operations in another order."""
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=2e-6, atol=2e-6)
