"""Writes the lock files: what `tools/run` installs, pinned with hashes for every platform and Python.

    tools/run python tools/lock.py            keeps every pinned version that still fits pyproject.toml
    tools/run python tools/lock.py --upgrade  takes the newest versions

`build` holds what installs the rest; `requirements` the dependencies and the extra `test`; every other
extra has a lock of its own with all that it needs. Each is solved under the pins of those before it, so
that any of them fit into one environment and no extra holds back a dependency of the project.
"""

import argparse
import os
import subprocess
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = Path("tools/locks")

# Nothing is built in isolation, since what an isolated build fetches is not checked against a hash.
BUILD = [
    "pip",
    "uv",
    "setuptools",  # builds `promise` and, in the extra `gym`, `pycosat`
    "hatchling",  # builds this project
    "editables",  # which hatchling needs to install it in editable mode
]


def requirements(pyproject: dict) -> dict[str, list[str]]:
    """Gives each lock's name and what it must satisfy, in the order in which they are solved."""
    project = pyproject["project"]
    extras = dict(project["optional-dependencies"])
    return {"build": BUILD, "requirements": project["dependencies"] + extras.pop("test"), **extras}


def compile_lock(name: str, needs: Sequence[str], under: Sequence[str], upgrade: bool) -> None:
    """Solves `needs` under the pins of the locks named in `under`, and writes the lock `name`."""
    command = ["uv", "pip", "compile", "-", "--universal", "--python-version", "3.11", "--generate-hashes"]
    command += [
        "--no-emit-index-url",
        "--annotation-style",
        "line",
        "--quiet",
        "--output-file",
        str(LOCKS / f"{name}.lock"),
    ]
    command += ["--custom-compile-command", "tools/run python tools/lock.py"]
    command += ["--excludes", str(LOCKS / "excluded.txt")]
    for other in under:
        command += ["--constraints", str(LOCKS / f"{other}.lock")]
    if upgrade:
        command += ["--upgrade"]
    # Places of this machine alone have no part in a lock.
    environment = {key: value for key, value in os.environ.items() if key != "UV_FIND_LINKS"}
    subprocess.run(command, input="\n".join(needs), text=True, check=True, cwd=ROOT, env=environment)


def main() -> None:
    """Writes every lock, `build` first."""
    parser = argparse.ArgumentParser(description="Writes tools/locks/*.lock.")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions")
    upgrade = parser.parse_args().upgrade
    done: list[str] = []
    for name, needs in requirements(tomllib.loads((ROOT / "pyproject.toml").read_text())).items():
        compile_lock(name, needs, done, upgrade)
        done.append(name)
        print(f"{LOCKS / name}.lock")


if __name__ == "__main__":
    main()
