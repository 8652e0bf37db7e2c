"""reasoning-gym's tasks, single or mixed by weight, with scores of 0 or 1. Needs the `gym` extra.

Held-out questions cannot be held out by seed here: item i + 1 of seed 0 is item i of seed 1.
"""

import bisect
import dataclasses
import functools
import hashlib
import importlib.metadata
import itertools
import json
import string
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any, Literal

from jaxrl_tok.errors import ConfigError, DataError, nearest
from jaxrl_tok.tasks.example import Example

OWN_KEYS = ("dataset", "weight", "prompt")


@dataclasses.dataclass(frozen=True)
class _Part:
    """One task of a mixture."""

    label: str
    dataset: str
    prompt: str | None
    items: Any  # reasoning-gym's data set


class Gym:
    """Questions by index out of a mixture of reasoning-gym's data sets.

    `tasks` maps a label to the data set's parameters. Three keys are not parameters: `dataset` (its name,
    unless the label is), `weight` (share in the mixture, 1 unless given) and `prompt`, a template that takes
    the place of the question, such as "{expression}=", filled with the entry's metadata and `question`.

    Item i comes from a part drawn with probability weight / sum of weights. The parts draw from seeds of
    their own, since with equal seeds different data sets start from the same numbers.

    `extract = "answer_tag"` scores what stands in the completion's last `<answer>...</answer>` instead of
    all of it. `size` is the number of indices; a few data sets refuse large ones.

    Raises:
        ConfigError: no such data set or parameter, or a value that it refuses.
        DataError: reasoning-gym is not installed, or a data set's answers cannot be scored from its metadata.
    """

    finite = False

    def __init__(
        self,
        *,
        tasks: dict[str, dict[str, Any]],
        extract: Literal["all", "answer_tag"] = "all",
        seed: int = 0,
        size: int = 1_000_000,
    ):
        if not tasks:
            raise ConfigError("gym: tasks is empty, expected a table for each task")
        if not 1 <= size < 2**31:
            raise ConfigError(f"gym: size = {size}, expected 1 to 2**31 - 1")
        self._extract, self._seed, self._size = extract, seed, size
        self._parts = [_part(label, options, seed, size) for label, options in tasks.items()]
        weights = [_weight(label, options) for label, options in tasks.items()]
        self._shares = [total / sum(weights) for total in itertools.accumulate(weights)]
        version = importlib.metadata.version("reasoning-gym")
        options = json.dumps({"tasks": tasks, "extract": extract, "seed": seed, "size": size}, sort_keys=True)
        self.fingerprint = f"reasoning-gym {version} {options}"
        for part in self._parts:
            _check_scorer(self._example(part, 0), self.where(0))

    def __len__(self) -> int:
        """Returns the number of indices."""
        return self._size

    def __getitem__(self, index: int) -> Example:
        """Returns question number `index`."""
        return self._example(self._part_of(index), index)

    def space(self) -> None:
        """Returns None: reasoning-gym cannot count its questions."""

    def where(self, index: int) -> str:
        """Returns how errors name a question."""
        return f"gym task {self._part_of(index).label!r} question {index}"

    def _part_of(self, index: int) -> _Part:
        share = _hash(f"gym {self._seed} {index}") / 2**64
        return self._parts[min(bisect.bisect(self._shares, share), len(self._parts) - 1)]

    def _example(self, part: _Part, index: int) -> Example:
        entry = part.items[index]
        answer, metadata = entry["answer"], entry["metadata"]
        try:
            text = json.dumps(metadata)
        except TypeError as error:
            where = f"gym task {part.label!r} question {index}"
            raise DataError(f"{where}: its metadata is not JSON: {error}") from None
        prompt = entry["question"]
        if part.prompt is not None:
            prompt = _fill(part.prompt, {**metadata, "question": prompt}, part.label)
        worked = f"<answer>{answer}</answer>" if self._extract == "answer_tag" else str(answer)
        columns = {
            "verifier": "gym",
            "answer": answer,
            "dataset": part.dataset,
            "metadata": text,
            "extract": self._extract,
        }
        return Example(index, prompt, None if answer is None else worked, columns)


