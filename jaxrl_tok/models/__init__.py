"""Decoder-only transformers as pure functions over parameter trees."""

from jaxrl_tok.models.cache import KVCache as KVCache
from jaxrl_tok.models.transformer import Architecture as Architecture
