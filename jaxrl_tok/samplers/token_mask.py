"""A set of token ids as a mask over the vocabulary."""

from collections.abc import Sequence

import numpy as np

from jaxrl_tok.errors import ConfigError


def token_mask(ids: Sequence[int], vocab: int, name: str) -> np.ndarray:
    """Returns bool[V], true for the ids; a constant of the program, so that it costs no scatter at run time.

    Args:
        ids: in any order; one that comes twice counts once.
        vocab: V.
        name: of the parameter, for the error.

    Raises:
        ConfigError: an id is not in 0 .. V - 1.
    """
    for i in ids:
        if not 0 <= i < vocab:
            raise ConfigError(f"{name} = {tuple(ids)!r}: token {i} is not among the ids 0 to {vocab - 1}")
    mask = np.zeros(vocab, bool)
    mask[list(ids)] = True
    return mask
