import json
import subprocess
import sys

import pytest

from jaxrl_tok.errors import DataError
from jaxrl_tok.io import tokenizer
from jaxrl_tok.tasks.arithmetic import ALPHABET

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'robot' %}{{ raise_exception('no robots') }}{% endif %}"
    "<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def write_folder(folder, *, bos=False, template=TEMPLATE, eos="<|end|>"):
    """A byte-level BPE tokenizer trained on a line of text, as a transformers folder."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    fast = Tokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    special = ["<|bos|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    fast.train_from_iterator(["what is two and two, what is three and three"], trainer)
    if bos:
        fast.post_processor = processors.TemplateProcessing(
            single="<|bos|> $A <|end|>", special_tokens=[("<|bos|>", 0), ("<|end|>", 1)]
        )
    wrapped = PreTrainedTokenizerFast(tokenizer_object=fast, bos_token="<|bos|>", eos_token=eos)
    wrapped.chat_template = template
    wrapped.save_pretrained(folder)
    return folder


def test_characters_encode_one_token_each():
    chars = tokenizer.characters("ab =\n")
    assert (chars.pad_id, chars.eos_ids, chars.size) == (0, (1,), 7)
    assert chars.encode("ba =\na") == [3, 2, 4, 5, 6, 2]
    assert chars.render("ab") == [2, 3]
    assert chars.encode("") == []


def test_characters_decode_drops_special_and_unknown_ids():
    chars = tokenizer.characters("ab =\n")
    assert chars.decode([0, 0, 3, 4, 4, 6, 2, 1, 0, 99]) == "b  \na"
    text = "a b\n\n =a"
    assert chars.decode(chars.encode(text)) == text


def test_characters_spelling_a_special_token_are_characters():
    chars = tokenizer.characters("<>eospad")
    assert chars.decode(chars.encode("<eos><pad>")) == "<eos><pad>"
    assert not {0, 1} & set(chars.encode("<eos><pad>"))


def test_characters_start_without_transformers():
    program = (
        "import sys; from jaxrl_tok.io.tokenizer import characters; characters('01').encode('10'); "
        "print('transformers' in sys.modules, 'jax' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["False", "False"]


def test_character_outside_the_alphabet_is_named():
    chars = tokenizer.characters(ALPHABET)
    with pytest.raises(DataError, match=r"character '×' \(U\+00D7\) of '3×4=' is not in the tokenizer's alphabet"):
        chars.encode("3×4=")
    with pytest.raises(DataError, match="no chat template"):
        chars.render([{"role": "user", "content": "1+1="}])


@pytest.mark.parametrize(("alphabet", "message"), [("", "is empty"), ("aba", "has 'a' twice")])
def test_bad_alphabet(alphabet, message):
    with pytest.raises(DataError, match=message):
        tokenizer.characters(alphabet)


def test_saved_characters_are_a_transformers_folder(tmp_path):
    from transformers import AutoTokenizer

    chars = tokenizer.characters("01+= \n<eos>"[:6] + "é<>")
    chars.save(tmp_path)
    text = "1 +é\n0=<>"
    other = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert other(text)["input_ids"] == chars.encode(text)
    assert other.decode([*chars.encode(text), 1, 0], skip_special_tokens=True) == text
    loaded = tokenizer.load(tmp_path)
    assert (loaded.pad_id, loaded.eos_ids, loaded.size) == (chars.pad_id, chars.eos_ids, chars.size)
    assert loaded.render(text) == loaded.encode(text) == chars.encode(text)
    with pytest.raises(DataError, match="character 'x'"):
        loaded.encode("1x")


def test_folder_renders_chats_by_its_template(tmp_path):
    loaded = tokenizer.load(write_folder(tmp_path))
    messages = [{"role": "system", "content": "add"}, {"role": "user", "content": "two and two"}]
    special = {name: loaded.encode(f"<|{name}|>") for name in ("system", "user", "end", "assistant")}
    assert all(len(ids) == 1 for ids in special.values())
    assert loaded.render(messages) == (
        special["system"] + loaded.encode("add") + special["end"]
        + special["user"] + loaded.encode("two and two") + special["end"] + special["assistant"]
    )  # fmt: skip
    assert loaded.decode(loaded.render(messages)) == "addtwo and two"
    text = "what is é ≠ 漢 ?\n  two"
    assert loaded.decode(loaded.encode(text)) == text
    assert len(loaded.encode("what is two")) < len("what is two")
    assert loaded.eos_ids == (1,) and loaded.pad_id == 1  # the folder names no padding
    with pytest.raises(DataError, match="refuses the messages: no robots"):
        loaded.render([{"role": "robot", "content": "x"}])


def test_folder_puts_bos_before_string_prompts_only(tmp_path):
    loaded = tokenizer.load(write_folder(tmp_path, bos=True))
    assert loaded.render("two") == [0, *loaded.encode("two")]
    assert 0 not in loaded.encode("two") and 1 not in loaded.render("two")
    assert loaded.render([{"role": "user", "content": "two"}])[0] != 0


def test_end_tokens_of_the_generation_config_count(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [3, 1]}))
    assert tokenizer.load(tmp_path).eos_ids == (1, 3)
    (tmp_path / "generation_config.json").write_text("[")
    with pytest.raises(DataError, match=r"generation_config.json is not a JSON object"):
        tokenizer.load(tmp_path)


def test_folders_that_cannot_be_used(tmp_path):
    with pytest.raises(DataError, match=r"no folder .*nowhere"):
        tokenizer.load(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"holds no tokenizer\.json"):
        tokenizer.load(tmp_path)
    with pytest.raises(DataError, match="names no end token"):
        tokenizer.load(write_folder(tmp_path / "endless", eos=None))
    plain = tokenizer.load(write_folder(tmp_path / "plain", template=None))
    with pytest.raises(DataError, match="has no chat template"):
        plain.render([{"role": "user", "content": "two"}])
    broken = write_folder(tmp_path / "broken")
    (broken / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match=r"cannot load .*broken"):
        tokenizer.load(broken)
