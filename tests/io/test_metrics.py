import json
import os
import resource
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.errors import CheckpointError
from jaxrl_tok.io.metrics import Completion, MetricsLog, read_lines


def sample(reward: float | None = 1.0, **changes) -> Completion:
    return Completion("1+1=", "2", reward, {"exact": reward}, 0.5, **changes)


def steps(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_bytes().splitlines()]


def test_numbers_come_back_exactly(tmp_path):
    values = np.random.default_rng(0).normal(size=200).astype(np.float32)
    metrics = {
        **{f"m{i}": value for i, value in enumerate(values)},
        "jax": jnp.float32(1 / 3),
        "bf16": jnp.bfloat16(0.1),
        "python": 0.1,
        "count": 2**40 + 1,
        "i32": np.int32(7),
    }
    with MetricsLog(tmp_path) as log:
        log.write(3, metrics)
    (row,) = read_lines(tmp_path / "metrics.jsonl")
    assert list(row) == ["step", *metrics]
    assert row["step"] == 3 and row["count"] == 2**40 + 1 and row["python"] == 0.1
    assert isinstance(row["i32"], int) and isinstance(row["count"], int)
    assert all(np.float32(row[f"m{i}"]) == value for i, value in enumerate(values))
    assert np.float32(row["jax"]) == np.float32(1 / 3)
    assert jnp.bfloat16(row["bf16"]) == jnp.bfloat16(0.1)


def test_what_is_not_finite_is_null_and_named(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.write(1, {"loss": jnp.float32(np.nan), "grad_norm": float("inf"), "kl": float("-inf"), "reward": 0.0})
    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=pytest.fail)
    assert line == {
        "step": 1,
        "loss": None,
        "grad_norm": None,
        "kl": None,
        "reward": 0.0,
        "nonfinite": {"loss": "nan", "grad_norm": "inf", "kl": "-inf"},
    }
    (row,) = read_lines(tmp_path / "metrics.jsonl")
    assert np.isnan(row["loss"]) and row["grad_norm"] == np.inf and row["kl"] == -np.inf and len(row) == 5


def test_a_line_is_in_the_file_when_the_call_returns(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.write(1, {"reward": 0.5})
        assert (tmp_path / "metrics.jsonl").read_bytes() == b'{"step": 1, "reward": 0.5}\n'
        log.write_completions(1, [sample()])
        assert (tmp_path / "completions.jsonl").read_bytes().endswith(b"}\n")


def test_completions_hold_every_field_and_any_text(tmp_path):
    text = 'quote " newline \n tab \t é \u2028 \x00 \x1b[31m 漢 \ud800'
    with MetricsLog(tmp_path) as log:
        log.write_completions(2, [Completion(text, text, None, {"a": None}, None, True, "timed_out"), sample()])
    raw = (tmp_path / "completions.jsonl").read_bytes()
    assert raw.count(b"\n") == 2 and "漢".encode() in raw
    first, second = read_lines(tmp_path / "completions.jsonl")
    assert first == {
        "step": 2,
        "prompt": text,
        "completion": text,
        "reward": None,
        "parts": {"a": None},
        "advantage": None,
        "truncated": True,
        "outcome": "timed_out",
    }
    assert (second["reward"], second["parts"], second["outcome"]) == (1.0, {"exact": 1.0}, "scored")


def write_steps(folder: Path, first: int, last: int) -> None:
    with MetricsLog(folder) as log:
        for step in range(first, last + 1):
            log.write(step, {"reward": step / 7})
            log.write_completions(step, [sample(), sample(0.0)])


def test_after_a_cut_each_step_stands_once_and_the_files_are_those_of_a_run_never_stopped(tmp_path):
    write_steps(tmp_path / "whole", 0, 6)
    write_steps(tmp_path / "killed", 0, 5)
    with MetricsLog(tmp_path / "killed") as log:
        log.cut(3)
    assert steps(tmp_path / "killed" / "metrics.jsonl") == [0, 1, 2, 3]
    assert steps(tmp_path / "killed" / "completions.jsonl") == [0, 0, 1, 1, 2, 2, 3, 3]
    write_steps(tmp_path / "killed", 4, 6)
    for name in ("metrics.jsonl", "completions.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_same_log_goes_on_after_its_cut(tmp_path):
    write_steps(tmp_path, 1, 3)
    with MetricsLog(tmp_path) as log:
        log.cut(1)
        log.write(2, {"reward": 9.0})
    assert [row["reward"] for row in read_lines(tmp_path / "metrics.jsonl")] == [1 / 7, 9.0]


@pytest.mark.parametrize(
    "rest", [b"{", b'{"step": 3', b'{"step": 2, "reward": 1}', b"\x00\x00\x00\n", b"\xff\n", b"[3]\n"]
)
def test_a_half_written_last_line_is_cut_whatever_it_holds(tmp_path, rest):
    write_steps(tmp_path, 1, 2)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(rest)
    with MetricsLog(tmp_path) as log:
        log.cut(2)
    assert steps(tmp_path / "metrics.jsonl") == [1, 2]


def test_a_run_that_starts_again_cuts_everything(tmp_path):
    write_steps(tmp_path, 0, 2)
    with MetricsLog(tmp_path) as log:
        log.cut(None)
    assert (tmp_path / "metrics.jsonl").read_bytes() == (tmp_path / "completions.jsonl").read_bytes() == b""


def test_a_folder_that_cannot_be_written_gives_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match=r"file/run: cannot write: Not a directory$"):
        MetricsLog(tmp_path / "file" / "run")


def test_a_full_disk_gives_one_line_and_what_was_whole_stays(tmp_path):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    with MetricsLog(tmp_path) as log:
        log.write(1, {"reward": 0.5})
        resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(tmp_path / "metrics.jsonl") + 10, limit[1]))
        try:
            with pytest.raises(CheckpointError, match=r"metrics.jsonl: cannot write: File too large$"):
                log.write(2, {"reward": 0.5})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    with MetricsLog(tmp_path) as log:
        log.cut(2)
    assert steps(tmp_path / "metrics.jsonl") == [1]
