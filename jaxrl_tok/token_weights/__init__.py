"""Token weights: how much the credit of each token counts."""

from collections.abc import Callable

from jaxtyping import Array, Float

from jaxrl_tok.token_weights.attention_entropy import attention_entropy as attention_entropy
from jaxrl_tok.token_weights.d3s_tokens import d3s_tokens as d3s_tokens
from jaxrl_tok.token_weights.dgpo import dgpo as dgpo
from jaxrl_tok.token_weights.divergence_weight import divergence_weight as divergence_weight
from jaxrl_tok.token_weights.erpo_gate import erpo_gate as erpo_gate
from jaxrl_tok.token_weights.flow import flow as flow
from jaxrl_tok.token_weights.hapo_redistribute import hapo_redistribute as hapo_redistribute
from jaxrl_tok.token_weights.high_entropy import high_entropy as high_entropy
from jaxrl_tok.token_weights.icepop import icepop as icepop
from jaxrl_tok.token_weights.mismatch_mask import mismatch_mask as mismatch_mask
from jaxrl_tok.token_weights.per_node import per_node as per_node
from jaxrl_tok.token_weights.probability_mask import probability_mask as probability_mask
from jaxrl_tok.token_weights.rhythm import rhythm as rhythm
from jaxrl_tok.token_weights.sequence_is import sequence_is as sequence_is
from jaxrl_tok.token_weights.stare import stare as stare
from jaxrl_tok.token_weights.truncated_is import truncated_is as truncated_is
from jaxrl_tok.token_weights.tw_grpo import tw_grpo as tw_grpo
from jaxrl_tok.token_weights.uniform import uniform as uniform
from jaxrl_tok.token_weights.vppo import vppo as vppo

TOKEN_WEIGHTS: dict[str, Callable[..., Float[Array, "..."]]] = {
    f.__name__: f
    for f in (
        uniform,
        high_entropy,
        probability_mask,
        dgpo,
        d3s_tokens,
        vppo,
        tw_grpo,
        divergence_weight,
        erpo_gate,
        per_node,
        truncated_is,
        sequence_is,
        icepop,
        mismatch_mask,
        rhythm,
        flow,
        attention_entropy,
        stare,
        hapo_redistribute,
    )
}
