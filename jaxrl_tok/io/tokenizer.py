"""Text to tokens and back: one token a character, or any local transformers tokenizer folder."""

import abc
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

import tokenizers

from jaxrl_tok.errors import DataError
from jaxrl_tok.tasks.example import Prompt

PAD, EOS = "<pad>", "<eos>"


@runtime_checkable
class Vocabulary(Protocol):
    """What the compiled programs need of a tokenizer; attributes as in `Tokenizer`."""

    @property
    def size(self) -> int:
        """Number of ids."""
        ...

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Tokens that end a completion."""
        ...


class Tokenizer(abc.ABC):
    """What the rest of the package needs of a tokenizer.

    Attributes:
        eos_ids: tokens that end a completion, the tokenizer's own first.
        pad_id: fills what is not text; may be one of `eos_ids`.
        size: number of ids, special tokens included. A model's vocabulary may be larger.
    """

    eos_ids: tuple[int, ...]
    pad_id: int
    size: int

    @abc.abstractmethod
    def encode(self, text: str) -> list[int]:
        """Returns the tokens of a text and nothing around them.

        Raises:
            DataError: a character cannot be written with this tokenizer.
        """

    @abc.abstractmethod
    def decode(self, ids: list[int]) -> str:
        """Returns the text of some tokens, without special ones."""

    @abc.abstractmethod
    def render(self, prompt: Prompt) -> list[int]:
        """Returns the tokens of a prompt, up to where the completion starts.

        Chat messages go through the chat template, which opens the assistant's turn. A string is encoded as
        it is, after the tokens that the tokenizer puts before every text (a BOS, where it has one).

        Raises:
            DataError: there is no chat template, it refuses the messages, or a character cannot be written.
        """

    @abc.abstractmethod
    def save(self, folder: str | Path) -> None:
        """Writes a transformers tokenizer folder, which `load` and `AutoTokenizer` read."""

    def backend(self) -> tokenizers.Tokenizer | None:
        """Returns the tokenizer of the library `tokenizers` that does the work, None where there is none."""
        return None


def characters(alphabet: str) -> Tokenizer:
    """Returns a tokenizer with one token for each character: pad 0, end 1, then the alphabet in its order.

    Raises:
        DataError: the alphabet is empty or has a character twice.
    """
    return _Characters(alphabet)


def load(folder: str | Path) -> Tokenizer:
    """Reads a local transformers tokenizer folder with its chat template.

    Runs no code from it and downloads nothing. End tokens are the tokenizer's own and those of a
    `generation_config.json` beside it. Padding falls back to the end token where the folder names none.

    Raises:
        DataError: the folder is missing, is no tokenizer, or has no end token.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"tokenizer: no folder {folder}")
    if not any(folder.glob("tokenizer*")):
        raise DataError(f"tokenizer: {folder} holds no tokenizer.json or other tokenizer* file")
    try:
        # Unless it is told not to, it asks on the terminal whether to run code out of the folder.
        wrapped: Any = _transformers().AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise DataError(f"tokenizer: cannot load {folder}: {' '.join(str(error).split())}") from None
    return _Wrapped(wrapped, f"folder {folder}", _end_ids(wrapped, folder))


def wrap(fast: tokenizers.Tokenizer, name: str, **settings: Any) -> Tokenizer:
    """Returns a tokenizer of the library `tokenizers` with what transformers adds to one.

    Args:
        fast: the tokenizer.
        name: how errors call it.
        settings: those of `PreTrainedTokenizerFast`: `eos_token`, which it has to have, `pad_token`, `chat_template`.
    """
    wrapped: Any = _transformers().PreTrainedTokenizerFast(
        tokenizer_object=fast, padding_side="left", clean_up_tokenization_spaces=False, **settings
    )
    return _Wrapped(wrapped, name, (wrapped.eos_token_id,))