def verify(
    completion: str, answer: str | None, *, dataset: str, metadata: str, extract: str = "all", **columns
) -> float:
    """1.0 if reasoning-gym gives the stripped completion its full score, else 0.0.

    Its own scorers also pay for less: the answer among other text, similar words, any valid expression.
    `metadata` is JSON, so that a process of its own can score. Other columns are ignored.
    """
    text = completion
    if extract == "answer_tag":
        _, opened, rest = completion.rpartition("<answer>")
        text, closed, _ = rest.partition("</answer>")
        if not (opened and closed):
            return 0.0
    entry = {"answer": answer, "metadata": json.loads(metadata)}
    return float(_scorer(dataset)(text.strip(), entry) == 1.0)


def extract(completion: str) -> str:
    """Returns what the completion gives as its answer: the last `<answer>`'s content, or all of it."""
    _, opened, rest = completion.rpartition("<answer>")
    return rest.partition("</answer>")[0].strip() if opened else completion.strip()


def reasoning_gym() -> ModuleType:
    """Imports reasoning-gym, which takes about two seconds.

    Raises:
        DataError: it is not installed.
    """
    try:
        with warnings.catch_warnings():
            # Packages that it imports compare literals with `is`, which Python reports when it compiles them.
            warnings.simplefilter("ignore")
            import reasoning_gym  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise DataError(f"gym tasks need {error.name}: run through `tools/run --extra gym ...`") from None
    return reasoning_gym


@functools.cache
def _scorer(dataset: str) -> Callable[[str, dict[str, Any]], float]:
    _config(dataset)
    return reasoning_gym().get_score_answer_fn(dataset)


def _config(dataset: str) -> type:
    reasoning_gym()
    from reasoning_gym.factory import DATASETS  # pyright: ignore[reportMissingImports]

    if dataset not in DATASETS:
        raise ConfigError(f"gym: no data set is named {dataset!r}; {nearest(dataset, DATASETS)}")
    return DATASETS[dataset][1]


def _part(label: str, options: dict[str, Any], seed: int, size: int) -> _Part:
    dataset, prompt = options.get("dataset", label), options.get("prompt")
    for key, value in (("dataset", dataset), ("prompt", prompt)):
        if not isinstance(value, str) and key in options:
            raise ConfigError(f"gym task {label!r}: {key} = {value!r}, expected a string")
    known = [f.name for f in dataclasses.fields(_config(dataset)) if f.name not in ("seed", "size")]
    parameters = {key: value for key, value in options.items() if key not in OWN_KEYS}
    for key in parameters:
        if key not in known:
            hint = nearest(key, [*known, *OWN_KEYS])
            raise ConfigError(f"gym task {label!r}: data set {dataset!r} has no parameter {key!r}; {hint}")
    own_seed = _hash(f"gym {seed} {label}") % 2**31
    try:
        items = reasoning_gym().create_dataset(dataset, seed=own_seed, size=size, **parameters)
    except (AssertionError, TypeError, ValueError) as error:
        raise ConfigError(f"gym task {label!r}: {dataset!r} refuses its parameters: {error}") from None
    return _Part(label, dataset, prompt, items)


def _weight(label: str, options: dict[str, Any]) -> float:
    weight = options.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
        raise ConfigError(f"gym task {label!r}: weight = {weight!r}, expected a positive number")
    return float(weight)


def _fill(template: str, values: dict[str, Any], label: str) -> str:
    try:
        for _, field, _, _ in string.Formatter().parse(template):
            if field is not None and field not in values:
                hint = nearest(field, values)
                raise ConfigError(f"gym task {label!r}: prompt has the field {field!r}; {hint}")
        return template.format_map(values)
    except (KeyError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"gym task {label!r}: prompt = {template!r} is no template: {error}") from None


def _check_scorer(example: Example, where: str) -> None:
    """Refuses a data set whose own answer scores less once its metadata has been through JSON."""
    if example.answer_text is not None and verify(example.answer_text, **example.columns) != 1.0:
        dataset = example.columns["dataset"]
        raise DataError(f"{where}: {dataset!r} cannot be scored from JSON metadata; use another data set")


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
