import pytest

from jaxrl_tok.errors import ConfigError, JaxrlTokError
from jaxrl_tok.io.data_sources import SOURCES, open_source


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("arithmetics", {}, "data.source = 'arithmetics': no such source; did you mean 'arithmetic'?"),
        (
            "arithmetic",
            {"term": 3},
            "data.term: no such option of data.source = 'arithmetic'; did you mean 'terms'?",
        ),
        ("arithmetic", {"terms": "3"}, "data.terms = '3': expected an integer"),
        ("arithmetic", {"terms": True}, "data.terms = True: expected an integer"),
        ("arithmetic", {"partial_sums": 1}, "data.partial_sums = 1: expected true or false"),
        ("arithmetic", {"min_terms": "two"}, "data.min_terms = 'two': expected an integer"),
        ("arithmetic", {"terms": 1}, "arithmetic: terms = 1, expected 2 to 32"),
        ("gym", {"tasks": {"lcm": 3}}, "data.tasks = {'lcm': 3}: expected a table of tables"),
        ("gym", {"tasks": {}, "extract": "x"}, "data.extract = 'x': expected 'all' or 'answer_tag'"),
        ("gym", {}, "data.tasks is missing: data.source = 'gym' needs it"),
        ("files", {}, "data.paths is missing: data.source = 'files' needs it"),
        ("files", {"paths": 3}, "data.paths = 3: expected a string or a list of strings"),
        ("files", {"paths": "a", "columns": "b"}, "data.columns = 'b': expected a list of strings"),
        (
            "tfds",
            {"name": "a", "spilt": "train"},
            "no such option of data.source = 'tfds'; did you mean 'split'?",
        ),
    ],
)
def test_options_are_checked(source, options, message):
    with pytest.raises(ConfigError) as caught:
        open_source(source, **options)
    assert message in str(caught.value)


def test_every_source_says_where_and_what_it_is(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "x"}\n')
    options = {"arithmetic": {}, "files": {"paths": str(tmp_path / "a.jsonl")}}
    for name, given in options.items():
        source = open_source(name, **given)
        assert source.where(0) and source.fingerprint and source[0].id == 0
        assert source.finite == (name == "files")
    assert set(SOURCES) == {"arithmetic", "gym", "files", "tfds"}


def test_types_of_options_are_checked_for_every_source():
    for name in SOURCES:
        with pytest.raises(JaxrlTokError):
            open_source(name, nonsense=1)
