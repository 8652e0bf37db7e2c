"""What ties the methods of trees, segments and steps to each other and to the plain ones, on random groups."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.advantages import (
    brpo_thinking,
    capo,
    dr_grpo,
    gigpo,
    grpo,
    himac,
    oprl,
    pure,
    rank_grpo,
    rloo,
    spo_chain,
    spo_tree,
    spo_whiten,
    tp_grpo,
    tree_rl,
    vine_ppo,
)
from jaxrl_tok.scores import (
    brpo_summary,
    discounted_step_returns,
    min_form_returns,
    min_form_rewards,
    spo_cutpoints,
    tree_values,
    whiten,
)
from jaxrl_tok.token_weights import probability_mask
from tests.golden.flat import call

pytestmark = pytest.mark.slow  # the methods' own tests are the quick ones

P, G, T, S = 6, 4, 8, 4
RNG = np.random.default_rng(0)
REWARDS = jnp.asarray(RNG.choice([0.0, 0.25, 1.0], (P, G)), jnp.float32)
SEGMENTS = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32) * S // T, (P, G, T))
MASK = jnp.asarray(np.arange(T) < RNG.integers(1, T + 1, (P, G, 1)))
FULL = jnp.ones((P, G, T), bool)
LOGPROBS = jnp.asarray(-RNG.exponential(0.5, (P, G, T)), jnp.float32)
VALUES = jnp.asarray(RNG.random((P, G, S + 1)), jnp.float32)
STEPS = jnp.asarray(RNG.normal(size=(P, G, S)), jnp.float32)
EXISTS = jnp.ones((P, G, S), bool)
ADVANTAGES = jnp.asarray(RNG.normal(size=(P, G, T)), jnp.float32)
# A root and a leaf for each completion; a root, two nodes and two leaves under each.
STAR = jnp.broadcast_to(jnp.array([-1, 0, 0, 0, 0], jnp.int32), (P, 5))
STAR_IDS = jnp.broadcast_to(jnp.arange(1, 5, dtype=jnp.int32)[None, :, None], (P, G, T))
PAIRS = jnp.broadcast_to(jnp.array([-1, 0, 0, 1, 1, 2, 2], jnp.int32), (P, 7))
PAIR_IDS = jnp.broadcast_to(
    jnp.where(jnp.arange(T)[None] < T // 2, jnp.array([[1], [1], [2], [2]]), jnp.array([[3], [4], [5], [6]])), (P, G, T)
)


def under(nodes):
    """Rewards of the leaves, behind those of the inner nodes, which do not matter."""
    return jnp.concatenate([jnp.full((P, nodes - G), jnp.nan), REWARDS], axis=1)


def close(a, b):
    """Float32, a few operations in another order."""
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


def test_vine_ppo_of_one_step_is_the_reward_minus_the_value_of_the_prompt():
    result = call(vine_ppo, REWARDS, SEGMENTS * 0, VALUES[:, :, :2], MASK, whitening="off")
    close(result, jnp.where(MASK, (REWARDS - VALUES[:, :, 0])[:, :, None], 0))


def test_spo_chain_of_certain_tokens_too_is_vine_ppo_without_whitening():
    arrays = SEGMENTS, VALUES, MASK
    close(call(spo_chain, REWARDS, LOGPROBS, *arrays, threshold=1.5), call(vine_ppo, REWARDS, *arrays, whitening="off"))


def test_gains_of_a_chain_add_up_to_the_reward_minus_the_value_of_the_prompt():
    result = call(spo_chain, REWARDS, LOGPROBS, SEGMENTS, VALUES, FULL, threshold=1.5)
    close(jnp.sum(result[:, :, :: T // S], axis=2), REWARDS - VALUES[:, :, 0])


def test_spo_cutpoints_at_every_token_are_the_tokens_that_probability_mask_trains():
    close(call(spo_cutpoints, LOGPROBS, MASK, interval=1), call(probability_mask, LOGPROBS, MASK))


def test_spo_whiten_over_all_tokens_is_whiten():
    close(call(spo_whiten, ADVANTAGES, LOGPROBS, MASK, threshold=1.5), call(whiten, ADVANTAGES, MASK))


def test_spo_tree_of_depth_1_is_dr_grpo():
    close(call(spo_tree, STAR_IDS, STAR, under(5), MASK), call(dr_grpo, REWARDS, MASK))


def test_spo_tree_against_siblings_at_depth_1_is_grpo_with_the_std_of_the_population():
    result = call(spo_tree, STAR_IDS, STAR, under(5), MASK, scale="siblings", eps=0.0)
    close(result, call(grpo, REWARDS, MASK, eps=0.0) * (G / (G - 1)) ** 0.5)


def test_advantages_along_a_path_of_spo_tree_add_up_to_the_reward_minus_the_root():
    result = call(spo_tree, PAIR_IDS, PAIRS, under(7), FULL)
    close(result[:, :, 0] + result[:, :, -1], REWARDS - jnp.mean(REWARDS, axis=1, keepdims=True))


def test_tree_rl_of_depth_1_is_twice_dr_grpo():
    close(call(tree_rl, STAR_IDS, STAR, under(5), MASK), 2 * call(dr_grpo, REWARDS, MASK))


def test_tree_rl_as_released_at_depth_1_is_twice_rloo_with_the_mean_over_tokens_taken_off():
    options = {"as_released": True, "weighted": False}
    plain = 2 * call(rloo, REWARDS, MASK)
    close(call(tree_rl, STAR_IDS, STAR, under(5), MASK, norm="none", **options), plain)
    lengths = jnp.sum(MASK, axis=2, dtype=jnp.float32)
    mean = jnp.sum(plain[:, :, 0] * lengths, axis=1) / jnp.sum(lengths, axis=1) / 2
    close(
        call(tree_rl, STAR_IDS, STAR, under(5), MASK, **options),
        jnp.where(MASK, plain - mean[:, None, None], 0),  # twice, minus once at the root, whose leaves are four
    )


def test_children_and_leaves_average_alike_in_a_regular_tree():
    close(call(tree_values, PAIRS, under(7)).values, call(tree_values, PAIRS, under(7), average="leaves").values)


@pytest.mark.parametrize("use_std", [False, True])
def test_gigpo_without_a_repeated_state_is_dr_grpo_or_grpo(use_std):
    states = jnp.broadcast_to(jnp.arange(G * S, dtype=jnp.int32).reshape(1, G, S), (P, G, S))
    result = call(gigpo, REWARDS, SEGMENTS, STEPS, EXISTS, states, MASK, use_std=use_std)
    close(result, call(grpo if use_std else dr_grpo, REWARDS, MASK))


def test_gigpo_of_one_step_from_one_state_is_twice_dr_grpo():
    arrays = REWARDS[:, :, None], EXISTS[:, :, :1], jnp.zeros((P, G, 1), jnp.int32)
    close(call(gigpo, REWARDS, SEGMENTS * 0, *arrays, MASK), 2 * call(dr_grpo, REWARDS, MASK))


def test_discounts_of_0_and_1_give_the_rewards_and_their_sums():
    close(call(discounted_step_returns, STEPS, EXISTS, gamma=0.0), STEPS)
    total = call(discounted_step_returns, STEPS, EXISTS, gamma=1.0)
    close(total[:, :, 0], jnp.sum(STEPS, axis=2))


@pytest.mark.parametrize("as_released", [False, True])
def test_oprl_of_one_step_is_rloo_once_for_each_part(as_released):
    arrays = REWARDS, SEGMENTS * 0, REWARDS[:, :, None], EXISTS[:, :, :1], MASK
    base = call(rloo, REWARDS, MASK)
    close(call(oprl, *arrays, step_weight=0.0, as_released=as_released), base)
    close(call(oprl, *arrays, step_weight=1.0, as_released=as_released), 2 * base)


def test_himac_with_one_return_for_both_levels_is_grpo():
    parts = jnp.stack([REWARDS, REWARDS], axis=2)
    close(call(himac, parts, LOGPROBS < -0.5, MASK), call(grpo, REWARDS, MASK))


def test_min_form_goes_from_the_minimum_to_the_mean():
    cold = call(min_form_rewards, STEPS, EXISTS, temperature=1e-3)
    close(jnp.sum(cold, axis=2), jnp.min(STEPS, axis=2))
    hot = call(min_form_rewards, STEPS, EXISTS, temperature=1e6)
    close(jnp.sum(hot, axis=2), jnp.mean(STEPS, axis=2))


def test_min_form_returns_of_the_verifier_alone_are_rloo():
    result = call(min_form_returns, REWARDS, SEGMENTS, STEPS * 0, EXISTS, MASK)
    close(result.returns, jnp.where(result.inside, call(rloo, REWARDS, MASK), 0))


def test_pure_has_mean_0_and_variance_1_over_the_tokens_with_a_return():
    arrays = REWARDS, SEGMENTS, STEPS, EXISTS, MASK
    inside = np.asarray(call(min_form_returns, *arrays).inside)
    values = np.asarray(call(pure, *arrays))
    assert abs(values[inside].mean()) < 1e-5 and abs(values[inside].var() - 1) < 1e-4
    assert (values[~inside] == 0).all()


def test_capo_without_a_wrong_step_and_at_one_length_is_dr_grpo_over_the_std_of_tokens():
    wrong = jnp.zeros((P, G, 2, S), bool)
    n = G * T
    std = jnp.std(REWARDS, axis=1, keepdims=True) * (n / (n - 1)) ** 0.5
    expected = call(dr_grpo, REWARDS, FULL) / jnp.where(std > 0, std, 1)[:, :, None]
    close(call(capo, REWARDS, SEGMENTS, wrong, FULL, eps=0.0), expected)


def test_capo_has_mean_0_over_the_tokens_of_a_group():
    wrong = LOGPROBS[:, :, None, :S] < -0.5
    result = call(capo, REWARDS, SEGMENTS, wrong, MASK)
    close(jnp.sum(result, axis=(1, 2)), jnp.zeros(P))


def test_tp_grpo_on_right_answers_is_grpo_with_alpha_0_or_without_a_wrong_thought():
    right = (REWARDS > 0.5)[:, :, None] & MASK
    expected = jnp.where(right, call(grpo, REWARDS, MASK), 0)
    for wrong, alpha in ((LOGPROBS[:, :, None, :S] < -0.5, 0.0), (jnp.zeros((P, G, 1, S), bool), 3.0)):
        result = call(tp_grpo, REWARDS, SEGMENTS, wrong, MASK, alpha=alpha)
        close(jnp.where(right, result, 0), expected)


def test_brpo_of_one_budget_is_dr_grpo_on_the_mean_of_the_summaries():
    summaries = jnp.stack([REWARDS, REWARDS**2], axis=2)
    result = call(brpo_thinking, SEGMENTS * 0, summaries[:, :, None], MASK)
    close(result, call(dr_grpo, jnp.mean(summaries, axis=2), MASK))


def test_brpo_against_the_group_adds_up_to_0_at_each_budget():
    rewards = jnp.abs(STEPS)[:, :, :, None]
    result = call(brpo_thinking, SEGMENTS, rewards, FULL, baseline="v2only", prior="linear")
    close(jnp.sum(result, axis=1), jnp.zeros((P, T)))


def test_brpo_of_summaries_adds_up_to_0_over_siblings():
    close(jnp.sum(call(brpo_summary, ADVANTAGES.reshape(P, G, 2, 4)), axis=3), jnp.zeros((P, G, 2)))


def test_rank_grpo_of_one_item_without_shaping_is_grpo():
    finished = jnp.zeros((P, G), bool)
    result = call(rank_grpo, SEGMENTS * 0, REWARDS[:, :, None], finished, MASK, shaping=0.0)
    close(result, call(grpo, REWARDS, MASK, eps=1e-4))
