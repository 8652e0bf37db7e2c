"""What `model.weights` says by itself: its `config.json` gives the architecture, and the tokenizer is beside it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxrl_tok.config import toml
from jaxrl_tok.config.families import SMOLLM2_CONFIG, from_hf, read_config
from jaxrl_tok.config.layers import Keys, Layer, Table, get, has, merged, where
from jaxrl_tok.errors import ConfigError

SMOLLM2 = "smollm2"


def hf_config(weights: str) -> tuple[dict[str, Any], str]:
    """Returns the `config.json` that `model.weights` stands for, and how errors name it.

    Raises:
      ConfigError: there is none.
    """
    return (SMOLLM2_CONFIG, SMOLLM2) if weights == SMOLLM2 else read_config(Path(weights))


def pretrained_layers(layers: Sequence[Layer]) -> list[Layer]:
    """Returns what the weights that the layers name say of model and tokenizer, to be laid under them.

    Raises:
      ConfigError: the weights' `config.json` cannot be used, or the layers say something else than it does.
    """
    tree = merged(layers)
    weights = get(tree, ("model", "weights"))
    # A model of the user's own may have an option of that name.
    if not isinstance(weights, str) or has(tree, ("model", "function")):
        return []
    config, label = hf_config(weights)
    fields = from_hf(config, label)
    found = [Layer(label, ("model",), fields)]
    if not has(tree, ("tokenizer", "kind")):
        own = {"kind": SMOLLM2} if weights == SMOLLM2 else {"kind": "folder", "path": weights}
        found.append(Layer(label, ("tokenizer",), own))
    lines = []
    for path, value in _leaves({key: x for key, x in _table(tree).items() if key in fields}):
        if value != (said := get(fields, path)):
            wanted = "nothing" if said is None else toml.value(said)
            key = where(layers, ("model", *path))
            lines.append(f"{key} = {toml.value(value)}: expected {wanted}, as {label} says")
    if lines:
        raise ConfigError("\n".join(lines))
    return found


def _table(tree: Table) -> Table:
    return tree["model"] if isinstance(tree["model"], dict) else {}


def _leaves(table: Table, path: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value
