"""Questions out of a prepared TensorFlow Datasets builder, read without TensorFlow."""

from pathlib import Path
from typing import Any

import numpy as np

from jaxrl_tok.errors import DataError, nearest
from jaxrl_tok.io.data_rows import Columns
from jaxrl_tok.tasks.example import Example


class Tfds:
    """Questions by index: one split of a builder that lies prepared on disk. Nothing is downloaded.

    `name` is the builder's, with its configuration and version where it has several (`gsm8k/main:1.0.0`).
    `data_dir` is the folder that holds it, TFDS' own default unless given. `split` may be a part, such as
    "train[:80%]". The files must allow random access (`file_format="array_record"` when it was prepared).
    `prompt_column`, `answer_column` and `columns` are as for files.

    Raises:
        DataError: the builder, the split or a column cannot be found or read.
    """

    finite = True

    def __init__(
        self,
        *,
        name: str,
        split: str = "train",
        data_dir: str | None = None,
        prompt_column: str = "prompt",
        answer_column: str | None = None,
        columns: list[str] | None = None,
    ):
        self._name, self._split = name, split
        self._columns = Columns(prompt_column, answer_column, columns)
        builder = _builder(name, data_dir)
        known = list(builder.info.splits)
        if split.partition("[")[0] not in known:
            raise DataError(f"tfds {name}: no split {split!r}; {nearest(split, known)}")
        try:
            self._rows = builder.as_data_source(split=split)
        except NotImplementedError:
            raise DataError(
                f"tfds {name}: prepared in {builder.info.file_format.value!r}, which has no random access; "
                "prepare it again with file_format='array_record'"
            ) from None
        except ValueError as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"tfds {name}: cannot read split {split!r}: {reason}") from None
        size = builder.info.dataset_size
        self.fingerprint = f"{builder.info.full_name} {split} {len(self._rows)} rows of {int(size)} bytes"

    def __len__(self) -> int:
        """Returns the number of rows of the split."""
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        """Returns the example of row `index`."""
        where = self.where(index)
        row = {
            key: _json(value, f"{where}: {key!r}")
            for key, value in self._rows[index].items()
            if self._columns.keep(key)
        }
        if self._columns.prompt in row:
            row[self._columns.prompt] = _messages(row[self._columns.prompt])
        return self._columns.example(row, index, where)

    def space(self) -> None:
        """Returns None: a builder's questions are meant to be seen in several epochs."""

    def where(self, index: int) -> str:
        """Returns how errors name a row."""
        return f"tfds {self._name} split {self._split!r} row {index}"


def _builder(name: str, data_dir: str | None) -> Any:
    from tensorflow_datasets.core import DatasetNotFoundError, constants, read_only_builder

    try:
        # Reads the metadata beside the files; `tfds.builder` would run the data set's own code, which may
        # want TensorFlow and the network.
        return read_only_builder.builder_from_files(name, data_dir=data_dir)
    except DatasetNotFoundError:
        folder = Path(data_dir or constants.DATA_DIR).expanduser()
        there = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
        hint = nearest(name, there) if there else "nothing is prepared there"
        raise DataError(f"tfds {name}: no prepared builder of this name in {folder}; {hint}") from None


def _json(value: Any, where: str) -> Any:
    """Turns NumPy values into JSON ones; bytes are text."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise DataError(f"{where} is not UTF-8 text; list the columns to keep in data.columns") from None
    if isinstance(value, np.ndarray):
        return [_json(v, where) for v in value.tolist()]
    if isinstance(value, np.generic):
        return _json(value.item(), where)
    if isinstance(value, dict):
        return {key: _json(v, where) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_json(v, where) for v in value]
    return value


def _messages(prompt: Any) -> Any:
    """Turns TFDS' object of lists, which is how it stores a sequence of messages, into a list of objects."""
    if isinstance(prompt, dict) and prompt and all(isinstance(v, list) for v in prompt.values()):
        return [dict(zip(prompt, values, strict=True)) for values in zip(*prompt.values(), strict=True)]
    return prompt
