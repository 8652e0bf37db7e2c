"""Laws that tie the methods of outcomes, returns and critics together, or say what they are at a limit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.advantages import (
    ada_grpo,
    bnpo,
    dr_grpo,
    gae,
    gdpo,
    gpg,
    grpo,
    hicra,
    ma_gae,
    max_rl,
    opo,
    pass_at_k,
    psr_nsr,
    reinforce,
    reinforce_pp,
    reinforce_pp_baseline,
    relative_negative,
    remax,
    rloo,
)
from jaxrl_tok.losses import gpg as gpg_loss
from jaxrl_tok.losses import ppo_clip, sft, value_clip
from jaxrl_tok.scores import (
    generalized_advantages,
    kimi_length_reward,
    macro_advantages,
    ngram_boundaries,
    outcome_token_rewards,
    overlong_penalty,
    perplexity_boundaries,
    reward_to_go,
    rto_token_rewards,
    success_rate_beta,
    whiten,
)
from tests.conformance.fields import assemble, step

SEEDS = 3


def holds(law, *names, of=assemble, rtol=1e-5, atol=5e-6):
    """Checks that law(*fields) gives two equal results, over a few seeds in one compiled call."""
    drawn = [[of(seed)[name] for name in names] for seed in range(SEEDS)]
    stacked = [jnp.stack(x) for x in zip(*drawn, strict=True)]
    left, right = jax.jit(jax.vmap(law))(*stacked)
    assert np.isfinite(np.asarray(left)).all() and np.any(np.asarray(left) != 0)
    np.testing.assert_allclose(left, right, rtol=rtol, atol=atol)


def without_holes(mask):
    """The same number of trained tokens in each row, one after the other."""
    return jnp.arange(mask.shape[2])[None, None] < jnp.sum(mask, axis=2, keepdims=True)


def all_of(mask):
    return jnp.ones_like(mask)


OUTCOME = "rewards", "mask", "valid"
CRITIC = "token_rewards", "values", "mask", "valid"


def test_opo_with_equal_lengths_is_dr_grpo():
    holds(lambda r, m, v: (opo(r, all_of(m), v), dr_grpo(r, all_of(m), v)), *OUTCOME)


def test_gpg_is_dr_grpo_over_the_share_of_groups_that_differ():
    def law(rewards, mask, valid):
        rewards = rewards.at[0].set(1.0)
        differ = jnp.any(dr_grpo(rewards, all_of(mask), valid) != 0, axis=(1, 2))
        groups = jnp.sum(jnp.any(valid, axis=1), dtype=jnp.float32)
        return gpg(rewards, mask, valid) * jnp.sum(differ, dtype=jnp.float32) / groups, dr_grpo(rewards, mask, valid)

    holds(law, *OUTCOME)


def test_max_rl_times_the_mean_is_dr_grpo():
    def law(rewards, mask, valid):
        rewards = rewards + 0.5
        mean = jnp.sum(jnp.where(valid, rewards, 0), axis=1) / jnp.maximum(jnp.sum(valid, axis=1, dtype=jnp.float32), 1)
        return max_rl(rewards, mask, valid) * mean[:, None, None], dr_grpo(rewards, mask, valid)

    holds(law, *OUTCOME)


def test_remax_with_the_mean_as_baseline_is_dr_grpo():
    def law(rewards, mask):
        return remax(rewards, jnp.mean(rewards, axis=1), mask), dr_grpo(rewards, mask)

    holds(law, "rewards", "mask")


def test_remax_of_a_worthless_greedy_completion_is_reinforce():
    def law(rewards, mask, valid, token_rewards):
        none = jnp.zeros(rewards.shape[0])
        return remax(rewards, none, mask, valid, token_rewards), reinforce(rewards, mask, valid, token_rewards)

    holds(law, *OUTCOME, "token_rewards")


def test_reinforce_of_the_outcome_alone_gives_every_token_the_reward():
    def law(rewards, mask, valid):
        trained = mask & valid[:, :, None]
        return reinforce(rewards, mask, valid), jnp.where(trained, rewards[:, :, None], 0)

    holds(law, *OUTCOME)


def test_psr_and_nsr_add_up_to_reinforce_on_rewards_of_plus_and_minus_one():
    def law(rewards, mask, valid):
        right = (rewards > 0.5).astype(rewards.dtype)
        both = psr_nsr(right, mask, valid, mode="positive") + psr_nsr(right, mask, valid, mode="negative")
        return both, reinforce(2 * right - 1, mask, valid)

    holds(law, *OUTCOME)


def test_w_reinforce_with_weight_one_is_psr_plus_nsr():
    def law(rewards, mask, valid):
        right = (rewards > 0.5).astype(rewards.dtype)
        both = psr_nsr(right, mask, valid, mode="positive") + psr_nsr(right, mask, valid, mode="negative")
        return psr_nsr(right, mask, valid, positive_weight=1.0), both

    holds(law, *OUTCOME)


def test_reinforce_pp_is_reinforce_whitened():
    def law(rewards, mask, valid, token_rewards):
        arrays = rewards, mask, valid, token_rewards
        return reinforce_pp(*arrays, gamma=0.9), reinforce(*arrays, gamma=0.9, whitening="verl")

    holds(law, *OUTCOME, "token_rewards")


def test_reinforce_pp_as_released_differs_at_holes_only():
    def law(rewards, mask, token_rewards):
        arrays = rewards, without_holes(mask), None, token_rewards
        return reinforce_pp(*arrays, gamma=0.9, as_released=True), reinforce_pp(*arrays, gamma=0.9)

    holds(law, "rewards", "mask", "token_rewards")


def test_reinforce_pp_baseline_with_equal_lengths_is_dr_grpo_over_one_number():
    def law(rewards, mask):
        result, base = reinforce_pp_baseline(rewards, all_of(mask)), dr_grpo(rewards, all_of(mask))
        return result, base / jnp.std(base, ddof=1)

    holds(law, "rewards", "mask")


def test_whitened_advantages_have_mean_zero_and_variance_one():
    def law(advantages, mask, valid):
        trained = mask & valid[:, :, None]
        result, n = whiten(advantages, mask, valid), jnp.sum(trained, dtype=jnp.float32)
        moments = jnp.stack([jnp.sum(result) / n, jnp.sum(result**2) / (n - 1)])
        return moments, jnp.array([0.0, 1.0])

    holds(law, "advantages", "mask", "valid")


def test_whitening_forgets_shift_and_scale():
    def law(advantages, mask, valid):
        return whiten(advantages, mask, valid), whiten(4 * advantages + 3, mask, valid)

    holds(law, "advantages", "mask", "valid")


def test_gdpo_of_one_reward_is_grpo_before_the_batch():
    def law(parts, mask, valid):
        return gdpo(parts[..., :1], mask, valid, batch="off"), grpo(parts[..., 0], mask, valid, eps=1e-4)

    holds(law, "reward_parts", "mask", "valid")


def test_gdpo_forgets_the_scale_of_each_reward():
    def law(parts, mask, valid):
        options = {"eps": 1e-9, "weights": (1.0, 0.5)}
        scales = jnp.array([8.0, 0.25])[None, None]
        return gdpo(parts, mask, valid, **options), gdpo(parts * scales, mask, valid, **options)

    holds(law, "reward_parts", "mask", "valid")


def test_sum_then_normalise_is_grpo_of_the_weighted_sum():
    def law(parts, mask, valid):
        total = 2 * parts[..., 0] + 0.5 * parts[..., 1]
        options = {"weights": (2.0, 0.5), "aggregation": "sum_then_normalise"}
        return gdpo(parts, mask, valid, **options), grpo(total, mask, valid, eps=1e-4)

    holds(law, "reward_parts", "mask", "valid")


def test_bnpo_of_groups_with_one_mean_is_dr_grpo():
    def law(rewards, mask):
        rewards = jnp.broadcast_to(rewards[:1], rewards.shape)
        return bnpo(rewards, mask), dr_grpo(rewards, mask)

    holds(law, "rewards", "mask")


def test_bnpo_is_dr_grpo_over_the_density_of_the_success_rate():
    def law(rewards, mask):
        alpha, beta = success_rate_beta(rewards)
        density = jax.scipy.stats.beta.pdf(jnp.mean(rewards, axis=1), alpha, beta)
        base = dr_grpo(rewards, mask)
        return bnpo(rewards, mask) * jnp.where(base == 0, 0, density[:, None, None]), base

    holds(law, "rewards", "mask")


def test_success_rates_mirrored_swap_the_parameters():
    def law(rewards, valid):
        return jnp.stack(success_rate_beta(rewards, valid)), jnp.stack(success_rate_beta(1 - rewards, valid))[::-1]

    holds(law, "rewards", "valid", rtol=1e-4)


def test_pass_at_k_sums_to_the_lead_and_never_punishes():
    def law(rewards, mask):
        result = pass_at_k(rewards, all_of(mask), use_std=False)[..., 0]
        top = jnp.sort(rewards, axis=1)
        return jnp.sum(jnp.abs(result), axis=1), top[:, -1] - top[:, -2]

    holds(law, "rewards", "mask")


def test_pass_at_k_of_two_is_twice_the_better_ones_dr_grpo():
    def law(rewards, mask):
        pair = rewards[:, :2], mask[:, :2]
        return pass_at_k(*pair, use_std=False), 2 * jnp.maximum(dr_grpo(*pair), 0)

    holds(law, "rewards", "mask")


def test_positive_and_negative_parts_of_an_advantage_add_up():
    def law(rewards, mask, valid):
        base = rloo(rewards, mask, valid)
        return relative_negative(base, mask, valid) - relative_negative(-base, mask, valid), base

    holds(law, *OUTCOME)


def test_hicra_without_a_raise_or_a_planning_token_changes_nothing():
    def law(advantages, planning, mask, valid):
        kept = jnp.where(mask & valid[:, :, None], advantages, 0)
        none = jnp.zeros_like(planning)
        results = hicra(advantages, planning, mask, valid, alpha=0.0), hicra(advantages, none, mask, valid)
        return jnp.stack(results), jnp.stack([kept, kept])

    holds(law, "advantages", "planning", "mask", "valid")


def test_hicra_on_planning_tokens_only_scales_by_the_sign():
    def law(advantages, mask):
        raised = hicra(advantages, mask, mask)
        return raised, jnp.where(mask, advantages * (1 + 0.2 * jnp.sign(advantages)), 0)

    holds(law, "advantages", "mask")


def test_ada_grpo_ends_as_grpo_and_is_grpo_with_one_format():
    def law(rewards, formats, mask, valid):
        ended = ada_grpo(rewards, formats, jnp.float32(1.0), mask, valid)
        one_format = ada_grpo(rewards, jnp.zeros_like(formats), jnp.float32(0.3), mask, valid)
        base = grpo(rewards, mask, valid)
        return jnp.stack([ended, one_format]), jnp.stack([base, base])

    holds(law, "rewards", "format_ids", "mask", "valid")


def test_gae_with_lam_one_and_no_values_is_reinforce_with_skipped_holes():
    def law(token_rewards, mask, valid):
        none = jnp.zeros_like(token_rewards)
        result = gae(token_rewards, none, mask, valid, gamma=0.9, whitening="off")
        return result, reward_to_go(token_rewards, mask, valid, gamma=0.9, holes="skip")

    holds(law, "token_rewards", "mask", "valid")


def test_returns_with_lam_one_are_the_rewards_to_go_whatever_the_critic():
    def law(token_rewards, values, mask, valid):
        _, returns = generalized_advantages(token_rewards, values, mask, valid)
        return returns, reward_to_go(token_rewards, mask, valid)

    holds(law, *CRITIC)


def test_gae_with_lam_zero_is_the_temporal_difference():
    def law(token_rewards, values, mask):
        mask = without_holes(mask)
        after = jnp.where(mask, values, 0)[..., 1:]
        after = jnp.concatenate([after, jnp.zeros_like(after[..., :1])], axis=-1)
        result = gae(token_rewards, values, mask, gamma=0.9, lam=0.0, whitening="off")
        return result, jnp.where(mask, token_rewards + 0.9 * after - values, 0)

    holds(law, "token_rewards", "values", "mask")


def test_both_conventions_agree_without_holes():
    def law(token_rewards, values, mask):
        estimate = functools.partial(
            generalized_advantages, token_rewards, values, without_holes(mask), gamma=0.9, lam=0.8
        )
        return jnp.stack(estimate(holes="skip")), jnp.stack(estimate(holes="zero"))

    holds(law, "token_rewards", "values", "mask")


def test_a_perfect_critic_leaves_no_advantage():
    def law(token_rewards, mask, valid):
        values = reward_to_go(token_rewards, mask, valid, gamma=0.9, holes="skip")
        advantages, returns = generalized_advantages(token_rewards, values, mask, valid, gamma=0.9, lam=0.7)
        return jnp.stack([advantages, returns]), jnp.stack([jnp.zeros_like(values), values])

    holds(law, "token_rewards", "mask", "valid")


def test_macro_actions_of_one_token_are_gae():
    def law(token_rewards, values, mask, valid):
        arrays = token_rewards, values, ngram_boundaries(mask, valid, n=1), mask, valid
        base = gae(token_rewards, values, mask, valid, lam=0.95, whitening="off")
        kinds = "equal", "unit", "position"
        return jnp.stack([ma_gae(*arrays, pooling=kind) for kind in kinds]), jnp.stack([base] * 3)

    holds(law, *CRITIC)


def test_the_released_ngram_of_one_is_gae_only_with_lam_one():
    def law(token_rewards, values, mask, valid):
        boundaries = ngram_boundaries(mask, valid, n=1, as_released=True)
        result = ma_gae(token_rewards, values, boundaries, mask, valid, lam=1.0)
        return result, gae(token_rewards, values, mask, valid, whitening="off")

    holds(law, *CRITIC)


def test_boundaries_as_numbers_are_those_as_flags():
    def law(token_rewards, values, boundaries, mask, valid):
        results = [
            macro_advantages(token_rewards, values, b, mask, valid) for b in (boundaries, boundaries.astype(jnp.int32))
        ]
        return tuple(jnp.stack([x.advantages, x.returns]) for x in results)

    holds(law, "token_rewards", "values", "boundaries", "mask", "valid")


def test_macro_rewards_add_up_to_the_token_rewards():
    def law(token_rewards, values, boundaries, mask, valid):
        result = macro_advantages(token_rewards, values, boundaries, mask, valid)
        trained = mask & valid[:, :, None]
        return jnp.sum(result.macro_rewards, axis=2), jnp.sum(jnp.where(trained, token_rewards, 0), axis=2)

    holds(law, "token_rewards", "values", "boundaries", "mask", "valid")


def test_an_ngram_of_the_whole_length_leaves_two_macro_actions():
    def law(mask):
        starts = ngram_boundaries(mask, n=mask.shape[2])
        return jnp.sum(starts, axis=2), jnp.minimum(jnp.sum(mask, axis=2), 2)

    holds(law, "mask")


def test_perplexity_that_only_rises_parts_every_token():
    def law(mask):
        falling = -jnp.broadcast_to(jnp.arange(mask.shape[2], dtype=jnp.float32)[None, None], mask.shape)
        return perplexity_boundaries(falling, mask), mask

    holds(law, "mask")


def test_the_outcome_on_the_last_token_is_the_outcome_on_every_token_to_go():
    def law(rewards, mask, valid):
        to_go = reward_to_go(outcome_token_rewards(rewards, mask, valid), mask, valid)
        return to_go, reinforce(rewards, mask, valid)

    holds(law, *OUTCOME)


def test_rto_without_the_preference_policy_is_the_outcome_less_a_penalty():
    def law(rewards, old, ref, mask, valid):
        result = rto_token_rewards(rewards, old, ref, jnp.zeros_like(old), mask, valid, dpo_coef=0.0)
        penalty = jnp.where(mask & valid[:, :, None], 0.01 * (old - ref), 0)
        return result, outcome_token_rewards(rewards, mask, valid) - penalty

    holds(law, "rewards", "old_logprobs", "ref_logprobs", "mask", "valid")


def test_rto_of_the_preference_policy_itself_shapes_by_its_log_ratio():
    def law(rewards, old, ref, mask):
        result = rto_token_rewards(jnp.zeros_like(rewards), old, ref, old, mask, dpo_clip=0.0)
        return result, jnp.where(mask, (0.05 - 0.01) * (old - ref), 0)

    holds(law, "rewards", "old_logprobs", "ref_logprobs", "mask")


def test_length_reward_of_the_right_ones_spans_one():
    def law(rewards, mask):
        lengths = jnp.broadcast_to(jnp.array([[3, 9, 5, 4]]), rewards.shape)
        result = kimi_length_reward(jnp.ones_like(rewards), lengths)
        ends = jnp.stack([jnp.min(result, axis=1), jnp.max(result, axis=1)])
        return ends, jnp.broadcast_to(jnp.array([[-0.5], [0.5]]), ends.shape)

    holds(law, "rewards", "mask")


def test_the_overlong_penalty_falls_by_its_factor_over_the_cache():
    def law(mask):
        lengths = 20 + jnp.sum(mask, axis=2)
        penalty = overlong_penalty(lengths, max_length=30, cache_length=10)
        longer = overlong_penalty(lengths + 10, max_length=30, cache_length=10)
        return penalty - longer, jnp.ones_like(penalty)

    holds(law, "mask")


def test_the_ratio_free_loss_has_ppo_clips_gradient_on_policy():
    def law(logprobs, advantages, weights, mask):
        def clipped(x):
            log_ratio = jnp.where(mask, x - logprobs, 0)
            low, high = jnp.full_like(x, 0.8), jnp.full_like(x, 1.2)
            return jnp.sum(ppo_clip(log_ratio, low, high, advantages, weights, mask))

        free = jax.grad(lambda x: jnp.sum(gpg_loss(x, advantages, weights, mask)))
        return free(logprobs), jax.grad(clipped)(logprobs)

    holds(law, "logprobs", "advantages", "token_weights", "mask", of=step)


def test_the_ratio_free_loss_with_advantage_one_is_sft():
    def law(logprobs, mask):
        ones = jnp.ones_like(logprobs)
        return gpg_loss(logprobs, ones, ones, mask), sft(logprobs, mask)

    holds(law, "logprobs", "mask", of=step)


def test_value_clip_is_never_below_half_the_squared_error_and_is_it_with_a_wide_clip():
    def law(values, old_values, returns, mask):
        squared = jnp.where(mask, (values - returns) ** 2 / 2, 0)
        narrow = value_clip(values, old_values, returns, mask)
        wide = value_clip(values, old_values, returns, mask, clip=100.0)
        return jnp.stack([wide, jnp.minimum(narrow, squared)]), jnp.stack([squared, squared])

    holds(law, "values", "old_values", "returns", "mask", of=step)
