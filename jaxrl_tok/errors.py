"""Every error that a user's input can cause, and the hint that goes with it."""

import difflib
from collections.abc import Iterable


class JaxrlTokError(Exception):
    """Root of the errors that `jaxrl_tok` raises on purpose."""

    exit_code = 2  # of a command that it ends


class ConfigError(JaxrlTokError, ValueError):
    """A run, model or recipe file, or a `--set`, says something that cannot be."""


class DataError(JaxrlTokError, ValueError):
    """A data file, task or tokenizer cannot be used as asked."""


class CheckpointError(JaxrlTokError, OSError):
    """A checkpoint cannot be written, or none can be restored."""


class RewardError(JaxrlTokError, ValueError):
    """A reward function cannot be loaded or breaks its contract for every sample."""


class ShardingError(JaxrlTokError, ValueError):
    """An array cannot be laid out on the mesh as the rules say."""


class NumericsError(JaxrlTokError, ArithmeticError):
    """A loss or gradient is not finite."""

    exit_code = 3


class ProcessError(JaxrlTokError, RuntimeError):
    """Another process of the run is missing, or was lost: nothing is wrong with the run itself."""

    exit_code = 4


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns the end of an error line: the closest known name, or all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
