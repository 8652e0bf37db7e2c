"""Questions into batches: held out by the hash of their text, shuffled, tokenised, and resumed exactly."""

import dataclasses
import hashlib
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int32

from jaxrl_tok.errors import DataError
from jaxrl_tok.io.data_sources import Source
from jaxrl_tok.io.tokenizer import Tokenizer
from jaxrl_tok.tasks.example import Example, Prompt

# Items of an endless source that are read before a run starts, to find what would stop it later.
FIRST_LOOK = 64
# Questions there must be for each that training draws, so that it cannot learn them by heart.
SPACE_PER_ITEM = 10


@dataclasses.dataclass(frozen=True)
class Batch:
    """P questions, as text and as tokens."""

    ids: Int32[np.ndarray, "P"]  # index in the source
    prompts: list[Prompt]
    answers: list[str | None]  # worked answers
    columns: dict[str, list]  # for rewards; None where a question has no such column
    tokens: Int32[np.ndarray, "P S"]  # padded on the left
    lengths: Int32[np.ndarray, "P"]


def join(batches: Sequence[Batch]) -> Batch:
    """Returns batches as one, in their order; None where a question has no such column."""
    names = dict.fromkeys(name for batch in batches for name in batch.columns)
    parts_of = {name: [batch.columns.get(name, [None] * len(batch.prompts)) for batch in batches] for name in names}
    return Batch(
        ids=np.concatenate([batch.ids for batch in batches]),
        prompts=[prompt for batch in batches for prompt in batch.prompts],
        answers=[answer for batch in batches for answer in batch.answers],
        columns={name: [value for part in parts for value in part] for name, parts in parts_of.items()},
        tokens=np.concatenate([batch.tokens for batch in batches]),
        lengths=np.concatenate([batch.lengths for batch in batches]),
    )


def replaced(batch: Batch, rows: Bool[np.ndarray, " P"], others: Batch) -> Batch:
    """Returns a batch with other questions, in their order, in the rows that are marked."""
    place = np.arange(len(rows))
    place[rows] = len(rows) + np.arange(rows.sum())
    both = join([batch, others])
    return Batch(
        ids=both.ids[place],
        prompts=[both.prompts[i] for i in place],
        answers=[both.answers[i] for i in place],
        columns={name: [values[i] for i in place] for name, values in both.columns.items()},
        tokens=both.tokens[place],
        lengths=both.lengths[place],
    )


@dataclasses.dataclass(frozen=True)
class _Rendered:
    example: Example
    tokens: list[int]


def question(prompt: Prompt) -> str:
    """Returns the text that says whether two prompts ask the same: the user's words.

    Runs of whitespace count as one space, and Unicode is brought to its composed form (NFC). Of a chat, the
    user's messages count (all messages, where none is the user's), so the same question under another system
    prompt is the same question.
    """
    if not isinstance(prompt, str):
        asked = [message for message in prompt if message["role"] == "user"] or prompt
        prompt = "\n".join(message["content"] for message in asked)
    return " ".join(unicodedata.normalize("NFC", prompt).split())


