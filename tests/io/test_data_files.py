import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxrl_tok.errors import DataError
from jaxrl_tok.io.data import Data
from jaxrl_tok.io.data_sources import open_source
from jaxrl_tok.io.tokenizer import characters
from jaxrl_tok.tasks import Example

TEXT = characters("".join(map(chr, range(32, 127))))
CHAT = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "two?"}]


def write(path, text):
    path.write_text(text)
    return str(path)


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def files(paths, **options):
    return open_source("files", paths=paths, **options)


def read_all(source):
    return [source[i] for i in range(len(source))]


def test_jsonl_rows_become_examples(tmp_path):
    rows = [
        {"prompt": "one?", "answer": 1, "tags": ["a", None]},
        {"prompt": CHAT, "answer": 2.5, "more": {"k": True}},
    ]
    path = write(tmp_path / "a.jsonl", lines(rows[0]) + "\n  \n" + lines(rows[1]).strip())
    source = files(path)
    assert read_all(source) == [
        Example(0, "one?", None, {"answer": 1, "tags": ["a", None]}),
        Example(1, CHAT, None, {"answer": 2.5, "more": {"k": True}}),
    ]
    assert source.where(1) == f"{path}:4"


def test_column_options(tmp_path):
    path = write(tmp_path / "a.jsonl", lines({"q": "one?", "gold": "1", "why": "one is 1", "source": "x"}))
    example = files(path, prompt_column="q", answer_column="why", columns=["gold"])[0]
    assert example == Example(0, "one?", "one is 1", {"gold": "1", "why": "one is 1"})
    assert files(path, prompt_column="q", columns=[])[0].columns == {}
    # A column named as an argument of rewards may be the prompt itself.
    path = write(tmp_path / "b.jsonl", lines({"prompts": "one?"}))
    assert files(path, prompt_column="prompts")[0].prompt == "one?"


def test_parquet_rows_are_the_same_as_jsonl(tmp_path):
    rows = [
        {"prompt": "one?", "answer": 1, "tags": ["a", "b"], "meta": {"level": 0.5}, "hint": None},
        {"prompt": "two?", "answer": 2, "tags": [], "meta": {"level": 1.5}, "hint": "x"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    path = write(tmp_path / "a.jsonl", lines(*rows))
    assert read_all(files(str(tmp_path / "a.parquet"))) == read_all(files(path))
    chats = [{"prompt": CHAT}, {"prompt": CHAT[1:]}]
    pq.write_table(pa.Table.from_pylist(chats), tmp_path / "chat.parquet")
    assert [e.prompt for e in read_all(files(str(tmp_path / "chat.parquet")))] == [CHAT, CHAT[1:]]


def test_several_files_in_order(tmp_path):
    for name in ("b", "a", "c"):
        write(tmp_path / f"{name}.jsonl", lines({"prompt": f"{name}1"}, {"prompt": f"{name}2"}))
    write(tmp_path / "empty.jsonl", "\n")
    pq.write_table(pa.table({"prompt": ["p1", "p2", "p3"]}), tmp_path / "p.parquet", row_group_size=1)
    source = files([f"{tmp_path}/p.parquet", f"{tmp_path}/empty.jsonl", f"{tmp_path}/[ab].jsonl"])
    assert [e.prompt for e in read_all(source)] == ["p1", "p2", "p3", "a1", "a2", "b1", "b2"]
    assert [e.id for e in read_all(source)] == list(range(7))
    assert source.where(2) == f"{tmp_path}/p.parquet row 2"
    assert source.where(6) == f"{tmp_path}/b.jsonl:2"


def test_fingerprint_is_of_the_content(tmp_path):
    path = write(tmp_path / "a.jsonl", lines({"prompt": "x"}))
    first = files(path).fingerprint
    assert files(write(tmp_path / "b.jsonl", lines({"prompt": "x"}))).fingerprint == first
    assert files(write(tmp_path / "a.jsonl", lines({"prompt": "y"}))).fingerprint != first


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"prompt": "a"}\n{"prompt": \n',
            "a.jsonl:2: not JSON, Expecting value at column 12: '{\"prompt\":'",
        ),
        ("hello\n", "a.jsonl:1: not JSON, Expecting value at column 1: 'hello'"),
        ("x" * 100, "a.jsonl:1: not JSON, Expecting value at column 1: '" + "x" * 57 + "...'"),
        ('["a"]\n', "a.jsonl:1: expected a JSON object, found '[\"a\"]'"),
        ('{"promt": "a"}\n', "a.jsonl:1: no column 'prompt' (data.prompt_column); did you mean 'promt'?"),
        ('{"q": "a"}\n', "a.jsonl:1: no column 'prompt' (data.prompt_column); known: q"),
        ("{}\n", "a.jsonl:1: no column 'prompt' (data.prompt_column); it has no columns"),
        (
            '{"prompt": 3}\n',
            "a.jsonl:1: 'prompt' is the number 3, expected a string or a list of chat messages",
        ),
        ('{"prompt": null}\n', "a.jsonl:1: 'prompt' is null, expected"),
        ('{"prompt": " "}\n', "a.jsonl:1: 'prompt' is empty"),
        ('{"prompt": []}\n', "a.jsonl:1: 'prompt' is a list without messages"),
        (
            '{"prompt": ["a"]}\n',
            "a.jsonl:1: 'prompt'[0] is a string, expected a message with 'role' and 'content'",
        ),
        (
            '{"prompt": [{"role": "user"}]}\n',
            "a.jsonl:1: 'prompt'[0]: 'content' is missing, expected a string",
        ),
        (
            '{"prompt": [{"role": "user", "content": [{"type": "image"}]}]}\n',
            "a.jsonl:1: 'prompt'[0]: 'content' is a list, expected a string",
        ),
        (
            '{"prompt": "a", "completions": 1}\n',
            "a.jsonl:1: a column is named 'completions', which rewards already",
        ),
    ],
)
def test_wrong_rows_get_one_line_before_the_run(tmp_path, text, message):
    path = write(tmp_path / "a.jsonl", text)
    with pytest.raises(DataError) as caught:
        Data(files(path), TEXT, max_prompt=100)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_wrong_options_name_the_column(tmp_path):
    path = write(tmp_path / "a.jsonl", lines({"prompt": "a", "why": 3}))
    with pytest.raises(DataError, match="'why' is the number 3, expected a worked answer's text, or null"):
        files(path, answer_column="why")[0]
    with pytest.raises(DataError, match=r"no column 'wy' \(data.answer_column\); did you mean 'why'"):
        files(path, answer_column="wy")[0]
    with pytest.raises(DataError, match=r"no column 'gold' \(data.columns\)"):
        files(path, columns=["gold"])[0]


