"""Attention over rows, packed tries and shared prefixes."""

from jaxrl_tok.kernels.attention.api import attention as attention
from jaxrl_tok.kernels.attention.common import Prefix as Prefix
from jaxrl_tok.kernels.attention.trees import PackedTree as PackedTree
from jaxrl_tok.kernels.attention.trees import star_tree as star_tree
from jaxrl_tok.kernels.attention.trees import tree_from_parents as tree_from_parents
