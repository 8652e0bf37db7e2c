"""Writing files so that a kill or a power cut leaves the old content or the new one, never half of it."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from jaxrl_tok.errors import CheckpointError


def sync_folder(folder: Path) -> None:
    """Makes the names in `folder` durable: creations, renames and deletions."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Gives `path` the content that `write` writes, at one moment and durably.

    The content goes to a hidden file beside `path` first, so both must fit on the disk together.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


@contextlib.contextmanager
def reported(path: Path) -> Iterator[None]:
    """Turns what the system says of a failed write to `path` into CheckpointError."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{path}: cannot write: {why(error)}") from error


def why(error: BaseException) -> str:
    """Returns the reason of a failed read or write in a few words, on one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split()) or type(error).__name__
    # TensorStore gives a long chain of contexts, with the system's reason as a number at its end.
    if code := re.search(r"os_error_code='(\d+)'", text):
        return os.strerror(int(code[1]))
    return text if len(text) <= 200 else f"{text[:200]}..."
