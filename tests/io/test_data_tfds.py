import subprocess
import sys
from typing import ClassVar

import numpy as np
import pytest

from jaxrl_tok.errors import DataError
from jaxrl_tok.io.data import Data, question_hash
from jaxrl_tok.io.data_sources import open_source
from jaxrl_tok.io.tokenizer import characters
from jaxrl_tok.tasks import Example

TEXT = characters("".join(map(chr, range(32, 127))))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with the builder `sums`: splits of 20 and 5 rows, prepared in the format of array records."""
    import tensorflow_datasets as tfds

    class Sums(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        # Nothing is downloaded; found out otherwise by a package that TFDS does not ask for.
        url_infos: ClassVar = {}

        def _info(self):
            features = tfds.features.FeaturesDict(
                {
                    "prompt": tfds.features.Text(),
                    "chat": tfds.features.Sequence({"role": tfds.features.Text(), "content": tfds.features.Text()}),
                    "worked": tfds.features.Text(),
                    "level": np.int64,
                    "weights": tfds.features.Tensor(shape=(2,), dtype=np.float32),
                }
            )
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(0, 20), "test": self._generate_examples(20, 25)}

        def _generate_examples(self, start, stop):
            for i in range(start, stop):
                chat = [{"role": "system", "content": "add"}, {"role": "user", "content": f"{i}+1"}]
                row = {"prompt": f"{i}+1=", "chat": chat, "worked": str(i + 1), "level": i}
                yield i, {**row, "weights": np.array([0.5, i], np.float32)}

    folder = tmp_path_factory.mktemp("tfds")
    tfds.disable_progress_bar()
    Sums(data_dir=folder, file_format="array_record").download_and_prepare()
    return str(folder)


def rows(prepared, **options):
    return open_source("tfds", name="sums", data_dir=prepared, **options)


def test_rows_become_examples(prepared):
    source = rows(prepared, answer_column="worked")
    assert len(source) == 20
    examples = sorted((source[i] for i in range(20)), key=lambda e: e.columns["level"])
    for i, example in enumerate(examples):
        columns = {
            "chat": {"role": ["system", "user"], "content": ["add", f"{i}+1"]},
            "worked": str(i + 1),
            "level": i,
            "weights": [0.5, float(i)],
        }
        assert example == Example(example.id, f"{i}+1=", str(i + 1), columns)
        assert type(example.columns["level"]) is int
    assert sorted(e.id for e in examples) == list(range(20))


def test_chats_and_kept_columns(prepared):
    source = rows(prepared, prompt_column="chat", columns=["level"])
    i = source[0].columns["level"]
    assert source[0].prompt == [
        {"role": "system", "content": "add"},
        {"role": "user", "content": f"{i}+1"},
    ]
    assert set(source[0].columns) == {"level"}


def test_splits_and_parts_of_splits(prepared):
    assert len(rows(prepared, split="test")) == 5
    assert len(rows(prepared, split="train[:25%]")) == 5
    assert rows(prepared, split="test").fingerprint != rows(prepared, split="train[:25%]").fingerprint


def test_trains_through_the_pipeline(prepared):
    data = Data(rows(prepared), TEXT, max_prompt=8, heldout_fraction=0.3)
    batches = data.batches(5, seed=0)
    drawn = [p for _ in range(8) for p in next(batches).prompts]
    assert set(drawn) == {f"{i}+1=" for i in range(20) if question_hash(f"{i}+1=") >= 0.3}


def test_reads_without_tensorflow(prepared):
    program = (
        "import sys; from jaxrl_tok.io.data_sources import open_source; "
        f"print(len(open_source('tfds', name='sums:1.0.0', data_dir={prepared!r})[0].prompt) > 0, "
        "'tensorflow' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["True", "False"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "sum"}, "tfds sum: no prepared builder of this name in .*; did you mean 'sums'"),
        ({"name": "sums:9.0.0"}, "tfds sums:9.0.0: no prepared builder"),
        (
            {"data_dir": "/nowhere/tfds"},
            "no prepared builder of this name in /nowhere/tfds; nothing is prepared",
        ),
        ({"split": "trian"}, "tfds sums: no split 'trian'; did you mean 'train'"),
        ({"split": "train[:"}, r"tfds sums: cannot read split 'train\[:'"),
        (
            {"split": "train[:0]"},
            r"tfds sums: cannot read split 'train\[:0\]': Paths sequence can not be of 0 length",
        ),
    ],
)
def test_mistakes_get_one_line(prepared, options, message):
    with pytest.raises(DataError, match=message) as caught:
        open_source("tfds", **{"name": "sums", "data_dir": prepared, **options})
    assert "\n" not in str(caught.value)


def test_missing_column_is_named(prepared):
    with pytest.raises(DataError, match=r"tfds sums split 'train' row 0: no column 'promt'.*did you mean 'prompt'"):
        rows(prepared, prompt_column="promt")[0]
