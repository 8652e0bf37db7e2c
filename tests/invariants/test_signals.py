"""Laws of what token weights are made from: divergences, flows of attention, ranks, quantiles, shared prefixes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok import masked
from jaxrl_tok.scores import (
    effective_rank,
    flow_throughput,
    group_divergence,
    normalized_entropy,
    prefix_tree_values,
)
from jaxrl_tok.token_weights import (
    high_entropy,
    per_node,
    tw_grpo,
)
from jaxrl_tok.token_weights.vppo import trajectory_scale
from tests.conformance import fields as data
from tests.invariants.checks import SEEDS, always, holds, of

pytestmark = pytest.mark.slow  # the methods' own tests are the quick ones


def test_the_quantile_form_of_high_entropy_compares_with_the_quantile():
    def law(f):
        entropy, mask = f["old_entropy"], f["mask"]
        threshold = masked.quantile(entropy.reshape(1, -1), mask.reshape(1, -1), 0.7)
        expected = mask & (entropy >= threshold[:, :, None])
        return [(high_entropy(entropy, mask, fraction=0.3, scope="batch_quantile"), expected)]

    holds(law)


def test_vppo_scales_have_mean_one_and_keep_their_order():
    def law(f):
        scale = trajectory_scale(f["hellinger"], f["mask"])
        return [(masked.mean(scale, jnp.any(f["mask"], axis=2)), 1.0), (jnp.min(jnp.where(scale > 0, scale, 9)), 0.9)]

    def order(f):
        mean, scale = (
            masked.mean(f["hellinger"], f["mask"], axis=2)[:, :, 0],
            trajectory_scale(f["hellinger"], f["mask"]),
        )
        trained = jnp.any(f["mask"], axis=2).reshape(-1)
        higher = mean.reshape(-1, 1) > mean.reshape(1, -1)
        larger = scale.reshape(-1, 1) > scale.reshape(1, -1)
        return [~(trained[:, None] & trained[None, :]) | (higher == larger)]

    holds(law)
    always(order)


def test_equal_distributions_have_no_group_divergence_and_order_does_not_matter():
    def law(f):
        logprobs = jax.nn.log_softmax(f["token_errors"])
        same = jnp.broadcast_to(logprobs[:, :1], logprobs.shape)
        one = group_divergence(logprobs, f["mask"])
        return [
            (group_divergence(same, f["mask"]), 0.0),
            (tw_grpo(group_divergence(same, f["mask"]), f["mask"]), f["mask"]),
            (group_divergence(logprobs[:, ::-1], f["mask"][:, ::-1]), one),
        ]

    holds(law)


def test_per_node_counts_each_prefix_of_a_group_once():
    """With the sharers that the prefix tree counts, the weights add up to the number of different prefixes."""
    method = jax.jit(lambda f: per_node(prefix_tree_values(*of(f, "tokens", "rewards", "mask")).count_after, f["mask"]))
    for seed in SEEDS:
        fields = data.assemble(seed)
        fields["mask"] = jnp.cumprod(fields["mask"].astype(jnp.int32), axis=2) > 0  # without holes
        tokens, mask = np.asarray(fields["tokens"]), np.asarray(fields["mask"])
        prefixes = {(p, *tokens[p, g, : t + 1]) for p, g, t in zip(*np.nonzero(mask), strict=True)}
        assert float(method(fields).sum()) == pytest.approx(len(prefixes), rel=1e-6)


def attention(seed, n=8):
    """A causal map, and the first tokens ask, the last ones answer."""
    rng = np.random.default_rng(seed)
    weights = np.tril(rng.random((n, n)) ** 2)
    place = np.arange(n)
    arrays = weights / weights.sum(axis=1, keepdims=True), place < 3, place >= n - 2
    return {"attention": jnp.asarray(arrays[0], jnp.float32), "ends": [jnp.asarray(x) for x in arrays[1:]]}


def test_what_leaves_the_question_arrives_at_the_answer():
    def law(f):
        flow = flow_throughput(f["attention"], *f["ends"])
        arrived = jnp.sum(jnp.where(f["ends"][1], flow.inflow, 0))
        before = jnp.where(f["ends"][1], 0, flow.throughput - 2 * flow.inflow)
        return [(arrived, 1.0), (before, 0.0)]

    holds(law, attention)


def test_paths_to_the_answer_do_not_depend_on_what_each_token_gives_itself():
    def law(f):
        without = f["attention"] * (1 - jnp.eye(8))
        pairs = zip(flow_throughput(without, *f["ends"]), flow_throughput(f["attention"], *f["ends"]), strict=True)
        return list(pairs)

    holds(law, attention)


def test_normalized_entropy_knows_no_units_and_its_release_no_sign():
    def law(f):
        mask, h = f["mask"], normalized_entropy(f["entropy"], f["mask"])
        return [
            (normalized_entropy(3 * f["entropy"], mask), h),
            (normalized_entropy(f["entropy"] ** 2, mask), h),
            (normalized_entropy(f["entropy"], mask, as_released=True), jnp.abs(h)),
            (jnp.stack(masked.bounds(h, mask)), jnp.array([-1.0, 1.0])),
        ]

    holds(law, lambda seed: data.step(seed) | {"entropy": 0.1 + data.step(seed)["entropy"]})


def test_effective_rank_knows_neither_size_nor_direction():
    def law(f):
        hidden, mask = f["hidden"], f["mask"]
        turned = jnp.einsum("pgtd,de->pgte", hidden, jnp.linalg.qr(hidden[0, 0, : hidden.shape[3]])[0])
        one = effective_rank(hidden, mask)
        return [(effective_rank(7 * turned, mask), one), (effective_rank(hidden + 3, mask), one)]

    def bounds(f):
        tokens = jnp.sum(f["mask"], axis=2, dtype=jnp.float32)
        rank = effective_rank(f["hidden"], f["mask"])
        return [rank <= jnp.clip(tokens - 1, 0, 5) + 1e-4, (rank >= 0.999) | (tokens < 2)]

    holds(law)
    always(bounds)
