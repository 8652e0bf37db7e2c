"""Macro actions that end where the reference is surprised."""

from jaxtyping import Array, Bool, Float

from jaxrl_tok.scores.outcome_token_rewards import ends
from jaxrl_tok.scores.reward_to_go import following


def perplexity_boundaries(
    ref_logprobs: Float[Array, "P G T"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
) -> Bool[Array, "P G T"]:
    """Marks each token that the reference expects more than the next one, the first token and the last.

        start[p,g,t] = exp(-ref_logprobs[p,g,t']) > exp(-ref_logprobs[p,g,t]),   t' the next trained token

    MA-RLHF's perplexity rule, https://arxiv.org/abs/2410.02743, as in the authors' code. The last token is a macro
    action of its own, because it holds the reward model's score. Equal perplexities do not part. Nothing
    starts on a masked token or in a completion that is not valid.
    """
    mask = mask if valid is None else mask & valid[:, :, None]
    first, last = ends(mask)
    rises = following(ref_logprobs, mask) < ref_logprobs
    return mask & (first | last | rises)
