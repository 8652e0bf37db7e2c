"""Token scoring: log-probs, entropies, normalisers and other statistics without logits."""

from jaxrl_tok.kernels.token_score.api import TokenScores as TokenScores
from jaxrl_tok.kernels.token_score.api import kept_logprobs as kept_logprobs
from jaxrl_tok.kernels.token_score.api import score_many as score_many
from jaxrl_tok.kernels.token_score.api import token_score as token_score
from jaxrl_tok.kernels.token_score.top_k import TopK as TopK
from jaxrl_tok.kernels.token_score.top_k import top_k as top_k