def token_bytes(tokenizer: Tokenizer) -> list[bytes]:
    """Returns what each id adds to a text, as UTF-8: the bytes of some ids, joined, are their `decode`, encoded.

    Byte-level BPE, metaspaces with and without a fallback to bytes, and characters are known; a token may end within
    a character. Special tokens and ids that name no token have no bytes, as in `decode`. One difference: a tokenizer
    that puts a space before every text drops it again in `decode`, from the start of whatever it is given, while here
    it is a part of its token.

    Raises:
        DataError: the tokenizer is not one of the library `tokenizers`, or its decoder is one of those for which a
            token's text depends on its neighbours.
    """
    fast = tokenizer.backend()
    if fast is None:
        raise DataError("tokenizer: only those of the library `tokenizers` say which bytes a token stands for")
    read = _piece_reader(fast.decoder)
    special = {i for i, token in fast.get_added_tokens_decoder().items() if token.special}
    vocab = fast.get_vocab(with_added_tokens=True)
    pieces = [b""] * max(tokenizer.size, 1 + max(vocab.values()))  # ids may have gaps
    for piece, i in vocab.items():
        if i not in special:
            pieces[i] = read(piece)
    return pieces


class _Characters(Tokenizer):
    def __init__(self, alphabet: str):
        if not alphabet:
            raise DataError("tokenizer: the alphabet is empty")
        twice = next((c for i, c in enumerate(alphabet) if c in alphabet[:i]), None)
        if twice is not None:
            raise DataError(f"tokenizer: the alphabet has {twice!r} twice")
        self._alphabet = frozenset(alphabet)
        self._fast = _character_tokenizer(alphabet)
        self.pad_id, self.eos_ids, self.size = 0, (1,), 2 + len(alphabet)

    def encode(self, text: str) -> list[int]:
        _check_alphabet(text, self._alphabet)
        return self._fast.encode(text, add_special_tokens=False).ids

    def decode(self, ids: list[int]) -> str:
        return self._fast.decode(ids, skip_special_tokens=True)

    def render(self, prompt: Prompt) -> list[int]:
        if not isinstance(prompt, str):
            raise DataError("the character tokenizer has no chat template: give prompts as strings")
        return self.encode(prompt)

    def save(self, folder: str | Path) -> None:
        wrapped = _transformers().PreTrainedTokenizerFast(
            tokenizer_object=self._fast,
            pad_token=PAD,
            eos_token=EOS,
            padding_side="left",
            split_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )
        wrapped.save_pretrained(folder)

    def backend(self) -> tokenizers.Tokenizer | None:
        return self._fast


class _Wrapped(Tokenizer):
    """A tokenizer of transformers; `name` is how errors call it."""

    def __init__(self, wrapped: Any, name: str, eos_ids: tuple[int, ...]):
        self._wrapped, self._name, self.eos_ids = wrapped, name, eos_ids
        pad_id = wrapped.pad_token_id
        self.pad_id = eos_ids[0] if pad_id is None else pad_id
        self.size = len(wrapped)
        self._alphabet = _closed_alphabet(wrapped)
        self._prefix = self._before_text()

    def encode(self, text: str) -> list[int]:
        if self._alphabet is not None:
            _check_alphabet(text, self._alphabet)
        return list(self._wrapped.encode(text, add_special_tokens=False))

    def decode(self, ids: list[int]) -> str:
        return self._wrapped.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def render(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            return self._prefix + self.encode(prompt)
        if not self._wrapped.chat_template:
            raise DataError(f"tokenizer {self._name} has no chat template: give prompts as strings")
        from jinja2 import TemplateError

        try:
            text = self._wrapped.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
        except TemplateError as error:
            raise DataError(f"the chat template of {self._name} refuses the messages: {error}") from None
        # The template writes BOS itself where it wants one.
        return self.encode(text)

    def save(self, folder: str | Path) -> None:
        self._wrapped.save_pretrained(folder)

    def backend(self) -> tokenizers.Tokenizer | None:
        return getattr(self._wrapped, "backend_tokenizer", None)

    def _before_text(self) -> list[int]:
        """Returns the tokens that the tokenizer puts before a text when asked for special tokens."""
        sample = "a" if self._alphabet is None else min(self._alphabet)
        text = self.encode(sample)
        whole = list(self._wrapped.encode(sample, add_special_tokens=True))
        start = next(i for i in range(len(whole) + 1) if whole[i : i + len(text)] == text)
        return whole[:start]


def _closed_alphabet(wrapped: Any) -> frozenset[str] | None:
    """Returns the characters of a character tokenizer's folder; any other tokenizer can write all text."""
    model: Any = getattr(getattr(wrapped, "backend_tokenizer", None), "model", None)
    if type(model) is not tokenizers.models.WordLevel or model.unk_token in wrapped.get_vocab():
        return None
    words = set(wrapped.get_vocab()) - set(wrapped.all_special_tokens)
    return frozenset(words) if all(len(word) == 1 for word in words) else None


def _check_alphabet(text: str, alphabet: frozenset[str]) -> None:
    if alphabet.issuperset(text):
        return
    strange = next(c for c in text if c not in alphabet)
    shown = text if len(text) <= 60 else text[:57] + "..."
    raise DataError(f"character {strange!r} (U+{ord(strange):04X}) of {shown!r} is not in the tokenizer's alphabet")


def _transformers() -> ModuleType:
    # Takes seconds to import, and the character tokenizer must not wait for it.
    # It advises to install PyTorch on every import otherwise.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import transformers

    return transformers


def _character_tokenizer(alphabet: str) -> tokenizers.Tokenizer:
    vocab = {token: i for i, token in enumerate((PAD, EOS, *alphabet))}
    fast = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab))
    fast.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
    fast.decoder = tokenizers.decoders.Fuse()
    fast.add_special_tokens([PAD, EOS])
    # A prompt that spells "<eos>" means these five characters.
    fast.encode_special_tokens = True
    return fast


