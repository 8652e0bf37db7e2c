"""Laws that tie the advantages from outcomes together, or say what they are at a limit."""

import jax
import jax.numpy as jnp
import pytest

from jaxrl_tok.advantages import (
    ada_grpo,
    bnpo,
    dr_grpo,
    gdpo,
    gpg,
    grpo,
    hicra,
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
from jaxrl_tok.scores import success_rate_beta, whiten
from tests.invariants.pairs import holds, without_holes

pytestmark = pytest.mark.slow  # the methods' own tests are the quick ones

OUTCOME = "rewards", "mask", "valid"


def all_of(mask):
    return jnp.ones_like(mask)


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
