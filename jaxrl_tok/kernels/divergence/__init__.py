"""Divergences between two models' distributions, without logits."""

from jaxrl_tok.kernels.divergence.api import Divergences as Divergences
from jaxrl_tok.kernels.divergence.api import divergence as divergence
