"""What follows from a run: the sizes it comes to, and the keys that give its saved state its meaning."""

import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from jaxrl_tok.config.schema import MESH_AXES, ModelConfig, OwnModelConfig, Run
from jaxrl_tok.errors import ShardingError

# What a resumed run may change: names, places, what is written when, and how the work is laid out.
FREE = (
    *("run.name", "run.dir", "run.checkpoint_every", "run.keep_last", "run.keep_every"),
    *("run.show_completions_every", "run.trackers", "run.max_sampled_tokens", "rewards", "mesh"),
    *("rollout.slots", "rollout.wave", "rollout.buckets", "rollout.chunk", "rollout.scan_layers"),
    *("train.microbatches", "train.remat", "train.unroll", "train.share_prefix"),
    *("model.name", "recipe.name", "warmup.recipe.name"),
)


def derived(run: Run, devices: int, vocab: int | None = None) -> dict[str, int]:
    """Returns every size that the run comes to on so many devices.

    Args:
      run: the resolved run.
      devices: devices in all, over all hosts.
      vocab: size of the tokenizer, for the parameter count of a model that does not give its own.

    Raises:
      ShardingError: the devices do not fit the mesh.
    """
    mesh = mesh_sizes(run, devices)
    shards = mesh["data"] * mesh["fsdp"] * mesh["expert"]
    rollout, train = run.rollout, run.train
    group = rollout.group if run.recipe.source == "rollout" else 1
    sequences = rollout.prompts * group
    minibatch = rollout.prompts // train.minibatches
    microbatch = minibatch // train.microbatches
    updates = train.minibatches * train.epochs
    slots = rollout.slots or rollout.prompts * rollout.group
    sizes = {
        "devices": devices,
        **{f"mesh.{axis}": size for axis, size in mesh.items()},
        "batch shards": shards,
        "sequences a step": sequences,
        "updates a step": updates,
        "updates in all": updates * run.run.steps,
        "sequences an update": minibatch * group,
        "sequences a microbatch": microbatch * group,
        "sequences a microbatch and shard": math.ceil(microbatch / shards) * group,
        "slots a shard": math.ceil(slots / shards),
        "positions a sequence": rollout.max_prompt + rollout.max_tokens,
        # A prompt is computed once for its group.
        "tokens a step": rollout.prompts * rollout.max_prompt + sequences * rollout.max_tokens,
    }
    if isinstance(run.model, OwnModelConfig):
        return sizes
    vocab = run.model.vocab or vocab
    if vocab is not None:
        sizes |= {"vocabulary": vocab, "parameters": parameters(run.model, vocab)}
    return sizes


