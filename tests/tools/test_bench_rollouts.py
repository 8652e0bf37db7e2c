import pytest

from jaxrl_tok.train import plan
from tests.helpers import need
from tests.train.planned import RUN
from tools import bench_rollouts as tool

# Of a prompt, what a group has to be computed for: rows of their own, of one prompt, and distinct tokens.
TOKENS = {"star": (4608, 1024, 1024), "tree": (34560, 20800, 8320)}

pytestmark = pytest.mark.usefixtures("standard_promotion")


@pytest.fixture
def uncompiled(monkeypatch):
    """Steps whose programs are not compiled."""

    class Step:
        def __init__(self, built, only):
            self.compiled = [plan.Compiled(name) for name in sorted(only)]

        def take(self):
            pass

    monkeypatch.setattr(plan, "Step", Step)


@pytest.mark.parametrize("name", ["star", "tree", "sampled"])
def test_a_part_ahead_of_time_is_that_which_is_timed(uncompiled, name):
    found = {(work, way): one for work, way, one in tool.ahead(name, "cpu:4", RUN, ["rollout.prompts=2"])}
    ways = ("rows", "prompt", "tree") if name == "sampled" else tool.WAYS
    for work in ("sample",) if name == "sampled" else ("score", "update"):
        tokens = [found[work, way].tokens for way in ways]
        assert tokens == [2 * n for n in TOKENS["tree" if name == "sampled" else name]]
        flops = [found[work, way].flops for way in ways]
        assert flops[0] > flops[1] >= flops[2]
    assert len(found) == (3 if name == "sampled" else 6)


def test_the_table_has_ratios_to_the_first_way(capsys):
    gib = 2**30
    rows = [("score", "none", tool.Planned(100, 10**13, 4 * gib, 9 * gib, 7.0))]
    rows += [("score", "tree", tool.Planned(25, 4 * 10**12, gib, 6 * gib, 8.0))]
    rows += [("update", "none", tool.Planned(100, 3 * 10**13, 0, 0, 1.0, "RESOURCE_EXHAUSTED: too much\nof it"))]
    tool.show_ahead("star", iter(rows))
    _, first, second, failed = capsys.readouterr().out.splitlines()
    assert first.split() == ["score", "none", "100", "1.00", "10.0", "1.00", "4.00", "1.00", "9.00", "7"]
    assert second.split() == ["score", "tree", "25", "0.25", "4.0", "0.40", "1.00", "0.25", "6.00", "8"]
    assert failed.endswith("RESOURCE_EXHAUSTED: too much")


@pytest.mark.aot
def test_a_group_compiled_for_a_tpu(monkeypatch):
    """As tries alone: each way takes half a minute."""
    need("libtpu")
    monkeypatch.setattr(tool, "WAYS", ("tree",))
    sizes = ["model.dim=512", "model.head_dim=128", "model.ffw=1024", "model.vocab=2048"]
    found = [*tool.ahead("star", "v5e:2x2", RUN, sizes)]
    assert [(work, way) for work, way, _ in found] == [("score", "tree"), ("update", "tree")]
    assert not any(one.error for *_, one in found) and all(one.temporary for *_, one in found)
