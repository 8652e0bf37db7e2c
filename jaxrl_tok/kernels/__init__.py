"""Operations too large for plain array code; each chooses among backends that agree."""

# Here `token_score` is the function, not the folder of that name: Python makes a folder an attribute of its
# package when it first imports it, which happens inside these lines, before they bind the function.
from jaxrl_tok.kernels.token_score.api import TokenScores as TokenScores
from jaxrl_tok.kernels.token_score.api import kept_logprobs as kept_logprobs
from jaxrl_tok.kernels.token_score.api import token_score as token_score
