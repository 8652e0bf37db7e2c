"""The locks in tools/locks against pyproject.toml: all is pinned, with a hash, and names no index."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tools import lock

PYPROJECT = tomllib.loads((lock.ROOT / "pyproject.toml").read_text())
NAMES = list(lock.requirements(PYPROJECT))
# One linux machine for each interpreter that the locks promise.
MACHINES = [
    {"python_full_version": f"{version}.1", "python_version": version, "sys_platform": "linux", "extra": ""}
    for version in ("3.11", "3.12", "3.13")
]


def entries(name: str) -> list[tuple[Requirement, list[str]]]:
    """Each requirement of a lock with its hashes."""
    text = (lock.ROOT / lock.LOCKS / f"{name}.lock").read_text().replace("\\\n", " ")
    found = []
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            pin, *hashes = line.split("--hash=")
            found.append((Requirement(pin), [one.strip() for one in hashes]))
    return found


def pins(name: str, machine: dict[str, str]) -> dict[str, str]:
    """Package -> version on that machine."""
    fitting = [need for need, _ in entries(name) if need.marker is None or need.marker.evaluate(machine)]
    return {canonicalize_name(need.name): str(need.specifier).removeprefix("==") for need in fitting}


def test_every_lock_file_belongs_to_an_extra():
    assert {path.stem for path in (lock.ROOT / lock.LOCKS).glob("*.lock")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_pin_is_exact_and_hashed_and_names_no_index(name):
    text = (lock.ROOT / lock.LOCKS / f"{name}.lock").read_text()
    assert not re.search(r"://|^--|file:", text, re.MULTILINE)
    for need, hashes in entries(name):
        assert re.fullmatch(r"==[\w.+!-]+", str(need.specifier)), need
        assert hashes and all(re.fullmatch("sha256:[0-9a-f]{64}", one) for one in hashes), need


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine["python_version"])
@pytest.mark.parametrize("name", NAMES)
def test_locks_hold_what_pyproject_asks_for(name, machine):
    held = pins(name, machine)
    for need in map(Requirement, lock.requirements(PYPROJECT)[name]):
        assert need.specifier.contains(held[canonicalize_name(need.name)], prereleases=True), need


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine["python_version"])
def test_locks_agree_so_that_any_of_them_fit_together(machine):
    seen = {}
    for name in NAMES:
        for package, version in pins(name, machine).items():
            assert seen.setdefault(package, (version, name))[0] == version, (package, name, seen[package])


def test_jax_is_the_newest_that_each_python_can_have():
    versions = [Version(pins("requirements", machine)["jax"]) for machine in MACHINES]
    assert versions[0].release[:2] == (0, 10) and min(versions[1:]) >= Version("0.12")
