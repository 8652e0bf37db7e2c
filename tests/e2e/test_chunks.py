"""Runs that sample a few decode steps at a time: the same numbers, and rewards beside the decoding."""

import pytest

from jaxrl_tok.rewards.stream import Stream
from jaxrl_tok.train import rl, rounds
from tests.e2e.command import train, write
from tests.e2e.test_rollouts import SMALL, described, finished, lines

pytestmark = pytest.mark.usefixtures("standard_promotion")


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["single", "fsdp"])
def test_a_run_in_chunks_has_the_numbers_of_one_that_is_not(mesh, tmp_path):
    sets = (*SMALL, f"mesh.preset={mesh}", "rollout.slots=8", "run.steps=2")
    expected = finished(tmp_path / "whole", *sets)
    assert finished(tmp_path / "chunks", *sets, "rollout.chunk=3") == expected
    assert lines(tmp_path / "chunks", "completions") == lines(tmp_path / "whole", "completions")


@pytest.mark.slow
@pytest.mark.parametrize("judge", ["slow", "raises"])
def test_decoding_waits_for_no_reward(judge, tmp_path, monkeypatch):
    """All is decoded, and handed over in parts, before the first reward of the batch is there."""
    events = []
    result, add = Stream.result, Stream.add
    monkeypatch.setattr(Stream, "add", lambda self, *what: (events.append(len(what[0])), add(self, *what))[1])

    def ended(self):
        events.append(("scored", int((self._board.outcome == "scored").sum())))
        return result(self)

    monkeypatch.setattr(Stream, "result", ended)
    finished_before = train(write(tmp_path / "run", judge=judge), *SMALL, "run.steps=2", "rollout.chunk=2")
    first = events[: next(i for i, event in enumerate(events) if isinstance(event, tuple)) + 1]
    assert sum(first[:-1]) == 16 and sum(count > 0 for count in first[:-1]) > 1
    assert first[-1] == ("scored", 0)
    if judge == "slow":
        assert finished_before.code == 0 and len(lines(tmp_path / "run")) == 3
    else:
        assert "it has answered for no sample yet and failed on" in finished_before.error(code=2)


@pytest.mark.slow
@pytest.mark.parametrize(("module", "name"), [(rounds, "to_host"), (rl, "_scores")])
def test_a_failure_beside_the_rewards_ends_the_scoring(module, name, tmp_path, monkeypatch):
    closed, close = [], Stream.close
    monkeypatch.setattr(Stream, "close", lambda self: (closed.append(self), close(self))[1])

    def broken(*arguments):
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(module, name, broken)
    with pytest.raises(RuntimeError, match="is gone"):
        train(write(tmp_path / "run", judge="slow"), *SMALL, "run.steps=1", "rollout.chunk=2")
    assert closed and not closed[0]._thread.is_alive()


def test_trees_are_one_program(tmp_path):
    from jaxrl_tok.errors import ConfigError

    with pytest.raises(ConfigError, match=r"rollout.chunk = 4: expected 0 with rollout = 'cure'"):
        described(
            write(tmp_path / "run"),
            "recipe=cure",
            "recipe.rollout.min_characters=1",
            "rollout.group=16",
            "rollout.chunk=4",
        )
