"""Operations too large for plain array code; each chooses among backends that agree."""

# Here `attention`, `divergence`, `token_score` are functions, not the folders of those names: Python makes a folder
# an attribute of its package when it first imports it, which happens inside these lines, before they bind the function.
from jaxrl_tok.kernels.attention.api import attention as attention
from jaxrl_tok.kernels.attention.common import Prefix as Prefix
from jaxrl_tok.kernels.attention.trees import PackedTree as PackedTree
from jaxrl_tok.kernels.attention.trees import star_tree as star_tree
from jaxrl_tok.kernels.attention.trees import tree_from_parents as tree_from_parents
from jaxrl_tok.kernels.divergence.api import Divergences as Divergences
from jaxrl_tok.kernels.divergence.api import divergence as divergence
from jaxrl_tok.kernels.token_score.api import TokenScores as TokenScores
from jaxrl_tok.kernels.token_score.api import kept_logprobs as kept_logprobs
from jaxrl_tok.kernels.token_score.api import score_many as score_many
from jaxrl_tok.kernels.token_score.api import token_score as token_score
from jaxrl_tok.kernels.token_score.top_k import TopK as TopK
from jaxrl_tok.kernels.token_score.top_k import top_k as top_k
