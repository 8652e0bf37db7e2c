"""Weight files against the format's own library, both ways, and damaged ones."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from jaxrl_tok.errors import CheckpointError
from jaxrl_tok.io import safetensors
from jaxrl_tok.io.safetensors import Folder, Tensor

TENSORS = {
    "a.weight": np.arange(24, dtype=np.float32).reshape(6, 4),
    "b.bias": np.linspace(-1, 1, 5, dtype=np.float32),
    "c.weight": np.arange(30, dtype=np.float32).reshape(5, 3, 2),
}


def written(folder, dtype=np.float32, **options):
    named = [(Tensor(name, x.shape), lambda x=x: x) for name, x in TENSORS.items()]
    safetensors.write(folder, named, np.dtype(dtype), **options)
    return folder


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_rows_of_a_file_that_the_library_wrote(tmp_path, dtype):
    save_file({name: x.astype(dtype) for name, x in TENSORS.items()}, tmp_path / "model.safetensors")
    folder = Folder(tmp_path)
    assert folder.shapes == {name: x.shape for name, x in TENSORS.items()}
    rows = folder.rows("c.weight", 1, 4)
    assert rows.dtype == dtype
    np.testing.assert_array_equal(rows, TENSORS["c.weight"][1:4].astype(dtype))


def test_the_library_reads_what_is_written(tmp_path):
    found = load_file(written(tmp_path) / "model.safetensors")
    assert list(found) and all((found[name] == x).all() for name, x in TENSORS.items())
    with safe_open(tmp_path / "model.safetensors", framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}


def test_bfloat16_is_rounded_to_the_nearest(tmp_path):
    found = Folder(written(tmp_path, ml_dtypes.bfloat16)).rows("b.bias", 0, 5)
    np.testing.assert_array_equal(found, TENSORS["b.bias"].astype(ml_dtypes.bfloat16))


def test_shards_and_their_index(tmp_path):
    # 96, 20 and 120 bytes: the first two go together.
    written(tmp_path, shard_bytes=120)
    files = sorted(file.name for file in tmp_path.iterdir())
    assert files == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", safetensors.INDEX]
    index = json.loads((tmp_path / safetensors.INDEX).read_text())
    assert index["metadata"] == {"total_size": 236}
    assert index["weight_map"] == {"a.weight": files[0], "b.bias": files[0], "c.weight": files[1]}
    np.testing.assert_array_equal(Folder(tmp_path).rows("c.weight", 0, 5), TENSORS["c.weight"])


def refused(folder):
    with pytest.raises(CheckpointError) as caught:
        Folder(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_truncated_file(tmp_path):
    file = written(tmp_path) / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    line = f"{file}: truncated: {len(whole) - 1} bytes, and {len(whole)} by its header; tensor c.weight is cut off"
    assert refused(tmp_path) == line
    for kept in (0, 7, 20):
        file.write_bytes(whole[:kept])
        assert refused(tmp_path) == f"{file}: no safetensors file, or truncated within its header"
    file.write_bytes(b"\x02" + bytes(7) + b"[]" + bytes(9))
    assert "its header is not the JSON" in refused(tmp_path)


def test_a_missing_shard_and_an_index_that_names_too_much(tmp_path):
    written(tmp_path, shard_bytes=120)
    (tmp_path / "model-00002-of-00002.safetensors").rename(tmp_path / "elsewhere")
    assert "model-00002-of-00002.safetensors: no such file" in refused(tmp_path)
    (tmp_path / "elsewhere").rename(tmp_path / "model-00002-of-00002.safetensors")
    index = json.loads((tmp_path / safetensors.INDEX).read_text())
    index["weight_map"]["d.weight"] = "model-00001-of-00002.safetensors"
    (tmp_path / safetensors.INDEX).write_text(json.dumps(index))
    assert refused(tmp_path).endswith("model-00001-of-00002.safetensors: tensor d.weight is not in it, "
                                      "and model.safetensors.index.json says so")  # fmt: skip


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": {"a": "../b"}}', '{"weight_map": {"a": 3}}'])
def test_an_index_that_is_none(tmp_path, text):
    (tmp_path / safetensors.INDEX).write_text(text)
    assert "expected a JSON object whose weight_map has a file's name for each tensor" in refused(tmp_path)


def test_pickles_are_refused_with_the_way_out(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    line = refused(tmp_path)
    assert "pytorch_model.bin: a pickle, which may run any code" in line and "save_pretrained(OUT)" in line
    (tmp_path / "pytorch_model.bin").unlink()
    assert (
        refused(tmp_path) == f"{tmp_path}: expected model.safetensors, or model.safetensors.index.json and its shards"
    )


def test_a_tensor_of_another_type(tmp_path):
    save_file({"a": np.arange(3)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"tensor a: type I64, expected one of F64, F32, F16, BF16"):
        Folder(tmp_path).rows("a", 0, 1)
