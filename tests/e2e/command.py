"""Runs `jaxrl-tok train` on a run small enough for any test, in this process or in one of its own."""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import NamedTuple

import pytest

from jaxrl_tok import cli

ROOT = Path(__file__).parents[2]
MARK = "JAXRL_TOK_TEST_MARK"  # in the environment of a command and of all that it starts
QUESTIONS = ("1+2=", "3+4=", "5+6=", "7+8=")

# Everything that rolls out and learns, and nothing else: no warm-up, no reference, no evaluation.
RUN = """\
recipe = "grpo"
[model]
layers = 1
dim = 16
heads = 2
kv_heads = 1
head_dim = 8
ffw = 32
[run]
steps = 3
checkpoint_every = 2
show_completions_every = 0
trackers = []
[data]
source = "files"
paths = "questions.jsonl"
heldout_fraction = 0.0
[tokenizer]
alphabet = "0123456789+="
[rollout]
prompts = 4
group = 4
max_prompt = 8
max_tokens = 24
[reward.length]
function = "my_rewards:length"
[rewards]
workers = 1
[eval]
prompts = 0
"""


BUILT = {}  # what `built_once` has built, for all modules of tests


class Ended(NamedTuple):
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    @property
    def warnings(self) -> list[str]:
        return [line for line in self.out.splitlines() if line.startswith("warning: ")]

    def error(self, code: int = 2) -> str:
        """Returns the one line of a mistake, after checking that it is one."""
        lines = self.err.splitlines()
        assert (self.code, len(lines)) == (code, 1), self
        assert lines[0].startswith("error: ") and "Traceback" not in self.out, self
        return lines[0].removeprefix("error: ")


def write(folder: Path, judge: str = "length", questions: str | None = None) -> Path:
    """Writes a run file, its data, and beside them a reward module whose `length` is one of `judges.py`."""
    folder.mkdir(exist_ok=True)
    (folder / "run.toml").write_text(RUN)
    rows = "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in QUESTIONS)
    (folder / "questions.jsonl").write_text(rows if questions is None else questions)
    (folder / "my_rewards.py").write_text(f"from tests.e2e.judges import {judge} as length\n")
    return folder


def train(folder: Path, *sets: str, file: str = "run.toml") -> Ended:
    """Runs the command in this process, as a user in `folder` would."""
    import jax

    arguments = ["jaxrl-tok", "train", file, *(f"--set={item}" for item in sets)]
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", arguments)
        patch.chdir(folder)
        # optax and the loop's host code are not written for strict promotion.
        with jax.numpy_dtype_promotion("standard"), pytest.raises(SystemExit) as ended:
            cli.main()
    return Ended(ended.value.code or 0, out.getvalue(), err.getvalue())


def built_once(patch: pytest.MonkeyPatch) -> None:
    """Lets runs of the same shapes share their compiled programs: what is built depends on nothing else."""
    from jaxrl_tok.train import build as module

    build = module.build

    def once(run, tokenizer, num_prompts, **rest):
        shapes = run.model_dump(exclude={"run", "data", "reward", "rewards"})
        key = json.dumps([shapes, run.run.seed, num_prompts], sort_keys=True)
        if key not in BUILT:
            BUILT[key] = build(run, tokenizer, num_prompts, **rest)
        main = dataclasses.replace(BUILT[key].main, steps=run.run.steps)
        return dataclasses.replace(BUILT[key], run=run, main=main)

    patch.setattr(module, "build", once)


PROGRAM = """
import resource, sys
from jaxrl_tok.cli import command
limit = int(sys.argv.pop(1))
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
command()
"""


def train_apart(folder: Path, *sets: str, largest_file: int = 0, seconds: float = 120) -> Ended:
    """Runs the command in a process of its own; checks that it ends, and that nothing it started is left.

    With `largest_file`, the system refuses to let any file grow beyond so many bytes, as a full disk does.
    """
    mark = uuid.uuid4().hex
    settings = {
        MARK: mark,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    arguments = ["train", "run.toml", *(f"--set={item}" for item in sets)]
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(largest_file), *arguments],
        cwd=folder,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    end = time.monotonic() + 3
    while left := marked(mark):
        assert time.monotonic() < end, f"processes {left} outlive the command"
        time.sleep(0.05)
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def marked(mark: str) -> list[int]:
    """Returns the processes with the mark in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # gone by now, or another user's
            if f"{MARK}={mark}".encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def contents(folder: Path) -> dict[str, str]:
    """Returns the digest of every file under a run folder, by name."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
