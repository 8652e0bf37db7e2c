"""Weights of a Hugging Face folder, straight to their places on the mesh, one parameter at a time.

What a process reads are the rows that its own devices hold; on the host there is one parameter at a time, and of the
file at most `_READ_BYTES`.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from jaxrl_tok.config.pretrained import SMOLLM2
from jaxrl_tok.errors import CheckpointError, nearest
from jaxrl_tok.io import safetensors
from jaxrl_tok.models.names import Part, leaves, parts
from jaxrl_tok.models.params import ParamSpec

_READ_BYTES = 64 * 2**20

# What stands before a decoder's names: nothing but "model.", that of a bare model, or of one beside a vision tower.
_ROOTS = ("model.", "", "language_model.model.", "model.language_model.")
# Stored by some programs and no parameters of ours: buffers of old files, and the other half of Gemma 3.
_OTHER = ("rotary_emb.inv_freq", "vision_tower.", "multi_modal_projector.")

Index = tuple[tuple[int, int], ...]  # first and end on each axis


@runtime_checkable
class Source(Protocol):
    """Named tensors, of which rows can be read."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of each tensor, by name."""
        ...

    def where(self, name: str) -> str:
        """Returns how errors name a tensor."""
        ...

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Returns rows `start` to `stop` of a tensor."""
        ...


def load(
    folder: str | Path,
    specs: Mapping[str, Any],
    shardings: Mapping[str, Any],
    dtype: Any,
    *,
    warn: Callable[[str], None] = lambda line: print(f"warning: {line}", file=sys.stderr),
) -> Any:
    """Returns the parameters in `folder` as arrays on the mesh.

    Args:
        folder: has `model.safetensors`, or an index and its shards; or `"smollm2"`, the model of that extra.
        specs: the tree of `ParamSpec` of the built-in decoder.
        shardings: of each parameter.
        dtype: of the arrays; values are rounded to it.
        warn: called with one line that lists the tensors that no parameter is made of.

    Raises:
        CheckpointError: there are no weights that can be read here, a tensor is missing or of another shape or type,
            or a file is cut off. All names and shapes are checked before the first tensor is read.
        ConfigError: `"smollm2"`, and its packages are not installed.
    """
    source = open_source(folder)
    made_of = {path: list(parts(path, spec, specs["layers"])) for path, spec in leaves(specs)}
    names = _names(source, folder, [part for made in made_of.values() for part in made])
    used = set(names.values())
    unused = [name for name in source.shapes if name not in used and not any(x in name for x in _OTHER)]
    if unused:
        more = f" and {len(unused) - 5} more" if len(unused) > 5 else ""
        warn(f"{folder}: nothing uses {', '.join(unused[:5])}{more}")
    arrays = {}
    for path, spec in leaves(specs):
        arrays[path] = _place(source, names, made_of[path], spec, _at(shardings, path), np.dtype(dtype))
    tree: dict[str, Any] = {}
    for path, array in arrays.items():
        inner = tree
        for key in path[:-1]:
            inner = inner.setdefault(key, {})
        inner[path[-1]] = array
    return tree


def open_source(folder: str | Path) -> Source:
    """Returns the tensors of a folder, or of the extra `smollm2`."""
    if str(folder) == SMOLLM2:
        from jaxrl_tok.io.smollm2 import Gguf

        return Gguf()
    return safetensors.Folder(Path(folder))


def _names(source: Source, folder: str | Path, wanted: list[Part]) -> dict[str, str]:
    """Returns the file's own name of each tensor, all of which are there and of the right shape."""
    shapes = source.shapes
    root = next((root for root in _ROOTS if f"{root}embed_tokens.weight" in shapes), "model.")
    outer = "language_model." if root == "language_model.model." else ""
    names = {}
    for part in wanted:
        own = part.name.replace("model.", root, 1) if part.name.startswith("model.") else outer + part.name
        if own not in shapes:
            hint = nearest(own, shapes) if len(shapes) <= 16 or not own.startswith(root) else "it is not in the files"
            raise CheckpointError(f"{folder}: tensor {own} is missing; {hint}")
        if shapes[own] != part.file_shape:
            raise CheckpointError(
                f"{source.where(own)}: shape {list(shapes[own])}, expected {list(part.file_shape)} by config.json"
            )
        names[part.name] = own
    return names


def _place(
    source: Source,
    names: Mapping[str, str],
    made_of: list[Part],
    spec: ParamSpec,
    sharding: Any,
    dtype: np.dtype,
) -> jax.Array:
    """Returns one parameter: every shard of this process's devices is filled from the rows that it needs."""
    indices = {
        device: tuple(s.indices(size)[:2] for s, size in zip(index, spec.shape, strict=True))
        for device, index in sharding.addressable_devices_indices_map(spec.shape).items()
    }
    shards = {index: np.empty([end - first for first, end in index], dtype) for index in indices.values()}
    for part in made_of:
        _fill(shards, source, names[part.name], part)
    last = {index: device for device, index in indices.items()}
    arrays = []
    for device, index in indices.items():
        # The last device of a shard takes it along, so that the host keeps nothing that a device has.
        shard = shards.pop(index) if last[index] is device else shards[index]
        arrays.append(jax.block_until_ready(jax.device_put(shard, device)))
    return jax.make_array_from_single_device_arrays(spec.shape, sharding, arrays)


def _fill(shards: Mapping[Index, np.ndarray], source: Source, name: str, part: Part) -> None:
    """Writes one tensor of the file into all shards that have some of it."""
    takers = []
    for index, shard in shards.items():
        stacked, inside = index[: len(part.at)], index[len(part.at) :]
        if all(first <= i < end for i, (first, end) in zip(part.at, stacked, strict=True)):
            takers.append((inside, shard[tuple(i - first for i, (first, _) in zip(part.at, stacked, strict=True))]))
    if not takers:
        return
    # The file's rows run along the first axis of outputs, then along the others.
    axis, size = part.inputs, part.shape[part.inputs]
    height = part.file_shape[0] // size
    bytes_each = 4 * height * int(np.prod(part.file_shape[1:]))
    low, high = min(inside[axis][0] for inside, _ in takers), max(inside[axis][1] for inside, _ in takers)
    step = max(1, _READ_BYTES // bytes_each)
    for start in range(low, high, step):
        stop = min(start + step, high)
        block = part.from_file(source.rows(name, start * height, stop * height))
        for inside, target in takers:
            first, end = max(inside[axis][0], start), min(inside[axis][1], stop)
            if first >= end:
                continue
            taken = [slice(*bounds) for bounds in inside]
            taken[axis] = slice(first - start, end - start)
            place = [slice(None)] * target.ndim
            place[axis] = slice(first - inside[axis][0], end - inside[axis][0])
            target[tuple(place)] = block[tuple(taken)]


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree
