"""tools/check_layout.py on small trees that break one rule each."""

from pathlib import Path

import pytest

from tools import check_layout

SETTINGS = """
[tool.layout]
file_lines = 6
function_lines = 3
test_folders = ["tests/conformance"]
[tool.layout.long_files]
{files}
[tool.layout.long_functions]
{functions}
"""

# Spelt in two parts, as in the tool.
NOTE = "TO" + "DO"


def findings(folder: Path, files: dict[str, str], long_files: str = "", long_functions: str = "") -> list[str]:
    for place, text in files.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_text(text)
    (folder / "tests").mkdir(exist_ok=True)
    settings = SETTINGS.format(files=long_files, functions=long_functions)
    (folder / "pyproject.toml").write_text(settings.strip() + "\n")
    return check_layout.check(folder)


def test_sizes_at_the_limit_pass_and_over_it_fail(tmp_path):
    three = "def f():\n    x = 1\n    return x\n"
    assert findings(tmp_path, {"jaxrl_tok/a.py": three + "x = 0\n" * 3}) == []
    assert [line.split(";")[0] for line in findings(tmp_path, {"jaxrl_tok/a.py": three + "x = 0\n" * 4})] == [
        "jaxrl_tok/a.py: 7 lines, over 6"
    ]


def test_a_function_is_measured_from_def_to_its_end_in_classes_and_functions_too(tmp_path):
    inner = (
        "class A:\n    def f(self):\n        def g():\n            x = 1\n            return x\n"
        + " " * 8
        + "return g\n"
    )
    (line,) = findings(tmp_path, {"tools/a.py": inner})
    assert line.startswith("tools/a.py:A.f: 5 lines, over 3")


def test_a_listed_reason_excuses_and_an_empty_or_idle_one_does_not(tmp_path):
    long = {"jaxrl_tok/a.py": "def f():\n    x = 1\n    x += 1\n    return x\n"}
    assert findings(tmp_path, long, long_functions='"jaxrl_tok/a.py:f" = "one table"') == []
    assert len(findings(tmp_path, long, long_functions='"jaxrl_tok/a.py:f" = " "')) == 1
    idle = findings(tmp_path, {"jaxrl_tok/a.py": "x = 1\n"}, long_functions='"jaxrl_tok/a.py:f" = "one table"')
    assert idle == ["jaxrl_tok/a.py:f: listed in [tool.layout.long_functions], but not there or within the limit"]


@pytest.mark.parametrize(
    ("source", "test", "stands"),
    [
        ("jaxrl_tok/io/data.py", "tests/io/test_data.py", True),
        ("jaxrl_tok/io/data.py", "tests/io/test_data_files.py", True),
        ("jaxrl_tok/masked.py", "tests/test_masked.py", True),
        ("jaxrl_tok/kernels/score/api.py", "tests/kernels/test_score.py", True),
        ("tools/lock.py", "tests/tools/test_lock.py", True),
        ("tools/run", "tests/tools/test_run.py", True),
        ("jaxrl_tok/io/data.py", "tests/conformance/test_anything.py", True),
        ("jaxrl_tok/io/data.py", "tests/io/test_database.py", False),
        ("jaxrl_tok/io/data.py", "tests/test_data.py", False),
        ("jaxrl_tok/io/data.py", "tests/tools/test_data.py", False),
    ],
)
def test_tests_stand_where_their_sources_do(tmp_path, source, test, stands):
    found = findings(tmp_path, {source: "", test: ""})
    assert found == [] if stands else found[0].startswith(f"{test}: no source module")


def test_text_has_no_notes_to_oneself_and_clean_ends(tmp_path):
    files = {
        "docs/a.md": f"one\ntwo {NOTE} three\n",
        "docs/b.md": "one \n",
        "configs/c.toml": "x = 1",
        "README.md": "one\n\n",
        "docs/clean.md": "a PHOTODIODE, an XXXL shirt\n",
    }
    assert [line.split(";")[0] for line in findings(tmp_path, files)] == [
        "README.md: blank line at the end",
        "configs/c.toml: no newline at the end",
        f"docs/a.md:2: {NOTE}",
        "docs/b.md:1: blank at the end of the line",
    ]
