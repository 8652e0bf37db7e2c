"""tools/run on a small tree with a stand-in for uv, which logs what it is asked for and installs nothing."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

RUN = Path(__file__).parents[2] / "tools" / "run"

UV = """#!/bin/sh
echo "$@" >>"$LOG"
for last; do :; done
case "$*" in
    --version) ;;
    venv*) "$PYTHON_OF_TEST" -m venv --without-pip "$last" && cp "$0" "$last/bin/uv" ;;
    *requirements.lock) sleep "${NAP:-0.05}" ;;
    *) ! grep -qs broken "$last" ;;
esac
"""


class Tree:
    """A project of three empty locks in `folder`, and a way to call its tools/run."""

    def __init__(self, folder: Path):
        self.folder, self.log = folder / "project", folder / "log"
        (self.folder / "tools" / "locks").mkdir(parents=True)
        shutil.copy(RUN, self.folder / "tools" / "run")
        for name in ("build", "requirements", "gym"):
            self.lock(name).touch()
        (self.folder / "pyproject.toml").touch()
        (folder / "bin").mkdir()
        (folder / "bin" / "uv").write_text(UV)
        (folder / "bin" / "uv").chmod(0o755)
        self.environment = {
            "PATH": f"{folder / 'bin'}:/usr/bin:/bin",
            "PYTHON": sys.executable,
            "PYTHON_OF_TEST": sys.executable,
            "LOG": str(self.log),
        }

    def lock(self, name: str) -> Path:
        return self.folder / "tools" / "locks" / f"{name}.lock"

    def start(self, *arguments, cwd=None, start_new_session=False, **environment) -> subprocess.Popen:
        return subprocess.Popen(
            [str(self.folder / "tools" / "run"), *arguments],
            cwd=cwd,
            start_new_session=start_new_session,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments, cwd=None, **environment) -> tuple[int, str, str]:
        process = self.start(*arguments, cwd=cwd, **environment)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def asked(self) -> list[str]:
        """What uv was asked for since the last call of this, by the last word of each request."""
        words = [line.split()[-1] for line in self.log.read_text().splitlines() if "--version" not in line]
        self.log.write_text("")
        return [Path(word).name for word in words]


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


ALL = [".venv", "build.lock", "requirements.lock", "project"]


def test_first_call_sets_up_and_second_asks_for_nothing(tree):
    assert tree.run("true")[0] == 0
    assert tree.asked() == ALL
    assert tree.run("true") == (0, "", "")
    assert tree.asked() == []


def test_command_gets_its_arguments_folder_and_environment_and_gives_its_status(tree, tmp_path):
    program = "import os, sys; print(sys.argv[1:], os.getcwd(), sys.prefix, os.environ['VIRTUAL_ENV']); sys.exit(7)"
    status, out, _ = tree.run("python", "-c", program, "a b", "--extra", "", cwd=tmp_path)
    venv = tree.folder / ".venv"
    assert (status, out) == (7, f"['a b', '--extra', ''] {tmp_path} {venv} {venv}\n")


def test_what_changed_is_installed_again(tree):
    tree.run("true")
    tree.asked()
    (tree.folder / "pyproject.toml").write_text("# other\n")
    tree.run("true")
    assert tree.asked() == ["project"]
    tree.lock("requirements").write_text("# other\n")
    tree.run("true")
    assert tree.asked() == ALL


def test_a_moved_folder_is_set_up_again(tree, tmp_path):
    tree.run("true")
    tree.asked()
    tree.folder = tree.folder.rename(tmp_path / "project moved")
    tree.run("true")
    assert tree.asked() == [".venv", "build.lock", "requirements.lock", "moved"]


def test_extras_are_added_once_and_outlive_calls_without_them(tree):
    tree.run("true")
    tree.asked()
    assert tree.run("--extra", "gym", "true")[0] == 0
    assert tree.run("true")[0] == 0
    assert tree.run("--extra=gym", "true")[0] == 0
    assert tree.asked() == ["gym.lock"]


def test_failed_installation_runs_nothing_and_is_tried_again(tree):
    tree.lock("gym").write_text("broken\n")
    status, out, err = tree.run("--extra", "gym", "echo", "ran")
    assert status != 0 and out == "" and "once more with pip" in err
    tree.lock("gym").write_text("")
    tree.asked()
    assert tree.run("--extra", "gym", "echo", "ran")[:2] == (0, "ran\n")
    assert tree.asked() == ["gym.lock"]


def test_a_killed_set_up_is_not_taken_for_a_finished_one(tree):
    process = tree.start("true", NAP="60", start_new_session=True)
    while not (tree.log.exists() and "requirements.lock" in tree.log.read_text()):
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    tree.asked()
    assert tree.run("true")[0] == 0
    assert tree.asked() == ALL


def test_two_calls_at_once_set_up_once(tree):
    both = [tree.start("echo", "ran") for _ in range(2)]
    assert [process.communicate(timeout=60)[0] for process in both] == ["ran\n", "ran\n"]
    assert tree.asked() == ALL


def test_variables_of_pip_reach_uv(tree):
    uv = Path(tree.environment["PATH"].split(":")[0]) / "uv"
    uv.write_text(UV.replace('echo "$@"', 'env >"$LOG.env"; echo "$@"'))
    tree.run("true", PIP_INDEX_URL="first", PIP_EXTRA_INDEX_URL="second third", PIP_FIND_LINKS="a b")
    told = Path(f"{tree.log}.env").read_text().splitlines()
    assert {"UV_DEFAULT_INDEX=first", "UV_INDEX=second third", "UV_FIND_LINKS=a,b"} <= set(told)


@pytest.mark.parametrize(
    ("arguments", "environment", "says"),
    [
        (["--extra", "gim", "true"], {}, "no extra 'gim'"),
        (["--extra"], {}, "COMMAND [ARGUMENT]"),
        (["--other", "true"], {}, "COMMAND [ARGUMENT]"),
        ([], {}, "COMMAND [ARGUMENT]"),
        (["true"], {"PYTHON": "python-that-is-not"}, "no interpreter 'python-that-is-not'"),
    ],
)
def test_mistakes_get_a_message_and_change_nothing(tree, arguments, environment, says):
    status, out, err = tree.run(*arguments, **environment)
    assert (status, out) == (2, "") and says in err
    assert not tree.log.exists()


def test_a_folder_of_someone_elses_is_not_touched(tree, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "work").write_text("dear")
    status, _, err = tree.run("true", VENV=str(tmp_path / "mine"))
    assert status == 2 and "not of tools/run's making" in err
    assert (tmp_path / "mine" / "work").read_text() == "dear"


def test_an_old_interpreter_is_refused_with_its_version(tree, tmp_path):
    old = tmp_path / "old-python"
    old.write_text('#!/bin/sh\ncase "$*" in *print*) echo "$0" ;; -V) echo Python 3.9.2 ;; *) exit 1 ;; esac\n')
    old.chmod(0o755)
    status, _, err = tree.run("true", PYTHON=str(old))
    assert status == 2 and "Python 3.9.2, and 3.11 or newer is needed" in err


def test_an_interpreter_asked_for_by_another_name_makes_another_environment(tree):
    tree.run("true")
    tree.asked()
    assert tree.run("true", PYTHON="")[0] == 0 and tree.asked() == []
    link = tree.folder / "python-by-link"
    link.symlink_to(sys.executable)
    assert tree.run("true", PYTHON=str(link))[0] == 0 and tree.asked() == ALL
