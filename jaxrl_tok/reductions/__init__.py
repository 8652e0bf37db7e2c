"""Reductions: how a loss is averaged, as a total and a count that add up over parts of a batch."""

from collections.abc import Callable

from jaxrl_tok.reductions.constant_length import constant_length as constant_length
from jaxrl_tok.reductions.row_mean import row_mean as row_mean
from jaxrl_tok.reductions.sequence_mean_token_mean import sequence_mean_token_mean as sequence_mean_token_mean
from jaxrl_tok.reductions.sequence_mean_token_sum import sequence_mean_token_sum as sequence_mean_token_sum
from jaxrl_tok.reductions.token_mean import token_mean as token_mean
from jaxrl_tok.types import Mean

REDUCTIONS: dict[str, Callable[..., Mean]] = {
    f.__name__: f for f in (token_mean, sequence_mean_token_mean, sequence_mean_token_sum, constant_length, row_mean)
}
