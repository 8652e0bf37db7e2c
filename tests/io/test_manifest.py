import os
import shutil
import subprocess
from pathlib import Path

import pytest

from jaxrl_tok.io import manifest


@pytest.fixture
def sealed(tmp_path) -> Path:
    folder = tmp_path / "5"
    (folder / "state" / "d").mkdir(parents=True)
    (folder / "state" / "d" / "data").write_bytes(bytes(range(256)) * 40)
    (folder / "state" / "empty").write_bytes(b"")
    (folder / "note with a space").write_text("é\n")
    assert not manifest.is_sealed(folder)
    manifest.seal(folder)
    return folder


def test_a_sealed_folder_is_intact_and_sha256sum_agrees(sealed):
    assert manifest.is_sealed(sealed)
    assert manifest.damage(sealed) is None
    assert len((sealed / manifest.NAME).read_text().splitlines()) == 3
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--strict", "--quiet", manifest.NAME], cwd=sealed, check=True)


def test_hidden_files_of_a_file_manager_are_no_damage(sealed):
    (sealed / ".DS_Store").write_bytes(b"x")
    assert manifest.damage(sealed) is None


def test_every_flipped_bit_of_the_data_is_found(sealed):
    path = sealed / "state" / "d" / "data"
    content = path.read_bytes()
    for position in (0, 5000, len(content) - 1):
        for bit in range(8):
            path.write_bytes(content[:position] + bytes([content[position] ^ 1 << bit]) + content[position + 1 :])
            assert manifest.damage(sealed) == f"state/d/data differs from its SHA-256 in {manifest.NAME}"


def test_flipped_bits_and_cuts_anywhere_in_the_seal_are_found(tmp_path):
    (tmp_path / "data").write_bytes(b"x")
    manifest.seal(tmp_path)
    path = tmp_path / manifest.NAME
    content = path.read_bytes()
    for position in range(len(content)):
        for bit in (0, 5):  # another digit or separator, and the other case of a letter
            path.write_bytes(content[:position] + bytes([content[position] ^ 1 << bit]) + content[position + 1 :])
            assert manifest.damage(tmp_path) is not None, (position, bit)
    for length in range(len(content)):
        path.write_bytes(content[:length])
        assert manifest.damage(tmp_path) is not None, length


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            lambda folder: os.truncate(folder / "state" / "d" / "data", 100),
            "state/d/data differs from its SHA-256",
        ),
        (
            lambda folder: (folder / "state" / "empty").write_bytes(b"x"),
            "state/empty differs from its SHA-256",
        ),
        (lambda folder: (folder / "state" / "empty").unlink(), "state/empty is missing"),
        (lambda folder: shutil.rmtree(folder / "state"), "state/d/data is missing"),
        (lambda folder: (folder / "state" / "more").touch(), "state/more is not in SHA256SUMS"),
    ],
)
def test_damage_names_the_file(sealed, change, line):
    change(sealed)
    assert (manifest.damage(sealed) or "").startswith(line)


def test_a_broken_seal_is_no_seal(sealed):
    manifest.break_seal(sealed)
    assert not manifest.is_sealed(sealed)
    manifest.break_seal(sealed)
