"""The score that a sample's own task gives."""

from collections.abc import Sequence
from typing import Any

from jaxrl_tok.errors import RewardError, nearest


def verifier(
    prompts: Sequence,
    completions: Sequence[str],
    verifier: Sequence[str | None],
    answer: Sequence,
    **metadata: Sequence,
) -> list[float | None]:
    """What the task's exact verifier says of each completion, usually 1 or 0.

        r[i] = VERIFIERS[verifier[i]](completions[i], answer[i], **metadata[i])

    `verifier` names a task of `jaxrl_tok.tasks`, so that one reward serves a mixture of tasks. The other
    columns go to the task by name; where one is None for a sample (mixed data has such gaps) it is left
    out. A sample whose `verifier` is None abstains.

    Raises:
        RewardError: no task has the name.
    """
    return [
        None if name is None else _verify(name, completion, gold, {k: v[i] for k, v in metadata.items()})
        for i, (completion, name, gold) in enumerate(zip(completions, verifier, answer, strict=True))
    ]


def _verify(name: str, completion: str, answer: Any, metadata: dict[str, Any]) -> float:
    from jaxrl_tok.tasks import VERIFIERS  # with NumPy, which doubles the start of workers that do not verify

    if name not in VERIFIERS:
        raise RewardError(f"no task has a verifier named {name!r}; {nearest(name, VERIFIERS)}")
    return VERIFIERS[name](completion, answer, **{k: v for k, v in metadata.items() if v is not None})
