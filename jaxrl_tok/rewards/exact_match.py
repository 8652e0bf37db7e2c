"""Is the completion, or what follows its last marker, the answer?"""

from collections.abc import Sequence


def exact_match(
    prompts: Sequence, completions: Sequence[str], answer: Sequence, *, after: str | None = None
) -> list[float | None]:
    """1 where the completion is the answer, character for character, 0 where it is not.

        r[i] = 1 if words(completions[i]) == words(answer[i]) else 0

    `words` drops white space at both ends and makes every run of it inside one blank; case and
    punctuation count. The exact-match metric of question answering (SQuAD, Rajpurkar et al. 2016,
    https://arxiv.org/abs/1606.05250) also drops case, punctuation and articles; this one does not,
    because in arithmetic and code they are the answer.

    With `after = "####"` only the text behind its last occurrence is compared, and a completion without
    it scores 0. An answer that is not a string (7 in a JSONL file) is compared as `str` writes it; a
    sample whose answer is missing (None) abstains.
    """
    return [
        None if a is None else float(_words(_tail(c, after)) == _words(str(a)))
        for c, a in zip(completions, answer, strict=True)
    ]


def _tail(completion: str, marker: str | None) -> str | None:
    if marker is None:
        return completion
    return completion.rpartition(marker)[2] if marker in completion else None


def _words(text: str | None) -> list[str] | None:
    return None if text is None else text.split()
