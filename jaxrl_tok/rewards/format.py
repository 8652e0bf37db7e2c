"""Is the completion written in the form that was asked for?"""

import re
from collections.abc import Sequence

_BODY = r"(?:(?!</?(?:think|answer)>).)*"
THINK_ANSWER = rf"\s*<think>{_BODY}</think>\s*<answer>{_BODY}</answer>\s*"


def format(
    prompts: Sequence, completions: Sequence[str], pattern: Sequence[str | None] | None = None
) -> list[float | None]:
    r"""1 where the whole completion matches a regular expression, 0 where it does not.

        r[i] = 1 if fullmatch(pattern[i], completions[i]) else 0        (`.` also matches a line end)

    Format reward of DeepSeek-R1, https://arxiv.org/abs/2501.12948. Without a pattern the form is
    `<think>...</think> <answer>...</answer>`, each of the four tags once and in this order; the
    expression in common use, `^<think>.*?</think>\s*<answer>.*?</answer>$`, lets tags repeat.

    `pattern` comes from the data, one per sample, or from the run file, one for all; a sample whose
    pattern is None abstains. A pattern that takes exponential time runs into the pool's timeout.
    """
    patterns = [THINK_ANSWER] * len(completions) if pattern is None else pattern
    return [
        None if p is None else float(re.fullmatch(p, c, re.DOTALL) is not None)
        for c, p in zip(completions, patterns, strict=True)
    ]