def test_a_column_that_some_rows_lack_is_none_even_where_a_whole_batch_lacks_it(tmp_path):
    path = write(tmp_path / "a.jsonl", lines({"prompt": "a", "level": 1}, {"prompt": "b"}, {"prompt": "c", "more": 2}))
    data = Data(files(path), TEXT, max_prompt=4, heldout_fraction=0.0)
    assert list(data.columns) == ["level", "more"]
    assert data.collate([data.source[1]]).columns == {"level": [None], "more": [None]}


def test_files_that_cannot_be_read(tmp_path):
    def refused(paths, message):
        with pytest.raises(DataError) as caught:
            files(paths)[0]
        assert message in str(caught.value) and "\n" not in str(caught.value)

    refused(f"{tmp_path}/a.jsonl", "a.jsonl: no such file")
    refused(f"{tmp_path}/*.jsonl", "*.jsonl: no such file")
    refused(f"{tmp_path}/none/a.jsonl", "data.paths: ")
    refused(str(tmp_path), "is a folder; name its files")
    refused([], "data.paths = []: no rows")
    refused(write(tmp_path / "a.csv", "prompt\n"), "a.csv: expected a file that ends in .jsonl or .parquet")
    refused(write(tmp_path / "a.jsonl", ""), "a.jsonl: no rows")
    refused(write(tmp_path / "a.parquet", "nonsense"), "a.parquet: cannot be read as Parquet")
    refused(f"{tmp_path}/b.jsonl", "b.jsonl: no such file; did you mean 'a.jsonl'?")
    (tmp_path / "b.jsonl").write_bytes('{"prompt": "é"}\n'.encode("latin-1"))
    refused(f"{tmp_path}/b.jsonl", 'b.jsonl:1: not UTF-8: \'{"prompt": "\\\\xe9"}\'')


def test_parquet_columns_that_json_cannot_hold(tmp_path):
    table = pa.table({"prompt": ["a"], "image": [b"\x00"], "n": [1]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="column 'image' is of type binary, which JSON cannot hold"):
        files(str(tmp_path / "a.parquet"))
    assert files(str(tmp_path / "a.parquet"), columns=["n"])[0].columns == {"n": 1}
