import asyncio
import os
import resource
import signal
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.errors import CheckpointError
from jaxrl_tok.io import checkpoint, manifest
from jaxrl_tok.io.checkpoint import Checkpoints
from tests.io.checkpoint_folders import fill, newest, payload, restore, small


def flip_a_bit(folder: Path) -> None:
    content = bytearray(payload(folder).read_bytes())
    content[len(content) // 2] ^= 1
    payload(folder).write_bytes(content)


def cut_a_file(folder: Path) -> None:
    os.truncate(payload(folder), payload(folder).stat().st_size - 1)


def lose_a_file(folder: Path) -> None:
    payload(folder).unlink()


def change_the_host_note(folder: Path) -> None:
    path = folder / "host" / "metadata"
    path.write_bytes(path.read_bytes().replace(b"position", b"Position"))


def add_a_file(folder: Path) -> None:
    (folder / "state" / "d" / "0123").write_bytes(b"")


def flip_a_bit_of_the_seal(folder: Path) -> None:
    content = bytearray((folder / manifest.NAME).read_bytes())
    content[3] ^= 1
    (folder / manifest.NAME).write_bytes(content)


def cut_a_line_of_the_seal(folder: Path) -> None:
    lines = (folder / manifest.NAME).read_bytes().splitlines(keepends=True)
    (folder / manifest.NAME).write_bytes(b"".join(lines[:-1]))


def empty_the_seal(folder: Path) -> None:
    (folder / manifest.NAME).write_bytes(b"")


def lose_the_seal(folder: Path) -> None:
    (folder / manifest.NAME).unlink()


DAMAGES = {
    flip_a_bit: "differs from its SHA-256",
    cut_a_file: "differs from its SHA-256",
    lose_a_file: "is missing",
    change_the_host_note: "host/metadata differs from its SHA-256",
    add_a_file: "state/d/0123 is not in SHA256SUMS",
    flip_a_bit_of_the_seal: "SHA256SUMS",
    cut_a_line_of_the_seal: "is not in SHA256SUMS",
    empty_the_seal: "is not in SHA256SUMS",
    lose_the_seal: "it was never finished (no SHA256SUMS)",
}


@pytest.fixture(scope="module")
def three_steps(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    fill(folder, 1, 2, 3, keep_last=3)
    return folder


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_newest_checkpoint_is_reported_in_one_line_and_the_one_before_it_used(three_steps, tmp_path, damage):
    subprocess.run(["cp", "-r", three_steps, tmp_path / "c"], check=True)
    damage(tmp_path / "c" / "3")
    step, lines = newest(tmp_path / "c")
    assert step == 2
    assert len(lines) == 1 and "\n" not in lines[0]
    assert lines[0].startswith(f"{tmp_path / 'c' / '3'}: checkpoint not used: ")
    assert DAMAGES[damage] in lines[0]


def test_without_an_intact_checkpoint_nothing_is_restored_nor_deleted(three_steps, tmp_path):
    subprocess.run(["cp", "-r", three_steps, tmp_path / "c"], check=True)
    flip_a_bit(tmp_path / "c" / "3")
    cut_a_file(tmp_path / "c" / "2")
    lose_a_file(tmp_path / "c" / "1")
    lines = []
    with Checkpoints(tmp_path / "c", warn=lines.append) as checkpoints:
        with pytest.raises(CheckpointError, match=r"c: no intact checkpoint; delete it to start again$"):
            checkpoints.restore(small(0))
        assert len(lines) == 3
        with pytest.raises(CheckpointError, match=r"holds step 3 of an earlier run"):
            checkpoints.save(1, small(1), {})
        assert checkpoints.steps() == [1, 2, 3]


def test_damaged_steps_make_way_when_the_run_comes_to_them_again(three_steps, tmp_path):
    subprocess.run(["cp", "-r", three_steps, tmp_path / "c"], check=True)
    flip_a_bit(tmp_path / "c" / "3")
    lose_the_seal(tmp_path / "c" / "2")
    with Checkpoints(tmp_path / "c", warn=lambda line: None) as checkpoints:
        assert restore(checkpoints, small(0)).step == 1
        checkpoints.save(2, small(2), {"position": 20}, wait=True)
        assert checkpoints.steps() == [1, 2]
        checkpoints.save(3, small(3), {"position": 30})
    assert newest(tmp_path / "c") == (3, [])


def test_a_run_that_looked_at_nothing_does_not_overwrite_an_earlier_one(three_steps, tmp_path):
    subprocess.run(["cp", "-r", three_steps, tmp_path / "c"], check=True)
    earlier = pytest.raises(CheckpointError, match="holds step 3 of an earlier run")
    with Checkpoints(tmp_path / "c") as checkpoints, earlier:
        checkpoints.save(2, small(2), {})
    assert newest(tmp_path / "c") == (3, [])


KILLED = """
    import os, signal, sys
    import jax.numpy as jnp
    from jaxrl_tok.io import manifest
    from jaxrl_tok.io.checkpoint import Checkpoints

    unsealed, unwritten = Checkpoints(sys.argv[1]), Checkpoints(sys.argv[2])
    small = {"w": jnp.ones((3,), jnp.float32)}
    big = {f"w{i}": jnp.sin(jnp.arange(1e6, dtype=jnp.float32) + i) for i in range(16)}
    for checkpoints in (unsealed, unwritten):
        checkpoints.save(1, small, {"position": 10}, wait=True)

    def hang(folder):
        unwritten.save(2, big, {"position": 20})
        while not list(unwritten.folder.glob("2.*")):
            pass
        os.kill(os.getpid(), signal.SIGKILL)

    manifest.seal = hang
    unsealed.save(2, small, {"position": 20}, wait=True)
"""


def test_a_kill_inside_a_write_costs_the_half_written_step_only(tmp_path):
    unsealed, unwritten = tmp_path / "unsealed", tmp_path / "unwritten"
    child = [sys.executable, "-c", textwrap.dedent(KILLED), unsealed, unwritten]
    killed = subprocess.run(child, cwd=Path(__file__).parents[2], timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert (unsealed / "2").is_dir()
    assert not (unwritten / "2").is_dir() and list(unwritten.glob("2.*tmp*"))
    for folder, warned in ((unsealed, 1), (unwritten, 0)):
        lines = []
        with Checkpoints(folder, warn=lines.append) as checkpoints:
            assert restore(checkpoints, small(0)).step == 1
            assert len(lines) == warned
            checkpoints.save(3, small(3), {"position": 30})
        assert newest(folder) == (3, [])
        assert sorted(path.name for path in folder.glob("[!.]*")) == ["1", "3"]


def test_a_folder_that_cannot_be_written_is_refused_at_the_start(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match=r"file/checkpoints: cannot write checkpoints here: Not a directory$"):
        Checkpoints(tmp_path / "file" / "checkpoints")


def test_a_second_writer_is_refused_and_a_reader_is_not(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, small(1), {"position": 10}, wait=True)
        with pytest.raises(CheckpointError, match="another process is writing to this run folder"):
            Checkpoints(tmp_path)
        assert newest(tmp_path) == (1, [])
    Checkpoints(tmp_path).close()


@pytest.fixture
def limit_file_size():
    """Makes writes past a size fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (soft if size is None else size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("when", ["at the wait", "at the next save", "at the close"])
def test_a_full_disk_gives_one_line_and_costs_no_older_checkpoint(tmp_path, limit_file_size, capfd, caplog, when):
    noise = {"w": jnp.asarray(np.random.default_rng(0).normal(size=50_000), jnp.float32)}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, noise, {"position": 10}, wait=True)
    limit_file_size(50_000)
    checkpoints.save(2, noise, {"position": 20})
    with pytest.raises(CheckpointError) as caught:
        if when == "at the wait":
            checkpoints.wait()
        elif when == "at the next save":
            checkpoints.save(3, noise, {"position": 30})
        else:
            checkpoints.close()
    limit_file_size(None)
    assert str(caught.value) == (f"{tmp_path / '2'}: cannot save this checkpoint: File too large (step 1 is finished)")
    assert capfd.readouterr().err == "" and caplog.records == []
    if when != "at the close":
        checkpoints.save(2, noise, {"position": 20})
        checkpoints.close()
    with Checkpoints(tmp_path) as again:
        assert restore(again, noise).step == (1 if when == "at the close" else 2)


def test_writes_that_end_after_their_save_failed_are_not_reported_again():
    loop = asyncio.new_event_loop()
    loop.close()
    with pytest.raises(RuntimeError, match="closed") as caught:
        loop.call_soon_threadsafe(print)
    here = caught.value.__traceback__
    late, other = (types.SimpleNamespace(exc_traceback=trace) for trace in (here.tb_next, here))
    seen = []
    for unraisable in (late, other):
        checkpoint._except_late_writes(seen.append, unraisable)
    assert seen == [other]
