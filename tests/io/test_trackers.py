import importlib
import struct
from pathlib import Path

import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.io import trackers
from jaxrl_tok.io.trackers import Trackers
from tests.helpers import need


def read_events(path: Path) -> list:
    """Reads a TFRecord file of events: length, its checksum, data, its checksum."""
    proto = importlib.import_module("tensorboardX.proto.event_pb2")
    events, content = [], path.read_bytes()
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        events.append(proto.Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    return events


def points(folder: Path) -> list[dict]:
    """Returns {(name, step): value} of each event file, oldest first, and under None where it begins anew."""
    files = []
    for path in sorted((folder / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime_ns):
        found = {}
        for event in read_events(path):
            if event.HasField("session_log"):
                found[None] = event.step
            for value in event.summary.value:
                found[value.tag, event.step] = value.simple_value
        files.append(found)
    return files


def test_tensorboard_gets_every_point_by_the_time_the_call_returns(tmp_path):
    need("tensorboardX")
    lines = []
    run = Trackers(["tensorboard"], tmp_path, config={}, warn=lines.append)
    run.log(0, {"eval/avg@8": 0.25})
    run.log(1, {"reward": 0.5, "completions/mean_length": 12})
    (found,) = points(tmp_path)
    assert found == {
        None: 0,
        ("eval/avg@8", 0): 0.25,
        ("reward", 1): 0.5,
        ("completions/mean_length", 1): 12.0,
    }
    run.close()
    assert lines == []


def test_a_resumed_run_tells_tensorboard_to_drop_what_it_will_repeat(tmp_path):
    need("tensorboardX")
    for resumed_at, steps in ((None, range(1, 6)), (3, range(4, 8))):
        run = Trackers(["tensorboard"], tmp_path, resumed_at=resumed_at, config={}, warn=pytest.fail)
        for step in steps:
            run.log(step, {"reward": step / 4})
        run.close()
    first, second = points(tmp_path)
    assert set(first) == {None, *(("reward", step) for step in range(1, 6))}
    assert set(second) == {None, *(("reward", step) for step in range(4, 8))}
    assert (first[None], second[None]) == (0, 4)


class Broken:
    def __init__(self, folder, resumed_at, config):
        self.calls = 0

    def log(self, step, metrics):
        self.calls += 1
        if step >= 2:
            raise ConnectionError("no route\nto host")

    def close(self):
        raise AssertionError("was left out before")


def test_a_tracker_that_fails_is_reported_once_and_the_others_go_on(tmp_path, monkeypatch):
    need("tensorboardX")
    monkeypatch.setitem(trackers.TRACKERS, "broken", (Broken, "json"))
    lines = []
    run = Trackers(["broken", "tensorboard"], tmp_path, config={}, warn=lines.append)
    for step in range(1, 5):
        run.log(step, {"reward": 1.0})
    run.close()
    assert lines == ["tracker broken failed and is left out from here on: no route to host"]
    assert len(points(tmp_path)[0]) == 1 + 4


def test_a_tracker_that_cannot_start_is_reported_too(tmp_path):
    need("tensorboardX")
    (tmp_path / "tensorboard").write_text("in the way")
    lines = []
    Trackers(["tensorboard"], tmp_path, config={}, warn=lines.append).log(1, {"reward": 1.0})
    assert len(lines) == 1 and "tensorboard failed" in lines[0]


def test_an_unknown_tracker_is_refused_with_the_nearest_name(tmp_path):
    with pytest.raises(ConfigError, match="unknown tracker 'tensorbord'; did you mean 'tensorboard'"):
        Trackers(["tensorbord"], tmp_path, config={}, warn=pytest.fail)


def test_a_tracker_without_its_package_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(trackers.TRACKERS, "wandb", (trackers.Wandb, "a_package_that_is_not_there"))
    with pytest.raises(ConfigError, match=r"'wandb' needs the package a_package_that_is_not_there; .* --extra track"):
        Trackers(["wandb"], tmp_path, config={}, warn=pytest.fail)


def test_wandb_goes_on_with_the_run_of_the_folder(tmp_path, monkeypatch):
    need("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for resumed_at in (None, 1):
        run = Trackers(["wandb"], tmp_path, resumed_at=resumed_at, config={"a": 1}, warn=pytest.fail)
        run.log(1, {"reward": 0.5})
        run.close()
    run_id = (tmp_path / "wandb_run_id").read_text()
    assert len(list((tmp_path / "wandb").glob(f"*{run_id}*"))) == 2
