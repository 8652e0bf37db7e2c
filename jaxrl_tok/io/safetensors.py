"""Weight files of the safetensors format, read in runs of rows and written one tensor at a time.

    8 bytes    length of the header, little endian
    header     JSON: name -> {"dtype", "shape", "data_offsets": [first, end]}, offsets counted from its own end
    data

The format's own library maps whole files into memory, where every page that was read counts as the process's own,
and its NumPy side writes a file from arrays that are all in memory at once. A model does not fit twice.
"""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from jaxrl_tok.errors import CheckpointError
from jaxrl_tok.io.files import replace_atomically, reported, why

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
_LONGEST_HEADER = 100_000_000  # bytes; the format's own limit
SHARD_BYTES = 5_000_000_000


class Entry(NamedTuple):
    """Where a tensor is."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int  # byte in the file


class Tensor(NamedTuple):
    """What is to be written under a name."""

    name: str
    shape: tuple[int, ...]


class Folder:
    """The tensors of a model's folder: one file, or shards and their index.

    Raises:
        CheckpointError: there are no such files, or one of them is damaged.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._entries: dict[str, Entry] = {}
        if (folder / INDEX).is_file():
            named = _weight_map(folder / INDEX)
            for file in dict.fromkeys(named.values()):
                if not (folder / file).is_file():
                    raise CheckpointError(f"{folder / file}: no such file, and {INDEX} names it: a shard is missing")
                self._entries |= {name: e for name, e in read_header(folder / file).items() if named.get(name) == file}
            lost = [name for name in named if name not in self._entries]
            if lost:
                raise CheckpointError(f"{folder / named[lost[0]]}: tensor {lost[0]} is not in it, and {INDEX} says so")
        elif (folder / SINGLE).is_file():
            self._entries = read_header(folder / SINGLE)
        else:
            raise CheckpointError(_no_weights(folder))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor, by name."""
        return {name: entry.shape for name, entry in self._entries.items()}

    def where(self, name: str) -> str:
        """Returns how errors name a tensor."""
        entry = self._entries.get(name)
        return f"{self.folder if entry is None else entry.file}: tensor {name}"

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Returns rows `start` to `stop` of a tensor, in the type of the file.

        Raises:
            CheckpointError: it is not of a floating-point type, or the file cannot be read.
        """
        entry = self._entries[name]
        dtype = DTYPES.get(entry.dtype)
        if dtype is None:
            raise CheckpointError(f"{self.where(name)}: type {entry.dtype}, expected one of {', '.join(DTYPES)}")
        row = math.prod(entry.shape[1:]) * dtype.itemsize
        try:
            found = np.fromfile(entry.file, np.uint8, (stop - start) * row, offset=entry.start + start * row)
        except OSError as error:
            raise CheckpointError(f"{self.where(name)}: cannot read: {why(error)}") from error
        if found.size != (stop - start) * row:
            raise CheckpointError(f"{self.where(name)}: the file ends within it: it is truncated")
        return found.view(dtype).reshape(stop - start, *entry.shape[1:])


def read_header(file: Path) -> dict[str, Entry]:
    """Returns the tensors of one file.

    Raises:
        CheckpointError: it is no such file, or is shorter than its header says.
    """
    try:
        with file.open("rb") as opened:
            size = os.fstat(opened.fileno()).st_size
            length = int.from_bytes(opened.read(8), "little")
            text = opened.read(min(length, _LONGEST_HEADER))
    except OSError as error:
        raise CheckpointError(f"{file}: cannot read: {why(error)}") from error
    if len(text) < length or size < 8:
        raise CheckpointError(f"{file}: no safetensors file, or truncated within its header")
    try:
        header = {name: said for name, said in json.loads(text).items() if name != "__metadata__"}
        data = {name: [8 + length + byte for byte in said["data_offsets"]] for name, said in header.items()}
        entries = {
            name: Entry(file, said["dtype"], tuple(said["shape"]), data[name][0]) for name, said in header.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError, IndexError):
        raise CheckpointError(f"{file}: no safetensors file: its header is not the JSON that it should be") from None
    last = max(data, key=lambda name: data[name][1], default=None)
    if last is not None and size < data[last][1]:
        end = data[last][1]
        raise CheckpointError(f"{file}: truncated: {size} bytes, and {end} by its header; tensor {last} is cut off")
    return entries


def write(folder: Path, tensors: Iterable[tuple[Tensor, Any]], dtype: np.dtype, shard_bytes: int = SHARD_BYTES) -> None:
    """Writes tensors, one at a time, as one file, or as shards of at most `shard_bytes` and their index.

    Args:
        folder: has to exist.
        tensors: what each is called and its shape, with a function that gives its values when its turn comes.
        dtype: of all of them in the files.
        shard_bytes: a tensor that is larger has a file of its own.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    shards: list[list[tuple[Tensor, Any]]] = [[]]
    filled = total = 0
    for tensor, values in tensors:
        size = math.prod(tensor.shape) * dtype.itemsize
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append((tensor, values))
        filled, total = filled + size, total + size
    count = len(shards)
    files = [SINGLE] if count == 1 else [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    for file, shard in zip(files, shards, strict=True):
        write_file(folder / file, shard, dtype)
    if count > 1:
        named = {tensor.name: file for file, shard in zip(files, shards, strict=True) for tensor, _ in shard}
        index = json.dumps({"metadata": {"total_size": total}, "weight_map": named}, indent=2)
        with reported(folder / INDEX):
            replace_atomically(folder / INDEX, lambda opened: opened.write(index.encode()))


def write_file(path: Path, tensors: list[tuple[Tensor, Any]], dtype: np.dtype) -> None:
    """Writes tensors, one at a time, as one file; see `write`.

    Raises:
        CheckpointError: it cannot be written.
    """
    with reported(path):
        replace_atomically(path, lambda opened: opened.writelines(_bytes(tensors, dtype)))


def _bytes(shard: list[tuple[Tensor, Any]], dtype: np.dtype) -> Iterator[bytes | memoryview]:
    kind = next(name for name, known in DTYPES.items() if known == dtype)
    # transformers refuses a file that does not say which framework its tensors are for.
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor, _ in shard:
        start, end = end, end + math.prod(tensor.shape) * dtype.itemsize
        header[tensor.name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little")
    yield text
    for tensor, values in shard:
        array = np.ascontiguousarray(values(), dtype)
        assert array.shape == tensor.shape, tensor
        yield array.reshape(-1).view(np.uint8).data


def _weight_map(path: Path) -> Mapping[str, str]:
    try:
        named = json.loads(path.read_bytes())["weight_map"]
    except OSError as error:
        raise CheckpointError(f"{path}: cannot read: {why(error)}") from error
    except (ValueError, KeyError, TypeError):
        named = None
    if not isinstance(named, dict) or not all(isinstance(x, str) and Path(x).name == x for x in named.values()):
        raise CheckpointError(f"{path}: expected a JSON object whose weight_map has a file's name for each tensor")
    return named


def _no_weights(folder: Path) -> str:
    pickles = sorted(file.name for file in folder.glob("*") if file.suffix in (".bin", ".pt", ".pth", ".ckpt"))
    if pickles:
        return (
            f"{folder / pickles[0]}: a pickle, which may run any code when it is read, so it is not read here; "
            "save the model as safetensors once, where transformers and torch are: "
            "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(OUT)"
        )
    return f"{folder}: expected {SINGLE}, or {INDEX} and its shards"
