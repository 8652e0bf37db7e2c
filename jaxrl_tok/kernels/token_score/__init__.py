"""Token scoring: log-probs, entropies and normalisers without logits."""

from jaxrl_tok.kernels.token_score.api import TokenScores as TokenScores
from jaxrl_tok.kernels.token_score.api import kept_logprobs as kept_logprobs
from jaxrl_tok.kernels.token_score.api import token_score as token_score