def question_hash(prompt: Prompt) -> float:
    """Returns a number in [0, 1) that depends on the question's text alone: its SHA-256's first 53 bits."""
    digest = hashlib.sha256(question(prompt).encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


class Data:
    """A source split by question: what training draws, and what only evaluation sees.

    A question is held out exactly if `question_hash` falls below `heldout_fraction`. Neither seeds nor
    positions enter, so duplicates fall on one side, and the split is that of every run on the same questions.

    A source whose items are its questions is read through once at the start, so that no bad row stops a run
    later; of an endless one, the first items are.

    Args:
        source: where the questions come from.
        tokenizer: what they are written with.
        max_prompt: most tokens of a prompt (S).
        heldout_fraction: share of all possible questions that is held out; 0 holds out none.
        overlong: whether a longer prompt raises, or is left out of training and evaluation.

    Raises:
        DataError: a row is wrong, a prompt too long, or nothing is left to train on.
    """

    def __init__(
        self,
        source: Source,
        tokenizer: Tokenizer,
        *,
        max_prompt: int,
        heldout_fraction: float = 0.1,
        overlong: Literal["error", "drop"] = "error",
    ):
        self.source, self.tokenizer = source, tokenizer
        self.max_prompt, self.heldout_fraction, self.overlong = max_prompt, heldout_fraction, overlong
        self.dropped = 0
        """Overlong prompts among the items that were read at the start."""
        self.columns: dict[str, None] = {}
        """Names of the columns for rewards that these items have, in the order of their first appearance."""
        self._heldout: dict[float, int] = {}  # index by hash, for a finite source
        self._look()

    @property
    def num_prompts(self) -> int | None:
        """How many different ids there are: the source's items, None for an endless one."""
        return len(self.source) if self.source.finite else None

    def is_heldout(self, example: Example) -> bool:
        """Whether only evaluation may see this question."""
        return question_hash(example.prompt) < self.heldout_fraction

    def heldout(self, count: int) -> list[Example]:
        """Returns `count` different held-out questions, the same on every call and in every run.

        Raises:
            DataError: there are not so many.
        """
        # By hash: rows of a file may be in an order that matters, such as from easy to hard.
        finite = self.source.finite
        found = [i for _, i in sorted(self._heldout.items())] if finite else self._draw_heldout(count)
        if len(found) < count:
            raise DataError(
                f"{len(found)} held-out questions found, {count} asked for: raise data.heldout_fraction "
                f"(now {self.heldout_fraction:g}), or ask for fewer"
            )
        return [self.source[i] for i in found[:count]]

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Returns examples as one batch, in their order."""
        return self._batch([_Rendered(example, self._render(example)) for example in examples])

    def batches(
        self,
        batch_size: int,
        *,
        seed: int,
        shuffle: bool = True,
        items: int | None = None,
        prefetch: int = 2,
        shard: tuple[int, int] = (0, 1),
    ) -> "Batches":
        """Returns the endless batches of training, epoch after epoch, each epoch in an order of its own.

        Args:
            batch_size: questions a batch (P).
            seed: of the order.
            shuffle: whether to shuffle at all.
            items: questions that the run will draw, to be refused if an endless source has fewer than ten
                times as many; None = not checked.
            prefetch: batches made ahead, by one thread.
            shard: (index, count) of this process; process k gets every count-th item from k on.

        Raises:
            DataError: the source has too few different questions.
        """
        space = None if self.source.finite or items is None else self.source.space()
        if space is not None and items is not None and items * SPACE_PER_ITEM > space:
            raise DataError(
                f"{self.source.fingerprint} has {space} questions; training draws {items}, and at least "
                f"{SPACE_PER_ITEM} times as many are needed: allow more or larger terms, or train for less"
            )
        return Batches(self, batch_size, seed=seed, shuffle=shuffle, prefetch=prefetch, shard=shard)

    def _look(self) -> None:
        """Reads what can be read before a run, and notes the held-out questions of a finite source."""
        training = False
        looked = len(self.source) if self.source.finite else min(FIRST_LOOK, len(self.source))
        for i in range(looked):
            example = self.source[i]
            self.columns |= dict.fromkeys(example.columns)
            tokens = self._render(example)
            if example.answer_text is not None:
                self._encode_answer(example)
            if not self._fits(_Rendered(example, tokens)):
                self.dropped += 1
            elif not self.is_heldout(example):
                training = True
            elif self.source.finite:
                self._heldout.setdefault(question_hash(example.prompt), i)
        if not training and (self.source.finite or self.dropped == looked):
            raise DataError(
                f"no question is left to train on: {self.dropped} of {looked} prompts are longer than "
                f"{self.max_prompt} tokens, and {self.heldout_fraction:.0%} of questions are held out"
            )

    def _draw_heldout(self, count: int) -> list[int]:
        # Ten times what is needed while questions do not repeat; then there are hardly any others.
        limit = int(10 * count / self.heldout_fraction) if self.heldout_fraction else 0
        found: dict[float, int] = {}
        for i in range(min(limit, len(self.source))):
            if len(found) == count:
                break
            example = self.source[i]
            if self.is_heldout(example) and self._fits(_Rendered(example, self._render(example))):
                found.setdefault(question_hash(example.prompt), i)
        return list(found.values())

    def _render(self, example: Example) -> list[int]:
        try:
            tokens = self.tokenizer.render(example.prompt)
        except DataError as error:
            raise DataError(f"{self.source.where(example.id)}: {error}") from None
        if not tokens:
            raise DataError(f"{self.source.where(example.id)}: the prompt has no tokens")
        return tokens

    def _encode_answer(self, example: Example) -> None:
        try:
            self.tokenizer.encode(example.answer_text or "")
        except DataError as error:
            raise DataError(f"{self.source.where(example.id)}: worked answer: {error}") from None

    def _fits(self, rendered: _Rendered) -> bool:
        length = len(rendered.tokens)
        if length > self.max_prompt and self.overlong == "error":
            raise DataError(
                f"{self.source.where(rendered.example.id)}: the prompt has {length} tokens, more than "
                f"rollout.max_prompt = {self.max_prompt}; raise it, or set data.overlong = 'drop'"
            )
        return length <= self.max_prompt

    def _batch(self, rendered: Sequence[_Rendered]) -> Batch:
        examples = [r.example for r in rendered]
        tokens = np.full((len(rendered), self.max_prompt), self.tokenizer.pad_id, np.int32)
        for row, r in zip(tokens, rendered, strict=True):
            self._fits(r)
            row[self.max_prompt - len(r.tokens) :] = r.tokens
        names = self.columns | dict.fromkeys(name for example in examples for name in example.columns)
        return Batch(
            ids=np.array([example.id for example in examples], np.int32),
            prompts=[example.prompt for example in examples],
            answers=[example.answer_text for example in examples],
            columns={name: [example.columns.get(name) for example in examples] for name in names},
            tokens=tokens,
            lengths=np.array([len(r.tokens) for r in rendered], np.int32),
        )


class Batches(Iterator[Batch]):
    """Endless training batches out of a grain pipeline, whose position can be saved and restored.

    The position counts items, not batches, so batches of another size can go on from it.
    """

    def __init__(self, data: Data, batch_size: int, *, seed: int, shuffle: bool, prefetch: int, shard: tuple[int, int]):
        # It imports jax, which nothing else here needs.
        import grain

        items = grain.MapDataset.source(data.source)
        if shuffle:
            items = items.shuffle(seed=_shuffle_seed(seed))
        index, count = shard
        items = items.repeat()
        if count > 1:
            items = items[index::count]
        rendered = (
            items.filter(lambda example: not data.is_heldout(example))
            .map(lambda example: _Rendered(example, data._render(example)))
            .filter(data._fits)
        )
        # One thread: order and memory stay plain, and a task's own code need not be safe in several.
        options = grain.ReadOptions(num_threads=min(prefetch, 1), prefetch_buffer_size=prefetch * batch_size)
        self._iterator = iter(
            rendered.to_iter_dataset(options).batch(batch_size, drop_remainder=True, batch_fn=data._batch)
        )
        self._made_of = {
            "source": data.source.fingerprint,
            "heldout_fraction": data.heldout_fraction,
            "seed": seed,
            "shuffle": shuffle,
            "shard": list(shard),
        }

    def __next__(self) -> Batch:
        """Returns the next batch."""
        return next(self._iterator)

    def state(self) -> dict[str, Any]:
        """Returns, as JSON values, the position of the batch that comes next."""
        return {**self._made_of, "position": self._iterator.get_state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes to a position that `state` gave.

        Raises:
            DataError: the data has changed since, so that the position means something else.
        """
        for key, now in self._made_of.items():
            then = state.get(key)
            if then != now:
                raise DataError(f"the data has changed since its position was saved: {key} was {then}, is {now}")
        self._iterator.set_state(state["position"])

    def close(self) -> None:
        """Ends the thread that makes batches ahead."""
        self._iterator.close()


def _shuffle_seed(seed: int) -> int:
    """Spreads seeds out: grain shuffles epoch e of seed s as epoch e - 1 of seed s + 1."""
    return int.from_bytes(hashlib.sha256(f"shuffle {seed}".encode()).digest()[:4], "little")
