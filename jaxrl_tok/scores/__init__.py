"""What follows from rewards, tokens and the model's statistics, shared by the slots."""

from collections.abc import Callable
from typing import Any

from jaxrl_tok.scores.anchor_state_advantages import anchor_state_advantages as anchor_state_advantages
from jaxrl_tok.scores.boundary_segments import boundary_segments as boundary_segments
from jaxrl_tok.scores.brpo_advantages import brpo_advantages as brpo_advantages
from jaxrl_tok.scores.brpo_summary import brpo_summary as brpo_summary
from jaxrl_tok.scores.capo_rewards import capo_rewards as capo_rewards
from jaxrl_tok.scores.capo_vote import capo_vote as capo_vote
from jaxrl_tok.scores.centred_rewards import centred_rewards as centred_rewards
from jaxrl_tok.scores.d3s_schedule import d3s_schedule as d3s_schedule
from jaxrl_tok.scores.dars_extra_samples import dars_extra_samples as dars_extra_samples
from jaxrl_tok.scores.discounted_step_returns import discounted_step_returns as discounted_step_returns
from jaxrl_tok.scores.effective_rank import effective_rank as effective_rank
from jaxrl_tok.scores.final_state_values import final_state_values as final_state_values
from jaxrl_tok.scores.flow_throughput import flow_throughput as flow_throughput
from jaxrl_tok.scores.generalized_advantages import generalized_advantages as generalized_advantages
from jaxrl_tok.scores.groundedprm_value import groundedprm_value as groundedprm_value
from jaxrl_tok.scores.group_divergence import group_divergence as group_divergence
from jaxrl_tok.scores.implicit_step_rewards import implicit_step_rewards as implicit_step_rewards
from jaxrl_tok.scores.kimi_length_reward import kimi_length_reward as kimi_length_reward
from jaxrl_tok.scores.kl_estimate import kl_estimate as kl_estimate
from jaxrl_tok.scores.leaf_rewards import leaf_rewards as leaf_rewards
from jaxrl_tok.scores.leave_one_out import leave_one_out as leave_one_out
from jaxrl_tok.scores.low_entropy import low_entropy as low_entropy
from jaxrl_tok.scores.macro_advantages import macro_advantages as macro_advantages
from jaxrl_tok.scores.min_form_returns import min_form_returns as min_form_returns
from jaxrl_tok.scores.min_form_rewards import min_form_rewards as min_form_rewards
from jaxrl_tok.scores.ngram_boundaries import ngram_boundaries as ngram_boundaries
from jaxrl_tok.scores.normalized_attention_entropy import normalized_attention_entropy as normalized_attention_entropy
from jaxrl_tok.scores.normalized_entropy import normalized_entropy as normalized_entropy
from jaxrl_tok.scores.outcome_token_rewards import outcome_token_rewards as outcome_token_rewards
from jaxrl_tok.scores.overlong_penalty import overlong_penalty as overlong_penalty
from jaxrl_tok.scores.perplexity_boundaries import perplexity_boundaries as perplexity_boundaries
from jaxrl_tok.scores.prefix_tree_values import prefix_tree_values as prefix_tree_values
from jaxrl_tok.scores.rank_rewards import rank_rewards as rank_rewards
from jaxrl_tok.scores.reward_to_go import reward_to_go as reward_to_go
from jaxrl_tok.scores.rto_token_rewards import rto_token_rewards as rto_token_rewards
from jaxrl_tok.scores.segment_mean import segment_mean as segment_mean
from jaxrl_tok.scores.segment_sums import segment_sums as segment_sums
from jaxrl_tok.scores.spo_cutpoints import spo_cutpoints as spo_cutpoints
from jaxrl_tok.scores.spread import spread as spread
from jaxrl_tok.scores.standardised_rewards import standardised_rewards as standardised_rewards
from jaxrl_tok.scores.success_rate_beta import success_rate_beta as success_rate_beta
from jaxrl_tok.scores.thr_scores import thr_scores as thr_scores
from jaxrl_tok.scores.token_covariance import token_covariance as token_covariance
from jaxrl_tok.scores.tree_edge_advantages import tree_edge_advantages as tree_edge_advantages
from jaxrl_tok.scores.tree_rl_rewards import tree_rl_rewards as tree_rl_rewards
from jaxrl_tok.scores.tree_values import tree_values as tree_values
from jaxrl_tok.scores.value_differences import value_differences as value_differences
from jaxrl_tok.scores.whiten import whiten as whiten

SCORES: dict[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (
        centred_rewards,
        leaf_rewards,
        leave_one_out,
        standardised_rewards,
        kl_estimate,
        prefix_tree_values,
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
        normalized_entropy,
        group_divergence,
        flow_throughput,
        normalized_attention_entropy,
        effective_rank,
        d3s_schedule,
        dars_extra_samples,
        low_entropy,
        segment_mean,
        thr_scores,
        token_covariance,
        spread,
        segment_sums,
        tree_values,
        tree_edge_advantages,
        tree_rl_rewards,
        spo_cutpoints,
        boundary_segments,
        final_state_values,
        value_differences,
        discounted_step_returns,
        anchor_state_advantages,
        min_form_rewards,
        min_form_returns,
        rank_rewards,
        capo_vote,
        capo_rewards,
        implicit_step_rewards,
        brpo_advantages,
        brpo_summary,
        groundedprm_value,
    )
}
