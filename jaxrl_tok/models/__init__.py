"""Decoder-only transformers as pure functions over parameter trees."""

from jaxrl_tok.models.architecture import Architecture as Architecture
from jaxrl_tok.models.cache import KVCache as KVCache
from jaxrl_tok.models.cache import Level as Level
from jaxrl_tok.models.heads import Critic as Critic
from jaxrl_tok.models.heads import RewardModel as RewardModel
from jaxrl_tok.models.lora import Lora as Lora
from jaxrl_tok.models.model import Hidden as Hidden
from jaxrl_tok.models.model import Model as Model
from jaxrl_tok.models.model import TrieModel as TrieModel
from jaxrl_tok.models.rope import Rope as Rope
from jaxrl_tok.models.transformer import Transformer as Transformer
