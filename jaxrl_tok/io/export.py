"""A model as a folder in Hugging Face form, which `transformers` and vLLM load.

    config.json  generation_config.json                  the model, and where completions end
    model.safetensors                                    or shards of at most 5 GB and their index
    tokenizer.json  tokenizer_config.json  chat_template.jinja

`config.json` is written last: a folder without it was not finished. Adapters alone are a folder that `peft` and vLLM
load, `adapter_config.json` and `adapter_model.safetensors`, in the same order.
"""

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxrl_tok.config import families, pretrained
from jaxrl_tok.errors import CheckpointError, ConfigError
from jaxrl_tok.io import safetensors
from jaxrl_tok.io.files import replace_atomically, reported
from jaxrl_tok.io.tokenizer import Tokenizer
from jaxrl_tok.models.lora import Lora
from jaxrl_tok.models.names import Part, adapter_parts, leaves, parts

GENERATION = "generation_config.json"
ADAPTER_CONFIG, ADAPTERS = "adapter_config.json", "adapter_model.safetensors"


def export(
    params: Mapping[str, Any],
    specs: Mapping[str, Any],
    config: Mapping[str, Any],
    tokenizer: Tokenizer,
    folder: str | Path,
    *,
    dtype: str = "bfloat16",
    generation: Mapping[str, Any] | None = None,
    shard_bytes: int = safetensors.SHARD_BYTES,
) -> None:
    """Writes parameters, configuration and tokenizer to a new folder; on the host there is one tensor at a time.

    Args:
      params: the parameters of the built-in decoder, all of them on devices of this process.
      specs: their specs.
      config: `hf_config` of the model.
      tokenizer: with its chat template, where it has one.
      folder: has to be new, or empty.
      dtype: of the files: "bfloat16" or "float32".
      generation: settings of sampling to go with the model; the tokens that end a completion are the tokenizer's.
      shard_bytes: the size of a file.

    Raises:
      CheckpointError: the folder holds something, or cannot be written.
    """
    folder = _new(folder)
    ids = {"eos_token_id": list(tokenizer.eos_ids), "pad_token_id": tokenizer.pad_id}
    with reported(folder):
        tokenizer.save(folder)
    kind = np.dtype(jax.numpy.dtype(dtype))
    safetensors.write(folder, _tensors(params, specs), kind, shard_bytes)
    _write(folder / GENERATION, dict(generation or {}) | ids)
    _write(folder / families.CONFIG, dict(config) | ids | {"torch_dtype": dtype})


def export_adapters(
    params: Mapping[str, Any], model: Lora, folder: str | Path, *, base: str | None = None, dtype: str = "float32"
) -> None:
    """Writes the adapters of a model to a new folder in PEFT form.

    A [r, inputs] is `base_model.model.model.layers.N.self_attn.q_proj.lora_A.weight` and B [outputs, r] its `lora_B`:
    alpha / r B A is what they add to the matrix of that name.

    Args:
      params: the adapters, all of them on devices of this process.
      model: whose they are.
      folder: has to be new, or empty.
      base: name or folder of the model that they belong to, where it has one.
      dtype: of the file: "bfloat16" or "float32".

    Raises:
      CheckpointError: the folder holds something, or cannot be written.
      ConfigError: experts have adapters, for which PEFT has no form.
    """
    layers = model.base.specs()["layers"]
    found = []
    for name in params:
        for part in parts(("layers", name), layers[name], layers):
            if len(part.at) > 1:
                raise ConfigError(f"lora.targets: experts.{name}: PEFT has no form for adapters of experts")
            for half, own in zip("ab", adapter_parts(part, model.rank), strict=True):
                found.append((own, functools.partial(_values, params[name][half], own)))
    found.sort(key=lambda item: item[0].at)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": model.rank,
        "lora_alpha": int(model.alpha) if model.alpha == int(model.alpha) else model.alpha,
        "target_modules": sorted({part.name.split(".")[-3] for part, _ in found}),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    folder = _new(folder)
    tensors = [(safetensors.Tensor(part.name, part.file_shape), values) for part, values in found]
    safetensors.write_file(folder / ADAPTERS, tensors, np.dtype(jax.numpy.dtype(dtype)))
    _write(folder / ADAPTER_CONFIG, config)


def hf_config(model: Mapping[str, Any], max_length: int) -> dict[str, Any]:
    """Returns the `config.json` of a model, by the fields of its `ModelConfig`.

    With `weights`, it is theirs, so that it keeps what the decoder has no use for; of Gemma 3, its text part.

    Args:
      model: the fields, `vocab` among them.
      max_length: the longest text of a model without `weights`.

    Raises:
      ConfigError: no family of transformers has this combination of fields.
    """
    if not model["weights"]:
        return families.to_hf(model, max_length)
    config = families.text_config(pretrained.hf_config(model["weights"])[0])
    # Neither a path of another machine nor the name of code, which nobody should run.
    dropped = {"_name_or_path", "auto_map", "transformers_version", "dtype"}
    own = families.FAMILIES[config["model_type"]].class_name
    return {key: value for key, value in config.items() if key not in dropped} | {"architectures": [own]}


def hf_generation(weights: str | None) -> dict[str, Any]:
    """Returns the settings of sampling that stand beside the weights a run started from."""
    path = Path(weights or "") / GENERATION
    if weights is None or not path.is_file():
        return {}
    return json.loads(path.read_bytes())


def _new(folder: str | Path) -> Path:
    folder = Path(folder)
    with reported(folder):
        folder.mkdir(parents=True, exist_ok=True)
        held = next(folder.iterdir(), None)
    if held is not None:
        raise CheckpointError(f"{folder}: holds {held.name}: expected a new or an empty folder")
    return folder


def _tensors(
    params: Mapping[str, Any], specs: Mapping[str, Any]
) -> Iterator[tuple[safetensors.Tensor, Callable[[], np.ndarray]]]:
    """Yields every tensor of the files, layer by layer, with what brings it to the host."""
    found = [
        (part, functools.partial(_values, _at(params, path), part))
        for path, spec in leaves(specs)
        for part in parts(path, spec, specs["layers"])
    ]
    # The embedding, the layers in their order, then what follows them.
    found.sort(key=lambda item: (not item[0].name.startswith("model.embed"), not item[0].at, item[0].at[:1]))
    for part, values in found:
        yield safetensors.Tensor(part.name, part.file_shape), values


def _values(array: jax.Array, part: Part) -> np.ndarray:
    sharding = array.sharding
    whole = NamedSharding(sharding.mesh, PartitionSpec()) if isinstance(sharding, NamedSharding) else None
    return part.to_file(np.asarray(_take(len(part.at), whole)(array, part.at)))


@functools.cache
def _take(depth: int, sharding: NamedSharding | None) -> Callable[[jax.Array, tuple[int, ...]], jax.Array]:
    """Returns a program that takes one layer, or one expert of a layer: compiled once for all of them."""

    def take(array: jax.Array, at: tuple[jax.Array, ...]) -> jax.Array:
        for i in range(depth):
            array = jax.lax.dynamic_index_in_dim(array, at[i], 0, keepdims=False)
        return array

    return jax.jit(take) if sharding is None else jax.jit(take, out_shardings=sharding)


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _write(path: Path, table: Mapping[str, Any]) -> None:
    with reported(path):
        replace_atomically(path, lambda file: file.write((json.dumps(table, indent=2) + "\n").encode()))
