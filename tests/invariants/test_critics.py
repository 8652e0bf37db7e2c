"""Laws of returns, of a critic's advantages and losses, and of the reward terms."""

import functools

import jax
import jax.numpy as jnp
import pytest

from jaxrl_tok.advantages import gae, ma_gae, reinforce
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
)
from tests.conformance.fields import step
from tests.invariants.pairs import holds, without_holes

pytestmark = pytest.mark.slow  # the methods' own tests are the quick ones

OUTCOME = "rewards", "mask", "valid"
CRITIC = "token_rewards", "values", "mask", "valid"


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
