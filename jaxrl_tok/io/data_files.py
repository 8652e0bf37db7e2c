"""Questions out of JSONL and Parquet files."""

import bisect
import functools
import glob
import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

from jaxrl_tok.errors import DataError, nearest
from jaxrl_tok.io.data_rows import Columns
from jaxrl_tok.tasks.example import Example


class Files:
    """Questions by index: the rows of the files in the order given, each pattern's matches sorted by name.

    `paths` is a path or pattern, or a list of them. `prompt_column` names the question: a string, or chat
    messages. `answer_column` names the worked answer, for training on answers. All other columns reach the
    rewards by name; `columns` keeps only those that it lists.

    Raises:
        DataError: a file is missing, empty or of another kind.
    """

    finite = True

    def __init__(
        self,
        *,
        paths: str | list[str],
        prompt_column: str = "prompt",
        answer_column: str | None = None,
        columns: list[str] | None = None,
    ):
        self._columns = Columns(prompt_column, answer_column, columns)
        found = _expand([paths] if isinstance(paths, str) else paths)
        self._files = [_open(path, self._columns) for path in found]
        self._ends = list(itertools.accumulate(len(file) for file in self._files))
        if not self._ends or not self._ends[-1]:
            raise DataError(f"{', '.join(map(str, found)) or 'data.paths = []'}: no rows")
        digest = hashlib.sha256()
        for path in found:
            digest.update(_digest(path))
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        """Returns the number of rows."""
        return self._ends[-1]

    def __getitem__(self, index: int) -> Example:
        """Returns the example of row `index`."""
        file, row = self._locate(index)
        return self._columns.example(file.row(row), index, file.where(row))

    def space(self) -> None:
        """Returns None: a file's questions are meant to be seen in several epochs."""

    def where(self, index: int) -> str:
        """Returns how errors name a row: its file and line."""
        file, row = self._locate(index)
        return file.where(row)

    def _locate(self, index: int) -> tuple["_Jsonl | _Parquet", int]:
        number = bisect.bisect(self._ends, index)
        return self._files[number], index - (self._ends[number - 1] if number else 0)


class _Jsonl:
    """Keeps the lines and parses them at each access; dictionaries would take ten times as much memory."""

    def __init__(self, path: Path, columns: Columns):
        self._path, self._columns = path, columns
        lines = _read(path).removeprefix(b"\xef\xbb\xbf").split(b"\n")
        self._lines = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]

    def __len__(self) -> int:
        return len(self._lines)

    def row(self, index: int) -> dict[str, Any]:
        line = self._lines[index][1]
        try:
            row = json.loads(line)
        except UnicodeDecodeError:
            raise DataError(f"{self.where(index)}: not UTF-8: {_shown(line)}") from None
        except json.JSONDecodeError as error:
            raise DataError(
                f"{self.where(index)}: not JSON, {error.msg} at column {error.colno}: {_shown(line)}"
            ) from None
        if not isinstance(row, dict):
            raise DataError(f"{self.where(index)}: expected a JSON object, found {_shown(line)}")
        return {key: value for key, value in row.items() if self._columns.keep(key)}

    def where(self, index: int) -> str:
        return f"{self._path}:{self._lines[index][0]}"


class _Parquet:
    """Keeps the columns as Arrow has them, and turns a row into Python values at each access."""

    def __init__(self, path: Path, columns: Columns):
        import pyarrow
        import pyarrow.parquet

        self._path = path
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                kept = [name for name in file.schema_arrow.names if columns.keep(name)]
                self._table = file.read(columns=kept).combine_chunks()
        except (OSError, pyarrow.ArrowException) as error:
            raise DataError(f"{path}: cannot be read as Parquet: {' '.join(str(error).split())}") from None
        for field in self._table.schema:
            if not _is_json(field.type):
                raise DataError(
                    f"{path}: column {field.name!r} is of type {field.type}, which JSON cannot hold; "
                    "cast it, or list the columns to keep in data.columns"
                )

    def __len__(self) -> int:
        return self._table.num_rows

    def row(self, index: int) -> dict[str, Any]:
        return self._table.slice(index, 1).to_pylist()[0]

    def where(self, index: int) -> str:
        return f"{self._path} row {index}"


def _expand(patterns: list[str]) -> list[Path]:
    found: list[Path] = []
    for pattern in patterns:
        if Path(pattern).is_file():
            matches = [pattern]
        else:
            matches = sorted(p for p in glob.glob(pattern, recursive=True) if Path(p).is_file())
        if Path(pattern).is_dir():
            raise DataError(f"{pattern}: is a folder; name its files, as in {pattern.rstrip('/')}/*.jsonl")
        if not matches:
            raise DataError(f"data.paths: {pattern}: no such file{_hint(Path(pattern))}")
        found += map(Path, matches)
    return found


def _hint(path: Path) -> str:
    names = (
        [p.name for p in path.parent.glob("*") if p.suffix in (".jsonl", ".parquet")] if path.parent.is_dir() else []
    )
    return f"; {nearest(path.name, names)}" if names else ""


def _open(path: Path, columns: Columns) -> _Jsonl | _Parquet:
    if path.suffix == ".jsonl":
        return _Jsonl(path, columns)
    if path.suffix == ".parquet":
        return _Parquet(path, columns)
    raise DataError(f"{path}: expected a file that ends in .jsonl or .parquet")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _shown(line: bytes) -> str:
    text = line.decode(errors="backslashreplace").strip()
    return repr(text if len(text) <= 60 else text[:57] + "...")


@functools.cache
def _is_json(kind: Any) -> bool:
    from pyarrow import types

    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _is_json(kind.value_type)
    if types.is_struct(kind):
        return all(_is_json(kind.field(i).type) for i in range(kind.num_fields))
    if types.is_dictionary(kind):
        return _is_json(kind.value_type)
    simple = (
        types.is_null,
        types.is_boolean,
        types.is_integer,
        types.is_floating,
        types.is_string,
        types.is_large_string,
    )
    return any(test(kind) for test in simple)