def mesh_sizes(run: Run, devices: int) -> dict[str, int]:
    """Returns the devices along each axis of the mesh: what the run says, else its preset; -1 takes what is left.

    The preset `single` is one device of however many there are.

    Raises:
      ShardingError: the axes do not multiply to the number of devices, or do not divide over the slices.
    """
    mesh = run.mesh
    given = {axis: size for axis in MESH_AXES if (size := getattr(mesh, axis)) is not None}
    known = math.prod(size for size in given.values() if size != -1)
    known *= 1 if mesh.slice_axis in given else mesh.slices
    preset = _preset(mesh.preset, max(1, devices // known))
    if -1 in given.values():
        preset = {axis: 1 if size == -1 else size for axis, size in preset.items()}
    across = {mesh.slice_axis: mesh.slices} if preset.get(mesh.slice_axis, 1) != -1 else {}
    sizes = dict.fromkeys(MESH_AXES, 1) | preset | across | given
    known = math.prod(size for size in sizes.values() if size != -1)
    used = 1 if mesh.preset == "single" and {*sizes.values()} == {1} else devices
    filled = {axis: used // known if size == -1 else size for axis, size in sizes.items()}
    asked = ", ".join(f"{axis} = {size}" for axis, size in sizes.items())
    if math.prod(filled.values()) != used:
        raise ShardingError(
            f"mesh: {asked}: does not fit {devices} devices; expected sizes that multiply to {devices}, or one of -1"
        )
    if filled[mesh.slice_axis] % mesh.slices:
        raise ShardingError(
            f"mesh: {mesh.slice_axis} = {filled[mesh.slice_axis]}: not a multiple of {mesh.slices} slices"
        )
    return filled


def _preset(name: str, devices: int) -> dict[str, int]:
    """Returns the sizes of a preset for so many devices of a slice.

    Where two axes share them, the one that moves more takes the largest power of two that divides them, is at most
    their root and at most 8: the chips of a host, or the GPUs of a machine.
    """
    near = max(size for size in (1, 2, 4, 8) if devices % size == 0 and size * size <= devices)
    return {
        "single": {},
        "data": {"data": -1},
        "fsdp": {"fsdp": -1},
        "fsdp_tensor": {"fsdp": -1, "tensor": near},
        "fsdp_sequence": {"fsdp": -1, "sequence": near},
        "moe": {"fsdp": -1, "expert": near},
    }[name]


def parameters(model: ModelConfig, vocab: int) -> int:
    """Returns the number of parameters.

    V*D (twice with an untied head) + D + layers * (2*D + 2*D*N*H + 2*D*K*H + 3*D*F), a second 2*D with norms in both
    places; with E experts E*(3*D*F + D) in place of 3*D*F; and by flags (N + 2*K)*H, D and 2*F + D biases and 2*H or
    (N + K)*H norm weights a layer.
    """
    dim, queries, keys = model.dim, model.heads * model.head_dim, model.kv_heads * model.head_dim
    feed_forward = 3 * dim * model.ffw
    layer = 2 * dim * (1 + (model.norms == "both")) + 2 * dim * (queries + keys)
    layer += model.experts * (feed_forward + dim) if model.experts else feed_forward
    layer += model.qkv_bias * (queries + 2 * keys) + model.o_bias * dim + model.mlp_bias * (2 * model.ffw + dim)
    layer += {"none": 0, "head": 2 * model.head_dim, "whole": queries + keys}[model.qk_norm]
    return vocab * dim * (1 if model.tied else 2) + dim + model.layers * layer


def fingerprint(run: Run) -> dict[str, bool | int | float | str]:
    """Returns the keys that give the saved state its meaning, flat: a resumed run must have the same.

    `run.steps` is among them only where the learning rate depends on it; the warm-up, adapters and the critic only
    where there are any.
    """
    table = run.model_dump()
    if run.warmup.steps == 0:
        table["warmup"] = {"steps": 0}
    if run.lora.rank == 0:
        table["lora"] = {"rank": 0}
    if run.critic.trunk == "off":
        table["critic"] = {"trunk": "off"}
    return _without_free(run, _flat(table))


def as_now(run: Run, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a fingerprint that an earlier version stored as this one would have, for a comparison with that of `run`.

    A key that is free by now goes. A key that is newer than the fingerprint had its default, as new keys come with
    defaults that change nothing.
    """
    newer = {key: _default(run, key) for key in fingerprint(run).keys() - stored.keys()}
    return _without_free(run, stored) | {key: value for key, value in newer.items() if value is not None}


def _without_free(run: Run, flat: Mapping[str, Any]) -> dict[str, Any]:
    free = {*FREE, "run.steps"} if run.optimizer.schedule == "constant" else {*FREE}
    return {key: value for key, value in flat.items() if not free & set(_prefixes(key))}


def _default(run: Run, key: str) -> Any:
    """Returns the default of a dotted key of the run; None where it has none, or is an entry of the user's own."""
    *way, last = key.split(".")
    section: Any = run
    for name in way:
        section = section.get(name) if isinstance(section, Mapping) else getattr(section, name, None)
    field = type(section).model_fields.get(last) if isinstance(section, BaseModel) else None
    return None if field is None or field.is_required() else field.get_default(call_default_factory=True)


def _prefixes(key: str) -> list[str]:
    """Returns a dotted key and all tables it stands in."""
    parts = key.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


def _flat(value: Any, path: str = "") -> dict[str, bool | int | float | str]:
    """Returns the leaves of nested tables and lists by dotted path; None is left out."""
    if isinstance(value, Mapping | list | tuple):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        below = [_flat(item, f"{path}.{key}" if path else str(key)) for key, item in items]
        return {key: leaf for part in below for key, leaf in part.items()}
    if value is None:
        return {}
    return {path: value if isinstance(value, bool | int | float | str) else str(value)}