def _end_ids(wrapped: Any, folder: Path) -> tuple[int, ...]:
    ids = [] if wrapped.eos_token_id is None else [wrapped.eos_token_id]
    path = folder / "generation_config.json"
    if path.is_file():
        try:
            more = json.loads(path.read_bytes()).get("eos_token_id")
        except (ValueError, AttributeError):
            raise DataError(f"tokenizer: {path} is not a JSON object") from None
        ids += more if isinstance(more, list) else [] if more is None else [more]
    if not ids:
        raise DataError(f"tokenizer: {folder} names no end token (eos_token in tokenizer_config.json)")
    return tuple(dict.fromkeys(ids))


def _piece_reader(decoder: Any) -> Callable[[str], bytes]:
    """Returns the function from a token as the vocabulary writes it to its bytes."""
    settings = {} if decoder is None else json.loads(decoder.__getstate__())
    steps, fused, readers = settings.get("decoders", [settings]), False, []
    for step in steps:
        kind = step.get("type")
        fused |= kind == "Fuse"
        if kind in _READERS:
            readers.append(_READERS[kind](step))
        elif kind == "Replace" and "String" in step["pattern"]:
            readers.append(_replace(step["pattern"]["String"], step["content"]))
        elif kind != "Fuse" and not (kind == "Strip" and fused):  # which is about the ends of the text alone
            raise DataError(f"tokenizer: a token has no bytes of its own with the decoder {kind}; known: {_KNOWN}")

    def read(piece: str) -> bytes:
        text: str | bytes = piece
        for reader in readers:
            text = reader(text) if isinstance(text, str) else text
        return text.encode() if isinstance(text, str) else text

    return read


def _replace(old: str, new: str) -> Callable[[str], str]:
    return lambda text: text.replace(old, new)


def _read_fallback(text: str) -> str | bytes:
    return bytes.fromhex(text[3:5]) if re.fullmatch(r"<0x[0-9A-Fa-f]{2}>", text) else text


def _byte_alphabet() -> dict[str, int]:
    """Returns the byte that each character of a byte-level vocabulary stands for."""
    # GPT-2's: a printable character of Latin-1 is its own byte, the others are moved, in order, to U+0100 and on.
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(0x100) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(0x100 + i): byte for i, byte in enumerate(moved)}


_BYTES = _byte_alphabet()


def _read_byte_level(text: str) -> bytes:
    # An added token need not be written in the alphabet; then it is what it says.
    return bytes(_BYTES[c] for c in text) if all(c in _BYTES for c in text) else text.encode()


# By the decoder's name: from its settings to what reads a token.
_READERS: dict[str, Callable[[dict[str, Any]], Callable[[str], str | bytes]]] = {
    "ByteLevel": lambda step: _read_byte_level,
    "ByteFallback": lambda step: _read_fallback,
    "Metaspace": lambda step: _replace(step["replacement"], " "),
}
_KNOWN = "ByteLevel, ByteFallback, Metaspace, Replace, Fuse"
