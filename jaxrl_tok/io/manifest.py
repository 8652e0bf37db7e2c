"""The seal of a finished checkpoint: a list of SHA-256 digests, in the format of `sha256sum`.

Orbax restores a flipped bit without a word, so the digests are written after its commit and compared before
each restore. A folder without the list was not finished. `sha256sum -c SHA256SUMS` compares them too.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from jaxrl_tok.io.files import replace_atomically, sync_folder, why

NAME = "SHA256SUMS"


def seal(folder: Path) -> None:
    """Makes every file under `folder` durable and writes the digests of all of them, atomically."""
    lines = [f"{_digest(folder / name, sync=True)}  {name}\n" for name in _files(folder)]
    for parent in {(folder / line[66:-1]).parent for line in lines}:
        sync_folder(parent)
    replace_atomically(folder / NAME, lambda file: file.write("".join(lines).encode()))


def is_sealed(folder: Path) -> bool:
    """Tells whether the writing of `folder` was finished, not whether it is intact since."""
    return (folder / NAME).is_file()


def break_seal(folder: Path) -> None:
    """Marks `folder` as unfinished, so that a deletion that is cut short leaves nothing that looks whole."""
    (folder / NAME).unlink(missing_ok=True)
    sync_folder(folder)


def damage(folder: Path) -> str | None:
    """Returns what differs between `folder` and its seal, in one line, or None if it is as it was sealed.

    A change of the list itself is damage too: each of its lines stands for a file, and each file for a line.
    Hidden files are left out: file managers and network file systems put them anywhere.
    """
    try:
        return _difference(folder)
    except (OSError, UnicodeDecodeError) as error:
        return f"it cannot be read: {why(error)}"


def _difference(folder: Path) -> str | None:
    *lines, end = (folder / NAME).read_bytes().decode().split("\n")
    if end or not all(line[64:66] == "  " for line in lines):
        return f"{NAME} is damaged"
    sealed = {line[66:]: line[:64] for line in lines}
    there = set(_files(folder))
    if missing := sorted(sealed.keys() - there):
        return f"{missing[0]} is missing"
    if unlisted := sorted(there - sealed.keys()):
        return f"{unlisted[0]} is not in {NAME}"
    for name, digest in sealed.items():
        if _digest(folder / name) != digest:
            return f"{name} differs from its SHA-256 in {NAME}"
    return None


def _files(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and name.as_posix() != NAME and not any(part.startswith(".") for part in name.parts):
            yield name.as_posix()


def _digest(path: Path, *, sync: bool = False) -> str:
    with path.open("rb") as file:
        if sync:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()
