"""What a model file may say, and what a run may put around its model."""

from typing import Annotated, Any, Literal

from pydantic import Field

from jaxrl_tok.config.base import Count, Natural, OpenSection, Positive, Section, Text


class RopeConfig(Section):
    """Rotary positions of a model, and how they are stretched to longer texts."""

    theta: Positive = 10_000.0
    """Base of the frequencies."""
    scaling: Literal["none", "linear", "llama3", "yarn"] = "none"
    """How frequencies are stretched to texts longer than those of pretraining."""
    factor: Positive = 1.0
    """How many times longer."""
    original_length: Natural = 0
    """Positions before the stretching (`llama3`, `yarn`)."""
    low_freq_factor: Positive = 1.0
    """`llama3`: waves longer than `original_length` over this are stretched in full."""
    high_freq_factor: Positive = 4.0
    """`llama3`: waves shorter than `original_length` over this are left alone."""
    beta_fast: Positive = 32.0
    """`yarn`: pairs that turn more often than this in `original_length` are left alone."""
    beta_slow: Positive = 1.0
    """`yarn`: pairs that turn less often than this in `original_length` are stretched in full."""
    attention_factor: Positive | None = None
    """`yarn`: factor on cosine and sine; 0.1 ln(`factor`) + 1 unless given."""
    truncate: bool = True
    """`yarn`: the line between the two starts and ends at whole pairs."""


class ModelConfig(Section):
    """A decoder-only transformer: RMSNorm, RoPE, grouped-query attention, a gated feed-forward part or experts."""

    name: str = ""
    """Name of the model. Its file's own name unless given."""
    weights: Text | None = None
    """Folder in Hugging Face form (`config.json`, safetensors) to start from, or `smollm2` (the extra of that name). It
    gives all keys below; one that is given here too has to agree. Unset = start at random."""
    layers: Count
    """Layers."""
    dim: Count
    """Width of the residual stream (D)."""
    heads: Count
    """Query heads (N)."""
    kv_heads: Count
    """Key and value heads (K), a divisor of `heads`."""
    head_dim: Count
    """Size of a head (H), even."""
    ffw: Count
    """Width of the feed-forward part, or of one expert (F)."""
    vocab: Count | None = None
    """Rows of the embedding (V). The tokenizer's size unless given."""
    rope: RopeConfig = RopeConfig()
    """Rotary positions."""
    local_rope: RopeConfig | None = None
    """Those of the layers with a window. As `rope` unless given."""
    norm_eps: Positive = 1e-6
    """Added to the mean square in RMSNorm."""
    norms: Literal["pre", "post", "both"] = "pre"
    """RMSNorm before attention and feed-forward, after them (OLMo 2), or in both places (Gemma 3)."""
    norm_offset: bool = False
    """RMSNorm multiplies by 1 + its weight (Gemma)."""
    qk_norm: Literal["none", "head", "whole"] = "none"
    """RMSNorm on queries and keys: none, over each head (Qwen 3), over all heads together (OLMo 2)."""
    qkv_bias: bool = False
    """Biases on queries, keys and values."""
    o_bias: bool = False
    """A bias on what attention gives."""
    mlp_bias: bool = False
    """Biases in the feed-forward part; not with experts."""
    activation: Literal["silu", "gelu_tanh"] = "silu"
    """Activation of the feed-forward part's gate."""
    attention_scale: Positive | None = None
    """Factor on attention scores; 1 over the root of `head_dim` unless given."""
    attention_cap: Positive | None = None
    """Soft cap c tanh(x / c) on attention scores."""
    logit_cap: Positive | None = None
    """Soft cap on logits."""
    window: Count | None = None
    """Tokens that a layer with a window sees, itself included; unset = no layer has one."""
    sliding: Annotated[tuple[bool, ...], Field(strict=False, min_length=1)] = (True,)
    """Which layers have the window, repeated over all layers."""
    tied: bool = True
    """The output matrix is the embedding."""
    scale_embedding: bool = False
    """Multiply embeddings by the root of `dim`."""
    experts: Natural = 0
    """Experts of a layer (E) in place of one feed-forward part; 0 = none."""
    experts_per_token: Natural = 0
    """How many of them each token takes."""
    norm_top_k: bool = True
    """The weights of a token's experts add up to 1."""


class LoraSection(Section):
    """Low-rank adapters: the model is frozen, and only they are trained."""

    rank: Natural = 0
    """Rank of each adapter; 0 = none, all parameters are trained."""
    # Twice a rank of 16, as in many recipes for fine-tuning; the factor on an adapter is alpha / rank.
    alpha: Positive = 32.0
    """An adapter counts alpha / `rank` times."""
    targets: Annotated[tuple[Text, ...], Field(strict=False, min_length=1)] = ("q", "k", "v", "o", "gate", "up", "down")
    """Patterns of the matrices that have one: `q k v o gate up down`, and `experts.gate experts.up experts.down`."""


class CriticSection(Section):
    """A value head on the model, for recipes that read values."""

    trunk: Literal["off", "shared", "detached"] = "off"
    """No critic; one whose losses train the model's layers too; one whose losses train its head only."""
    # verl's and OpenRLHF's rate of a critic, ten times that of the policy.
    learning_rate: Positive = 1e-5
    """Peak learning rate of the head; what is not said here is as in `optimizer`."""


class OwnModelConfig(OpenSection):
    """A model of your own. Other keys are passed to its function."""

    name: str = ""
    """Name of the model. Its file's own name unless given."""
    function: Text
    """`module:function`, beside the run file or installed, that returns the model and its parameters."""


# How validation tells the two kinds of model apart, and marks which one an error is about.
MODEL_TAGS = ("[built-in]", "[own]")


def model_tag(model: Any) -> str:
    """Returns which of the two kinds a model is, given as a table or validated."""
    own = "function" in model if isinstance(model, dict) else isinstance(model, OwnModelConfig)
    return MODEL_TAGS[own]
