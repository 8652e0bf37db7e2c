import importlib.util
import os
from pathlib import Path

import pytest

from tests.helpers import need

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tool(monkeypatch):
    """Loads the tool; what it sets for libtpu is undone after the test."""
    for name in ("JAX_PLATFORMS", "TPU_SKIP_MDS_QUERY", "ALLOW_MULTIPLE_LIBTPU_LOAD"):
        monkeypatch.setitem(os.environ, name, os.environ.get(name, "cpu" if name == "JAX_PLATFORMS" else "1"))
    spec = importlib.util.spec_from_file_location("aot_check", ROOT / "tools" / "aot_check.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_bound_that_is_broken_shows(tool):
    (score, _, shards, *_) = tool.PROGRAMS
    good = tool.Found(1.0, 0.1, 2.6, 1, {})
    assert tool.faults(score, good) == []
    assert tool.faults(score, good._replace(peak=2.71)) == ["peak above 2.7 GiB"]
    assert tool.faults(score, good._replace(kernels=0)) == ["no TPU kernel in it"]
    assert tool.faults(shards, good._replace(peak=0.8, collectives={"all-gather": 1, "all-reduce": 3})) == ["gathers"]
    (failed,) = tool.faults(score, good._replace(error="RESOURCE_EXHAUSTED: too much"))
    assert failed == "does not compile: RESOURCE_EXHAUSTED: too much"


def test_the_exit_code_says_whether_a_bound_is_broken(tool, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["aot_check.py", "--chips", "v5e"])
    monkeypatch.setattr(tool, "devices", lambda chip: [])
    monkeypatch.setattr(tool, "compiled", lambda program, chip: tool.Found(1.0, 0.1, 0.6, 1, {}))
    assert tool.main() == 0
    peaks = {"score": 2.8}
    monkeypatch.setattr(tool, "compiled", lambda one, chip: tool.Found(1.0, 0.1, peaks.get(one.name, 0.6), 1, {}))
    assert tool.main() == 1
    assert capsys.readouterr().out.count("BROKEN: peak above 2.7 GiB") == 1


def test_an_unknown_chip_is_named(tool, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["aot_check.py", "--chips", "v5x"])
    with pytest.raises(SystemExit):
        tool.main()
    assert "unknown chip 'v5x'; expected some of v5e, v5p, v6e" in capsys.readouterr().err


@pytest.mark.aot
def test_every_program_keeps_its_bounds_on_a_v5e(tool):
    need("libtpu")
    for program in tool.PROGRAMS:
        assert tool.faults(program, tool.compiled(program, "v5e")) == []


@pytest.mark.aot
@pytest.mark.parametrize("chip", ["v5p", "v6e"])
def test_scoring_keeps_its_bounds_on_other_chips(tool, chip):
    need("libtpu")
    score, _, shards, *_ = tool.PROGRAMS
    assert tool.faults(score, tool.compiled(score, chip)) == []
    assert tool.faults(shards, tool.compiled(shards, chip)) == []


@pytest.mark.aot
def test_whole_logits_do_not_fit_where_blocks_do(tool):
    need("libtpu")
    many = tool.NAIVE[1]
    assert "RESOURCE_EXHAUSTED" in tool.compiled(many, "v5e").error
