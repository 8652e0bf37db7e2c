import datetime
import string
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrl_tok.config import toml

# TOML text has no lone surrogates, and its integers may be limited to 64 bits.
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
leaves = st.one_of(
    st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), text, st.dates(), st.times()
)
keys = st.one_of(text, st.text(string.ascii_letters, min_size=1, max_size=5), st.just("method"))
values = st.recursive(leaves, lambda x: st.lists(x, max_size=3) | st.dictionaries(keys, x, max_size=3), max_leaves=8)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(keys, values, max_size=4))
def test_what_is_written_reads_back(table):
    assert tomllib.loads(toml.dump(table)) == table


def test_reads_as_people_write_it():
    table = {
        "name": "x",
        "nothing": None,
        "clip": {"method": "asymmetric", "low": 0.8},
        "loss": {"policy": {"weight": 1.0, "reduction": {"method": "token_mean"}, "method": "ppo_clip"}},
        "empty": {},
        "list": [1, {"a b": 1e-6}],
    }
    assert toml.dump(table) == (
        'name = "x"\n'
        'clip = { method = "asymmetric", low = 0.8 }\n'
        'list = [1, { "a b" = 1e-06 }]\n'
        "\n"
        "[loss.policy]\n"
        "weight = 1.0\n"
        'reduction = { method = "token_mean" }\n'
        'method = "ppo_clip"\n'
        "\n"
        "[empty]\n"
    )


@pytest.mark.parametrize(
    ("x", "written"),
    [
        (True, "true"),
        (1, "1"),
        (float("inf"), "inf"),
        ('a"\n\\\x7f', '"a\\"\\n\\\\\\u007f"'),
        ((), "[]"),
        ({}, "{}"),
        (datetime.date(2025, 1, 2), "2025-01-02"),
    ],
)
def test_values(x, written):
    assert toml.value(x) == written
