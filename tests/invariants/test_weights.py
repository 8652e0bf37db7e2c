"""Laws that tie token weights, filters and clips to one another, or say what they are at a limit."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok import masked
from jaxrl_tok.clips import asymmetric, hapo
from jaxrl_tok.filters import max_variance_subset, overlong
from jaxrl_tok.scores import (
    normalized_entropy,
)
from jaxrl_tok.token_weights import (
    d3s_tokens,
    dgpo,
    divergence_weight,
    erpo_gate,
    hapo_redistribute,
    high_entropy,
    icepop,
    mismatch_mask,
    probability_mask,
    rhythm,
    sequence_is,
    truncated_is,
    tw_grpo,
    uniform,
    vppo,
)
from jaxrl_tok.token_weights.stare import init, prepare
from tests.conformance import fields as data
from tests.invariants.checks import always, holds, of

pytestmark = pytest.mark.slow  # the methods' own tests are the quick ones


def mismatch(f):
    return of(f, "old_logprobs", "sampler_logprobs", "mask")


def test_a_sampler_that_agrees_with_the_trainer_weighs_every_token_one():
    def law(f):
        arrays = f["old_logprobs"], f["old_logprobs"], f["mask"]
        kinds = itertools.product(("token", "sequence_sum", "sequence_mean", "sequence_max"), ("k1", "k2", "k3"))
        masks = [mismatch_mask(*arrays, level=level, estimator=estimator) for level, estimator in kinds]
        weights = [method(*arrays) for method in (truncated_is, sequence_is, icepop)]
        normalized = [method(*arrays, normalize=True) for method in (truncated_is, sequence_is)]
        return [(x, uniform(f["mask"])) for x in (*masks, *weights, *normalized)]

    holds(law)


def test_truncating_to_one_is_uniform():
    holds(lambda f: [(m(*mismatch(f), low=1.0, high=1.0), f["mask"]) for m in (truncated_is, sequence_is)])


def test_icepop_is_the_truncated_weight_inside_its_band():
    def law(f):
        band = {"low": 0.8, "high": 1.2}
        inside = icepop(*mismatch(f), **band) > 0
        return [(icepop(*mismatch(f), **band), jnp.where(inside, truncated_is(*mismatch(f), **band), 0))]

    holds(law)


def test_a_completion_of_one_token_is_a_token():
    """Sequence and token levels agree there, in weights and masks."""

    def law(f):
        arrays = [x[:, :, :1] for x in mismatch(f)]
        masks = [
            (mismatch_mask(*arrays, level=level, high=1.3), mismatch_mask(*arrays, high=1.3))
            for level in ("sequence_sum", "sequence_mean", "sequence_max")
        ]
        return [
            (sequence_is(*arrays), truncated_is(*arrays)),
            (sequence_is(*arrays, normalize=True), truncated_is(*arrays, normalize=True)),
            (sequence_is(*arrays, mode="mask", low=0.5, high=5.0), icepop(*arrays)),
            *masks,
        ]

    holds(law)


def test_normalized_importance_weights_have_mean_one():
    def law(f):
        trained = jnp.any(f["mask"], axis=2)
        of_completions = jnp.max(sequence_is(*mismatch(f), normalize=True), axis=2)
        return [
            (masked.mean(truncated_is(*mismatch(f), normalize=True), f["mask"]), 1.0),
            (masked.mean(of_completions, trained), 1.0),
        ]

    holds(law)


def test_the_released_bounds_are_the_reciprocal_ones():
    def law(f):
        return [
            (
                mismatch_mask(*mismatch(f), level=level, low=0.8, high=1.1, as_released=True),
                mismatch_mask(*mismatch(f), level=level, low=1 / 1.1, high=1 / 0.8),
            )
            for level in ("token", "sequence_sum", "sequence_mean")
        ]

    holds(law)


def test_a_wider_band_rejects_less():
    def law(f):
        narrow, wide = (mismatch_mask(*mismatch(f), low=1 / b, high=b) for b in (1.2, 1.5))
        return [narrow <= wide, (wide == 0) | f["mask"]]

    always(law)


def test_dgpo_only_moves_credit_within_a_completion():
    """Its weights add up to the number of tokens, and none leaves [exp(-1/tau), exp(1/tau)]."""

    def law(f):
        arrays = of(f, "hellinger", "old_entropy", "mask")
        return [(jnp.sum(dgpo(*arrays, vocab_size=50), axis=2), jnp.sum(f["mask"], axis=2))]

    def bounds(f):
        entropy = jnp.minimum(f["old_entropy"], np.log(50))
        weights = dgpo(f["hellinger"], entropy, f["mask"], vocab_size=50)
        return [~f["mask"] | ((weights > np.exp(-2)) & (weights < np.exp(2)))]

    holds(law)
    always(bounds)


def test_dgpo_without_a_difference_is_uniform():
    """Hot, at the reference; and without kappa the entropy does not matter."""

    def law(f):
        hellinger, entropy, mask = of(f, "hellinger", "old_entropy", "mask")
        return [
            (dgpo(hellinger, entropy, mask, temperature=1e7), mask),
            (dgpo(jnp.zeros_like(hellinger), entropy, mask), mask),
            (dgpo(hellinger, entropy, mask, kappa=0.0), dgpo(hellinger, 2 * entropy, mask, kappa=0.0)),
        ]

    holds(law)


def test_keeping_all_is_uniform():
    def law(f):
        mask, logprobs = f["mask"], of(f, "context_logprobs", "old_logprobs", "mask")
        return [
            (high_entropy(f["old_entropy"], mask, fraction=1.0), mask),
            (d3s_tokens(*of(f, "advantages", "old_entropy", "mask"), fraction=1.0), mask),
            (vppo(*logprobs, fraction=1.0, floor=1.0), mask),
            (probability_mask(f["old_logprobs"], mask, threshold=1.1), mask),
        ]

    holds(law)


def test_a_larger_fraction_keeps_what_a_smaller_one_does():
    def law(f):
        mask, arrays = f["mask"], of(f, "advantages", "old_entropy", "mask")
        scopes = ("batch", "batch_quantile", "response")
        pairs = [[high_entropy(f["old_entropy"], mask, fraction=x, scope=s) for x in (0.2, 0.5)] for s in scopes]
        pairs.append([d3s_tokens(*arrays, fraction=x) for x in (0.2, 0.5)])
        pairs.append([probability_mask(f["old_logprobs"], mask, threshold=x) for x in (0.2, 0.5)])
        return [small <= large for small, large in pairs]

    always(law)


def test_d3s_with_equal_advantages_is_high_entropy():
    def law(f):
        signs = jnp.where(f["advantages"] > 0, 0.5, -0.5)
        return [(d3s_tokens(signs, f["old_entropy"], f["mask"]), high_entropy(f["old_entropy"], f["mask"]))]

    holds(law)


def test_tw_grpo_lies_between_one_and_alpha_and_meets_both():
    def law(f):
        weights, mask = tw_grpo(f["group_divergence"], f["mask"]), f["mask"]
        trained = jnp.where(mask, weights, 1)
        several = jnp.sum(jnp.any(mask, axis=1), axis=1) > 1
        return [trained >= 1, trained <= 1.7001, ~several | (jnp.max(weights, axis=(1, 2)) > 1.699)]

    always(law)
    holds(lambda f: [(tw_grpo(f["group_divergence"], f["mask"], alpha=1.0), f["mask"])])


def test_divergence_weights_have_mean_one_at_every_strength():
    def law(f):
        arrays = f["js_to_ref"], f["mask"]
        return [(masked.mean(divergence_weight(*arrays, strength=s), f["mask"]), 1.0) for s in (0.3, 1.0)]

    holds(law)


def test_opposite_gates_add_up_to_one_and_units_do_not_matter():
    def law(f):
        entropy, mask = f["old_entropy"], f["mask"]
        both = erpo_gate(entropy, mask, gamma=2.0) + erpo_gate(entropy, mask, gamma=-2.0)
        return [(both, mask), (erpo_gate(3 * entropy + 1, mask), erpo_gate(entropy, mask))]

    holds(law)


def rhythms(f, **options):
    arrays = of(f, "attention_distance", "attention_received", "advantages", "mask")
    return rhythm(*arrays[:2], options.pop("advantages", jnp.abs(arrays[2])), arrays[3], **options)


def test_rhythm_without_handover_is_global_and_without_amplification_uniform():
    def law(f):
        coupled = {"mode": "coupled", "distance_threshold": 0.6, "change_threshold": 0.2}
        negative = -1 - jnp.abs(f["advantages"])
        return [
            (rhythms(f, handover=0.0, **coupled), rhythms(f, mode="global")),
            (rhythms(f, amplify=1.0, **coupled), f["mask"]),
            (rhythms(f, advantages=negative, **coupled), f["mask"]),
        ]

    holds(law)


def test_handing_over_never_adds_credit():
    """An intro gets one share, however many anchors it introduces."""

    def law(f):
        options = {"mode": "coupled", "distance_threshold": 0.6, "change_threshold": 0.2, "handover": 0.7}
        coupled, anchors = rhythms(f, **options), rhythms(f, mode="global")
        return [jnp.sum(coupled, axis=2) <= jnp.sum(anchors, axis=2) + 1e-5, coupled >= jnp.where(f["mask"], 1, 0)]

    always(law)


def test_stare_with_weights_of_one_is_uniform_and_c2_adds_only_the_negative_side():
    def law(f):
        arrays = f["logprobs"], 0.1 * f["old_entropy"], f["advantages"], f["mask"]
        one = prepare(init(weight=1.0, negative_weight=1.0), *arrays, variant="C2")[0]
        positive = prepare(init(), *arrays)[0]
        both = prepare(init(), *arrays, variant="C2")[0]
        scaled = prepare(init(), arrays[0] - 5, arrays[1], 3 * arrays[2], arrays[3])[0]
        up = f["advantages"] > 0
        return [(one, f["mask"]), (jnp.where(up, both, 1), jnp.where(up, positive, 1)), (scaled, positive)]

    holds(law, data.step)


def test_hapo_with_a_constant_entropy_is_dapo():
    """Its bounds are then asymmetric ones, and nothing is redistributed."""

    def law(f):
        mask = f["mask"]
        h = normalized_entropy(jnp.full_like(f["entropy"], 0.7), mask)
        pairs = list(zip(hapo(h, mask, high=1.28), asymmetric(mask, high=1.28), strict=True))
        return [*pairs, (hapo_redistribute(*of(f, "log_ratio", "low", "high"), h, mask), mask)]

    holds(law, data.step)


def test_hapo_without_alpha_is_dapo_and_without_beta_uniform():
    def law(f):
        mask, h = f["mask"], normalized_entropy(f["entropy"], f["mask"])
        pairs = list(zip(hapo(h, mask, alpha=0.0), asymmetric(mask), strict=True))
        return [*pairs, (hapo_redistribute(*of(f, "log_ratio", "low", "high"), h, mask, beta=0.0), mask)]

    holds(law, data.step)


def test_ends_beat_every_other_subset():
    """All 70 ways to take 4 of 8 completions."""
    method = jax.jit(lambda a: max_variance_subset(a, jnp.ones(a.shape, bool), samples=4))
    for seed in range(6):
        values = np.random.default_rng(seed).normal(size=8) ** (1 + seed % 3)
        kept = np.asarray(method(jnp.asarray(values.reshape(2, 4, 1), jnp.float32))).reshape(-1)
        best = max(np.var(values[list(some)]) for some in itertools.combinations(range(8), 4))
        assert np.var(values[kept]) == pytest.approx(best, rel=1e-5)


def test_the_subset_depends_on_differences_only_and_all_are_kept_where_all_are_asked_for():
    def law(f):
        advantages, mask, valid = of(f, "advantages", "mask", "valid")
        one = max_variance_subset(advantages, mask, valid, samples=5)
        return [
            (max_variance_subset(2 * advantages + 4, mask, valid, samples=5), one),
            (max_variance_subset(advantages, mask, valid), valid & jnp.any(mask, axis=2)),
            (overlong(jnp.zeros_like(valid), valid), valid),
        ]

    holds(law)
