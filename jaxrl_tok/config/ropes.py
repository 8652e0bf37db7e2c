"""The rotary settings of a Hugging Face `config.json`, in its old form and its new one, and ours."""

import math
from collections.abc import Mapping
from typing import Any, NoReturn

from jaxrl_tok.config.hf_config import HfConfig

_SCALINGS = {"default": "none", "linear": "linear", "llama3": "llama3", "yarn": "yarn"}

# Our key, theirs, and what it counts as where nothing is said: the keys that each scaling reads.
_KEYS: dict[str, dict[str, tuple[str, Any]]] = {
    "none": {},
    "linear": {"factor": ("factor", None)},
    "llama3": {
        "factor": ("factor", None),
        "low_freq_factor": ("low_freq_factor", None),
        "high_freq_factor": ("high_freq_factor", None),
    },
    "yarn": {
        "factor": ("factor", None),
        "beta_fast": ("beta_fast", 32.0),
        "beta_slow": ("beta_slow", 1.0),
    },
}
_LONG = ("llama3", "yarn")  # read original_max_position_embeddings

_DEFAULT: dict[str, Any] = {
    "theta": 10_000.0,
    "scaling": "none",
    "factor": 1.0,
    "original_length": 0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "attention_factor": None,
    "truncate": True,
}


def read_rope(said: HfConfig, layer_type: str) -> dict[str, Any]:
    """Returns the table `rope` for the layers of one type; the types differ in Gemma 3 alone."""
    key, table = _table(said, layer_type)

    def refuse(inner: str, why: str) -> NoReturn:
        said.refuse(f"{key}.{inner}", table.get(inner), why)

    kind = table.get("rope_type", table.get("type", "default"))
    scaling = _SCALINGS.get(kind)
    if scaling is None:
        refuse("rope_type" if "rope_type" in table else "type", f"supported: {', '.join(_SCALINGS)}")
    if table.get("partial_rotary_factor", 1) != 1:
        refuse("partial_rotary_factor", "supported: 1, whole heads turn")
    rope = {"theta": table["rope_theta"], "scaling": scaling}
    if scaling in _LONG:
        # The key beside the table comes first, as in transformers.
        length = said.table.get("original_max_position_embeddings") or table.get("original_max_position_embeddings")
        rope["original_length"] = length or said.size("max_position_embeddings")
    for ours, (theirs, default) in _KEYS[scaling].items():
        found = table.get(theirs)
        if found is None and scaling == "yarn" and theirs == "factor":
            found = said.size("max_position_embeddings") / rope["original_length"]
        rope[ours] = default if found is None else found
    if scaling == "yarn":
        rope |= {"attention_factor": _attention_factor(table, rope["factor"]), "truncate": table.get("truncate", True)}
    for ours, value in rope.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if ours not in ("scaling", "truncate", "attention_factor") and (not number or value <= 0):
            theirs = {"theta": "rope_theta", "original_length": "original_max_position_embeddings"}.get(ours, ours)
            refuse(theirs, "expected a number above 0")
    return plain_rope(rope)


def write_rope(rope: Mapping[str, Any], local: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns the keys of a `config.json` for a table `rope`, and for Gemma 3 that of the layers with a window.

    In the old form, which every version of transformers reads; Gemma 3's layers with a window can have a scaling of
    their own in the new form alone, so both are written there.
    """
    scaling = _scaling(rope)
    old = {"rope_theta": rope["theta"], "rope_scaling": scaling}
    if local is None:
        return old
    new = {"full_attention": rope, "sliding_attention": local}
    default = {"rope_type": "default"}
    parameters = {kind: {**(_scaling(r) or default), "rope_theta": r["theta"]} for kind, r in new.items()}
    return old | {"rope_local_base_freq": local["theta"], "rope_parameters": parameters}


def plain_rope(rope: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a whole table `rope`, in which what its scaling does not read is at its default."""
    scaling = rope.get("scaling", "none")
    read = {"theta", "scaling", *_KEYS[scaling]}
    read |= {"original_length"} if scaling in _LONG else set()
    read |= {"attention_factor", "truncate"} if scaling == "yarn" else set()
    found = {key: rope.get(key, default) if key in read else default for key, default in _DEFAULT.items()}
    return {key: float(x) if isinstance(_DEFAULT[key], float) else x for key, x in found.items()}


def _table(said: HfConfig, layer_type: str) -> tuple[str, dict[str, Any]]:
    """Returns the settings of a type of layers, with the base among them, and the key that holds them."""
    scaling = said.table.get("rope_scaling") or {}
    parameters = said.table.get("rope_parameters") or {}
    by_type = any(isinstance(parameters.get(kind), dict) for kind in ("full_attention", "sliding_attention"))
    if said.get("model_type") == "gemma3_text":
        full = layer_type == "full_attention"
        theta = {"rope_theta": said.get("rope_theta" if full else "rope_local_base_freq")}
        inner = (parameters.get(layer_type) or {}) if by_type else {}
        return "rope_parameters" if inner else "rope_scaling", theta | inner | (scaling if full else {})
    if by_type:
        said.refuse("rope_parameters", parameters, "expected one for all types of layers")
    # As in transformers: the old key, where it is filled, comes first.
    key, table = ("rope_scaling", scaling) if scaling else ("rope_parameters", parameters)
    return key, {"rope_theta": said.get("rope_theta"), **table}


def _attention_factor(table: Mapping[str, Any], factor: float) -> float | None:
    """Returns YaRN's factor on cosine and sine; None for the usual one.

    DeepSeek's `mscale` m and `mscale_all_dim` a give (0.1 m ln(factor) + 1) / (0.1 a ln(factor) + 1).
    """
    if table.get("attention_factor") is not None:
        return float(table["attention_factor"])
    top, bottom = table.get("mscale"), table.get("mscale_all_dim")
    if not (top and bottom):
        return None
    log = math.log(factor) if factor > 1 else 0.0
    return (0.1 * top * log + 1) / (0.1 * bottom * log + 1)


def _scaling(rope: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the table `rope_scaling`; None for plain positions."""
    scaling = rope["scaling"]
    if scaling == "none":
        return None
    table = {"rope_type": scaling} | {theirs: rope[ours] for ours, (theirs, _) in _KEYS[scaling].items()}
    if scaling in _LONG:
        table["original_max_position_embeddings"] = rope["original_length"]
    if scaling == "yarn":
        table |= {} if rope["attention_factor"] is None else {"attention_factor": rope["attention_factor"]}
        table |= {} if rope["truncate"] else {"truncate": False}
    return table
