"""Worked answers as completions to imitate."""

import numpy as np

from jaxrl_tok.errors import DataError
from jaxrl_tok.io.data import Batch
from jaxrl_tok.io.tokenizer import Tokenizer


def answer_arrays(batch: Batch, tokenizer: Tokenizer, max_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the answers and their end tokens as `tokens i32[P, 1, T]` and `mask bool[P, 1, T]`.

    Raises:
      DataError: a question has no worked answer, or one longer than `max_tokens`.
    """
    tokens = np.full((len(batch.prompts), 1, max_tokens), tokenizer.pad_id, np.int32)
    mask = np.zeros(tokens.shape, bool)
    for row, (prompt, answer) in enumerate(zip(batch.prompts, batch.answers, strict=True)):
        if answer is None:
            raise DataError(f"training on answers: the question {prompt!r:.80} has no worked answer")
        ids = [*tokenizer.encode(answer), tokenizer.eos_ids[0]]
        if len(ids) > max_tokens:
            raise DataError(
                f"training on answers: the answer to {prompt!r:.80} has {len(ids)} tokens with its end token, "
                f"more than rollout.max_tokens = {max_tokens}"
            )
        tokens[row, 0, : len(ids)] = ids
        mask[row, 0, : len(ids)] = True
    return tokens, mask
