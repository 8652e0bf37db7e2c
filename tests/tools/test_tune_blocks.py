import shutil

from jaxrl_tok.kernels.token_score.tiling import Blocks
from tools import tune_blocks as tool


def test_it_measures_every_candidate_that_compiles(monkeypatch, capsys):
    sizes = ((16, 32), (128,), (64, 128))
    monkeypatch.setitem(tool.SIZES, "pallas_tpu", sizes)
    arguments = "--backend pallas_tpu --rows 32 --size 64 --columns 150 --dtype float32 --rounds 3 --interpret"
    monkeypatch.setattr("sys.argv", ["tune_blocks.py", *arguments.split()])
    assert tool.main() == 0
    printed = capsys.readouterr().out
    assert printed.count(" ms") == 2
    assert "(16, 128, 64)" in printed
    assert "(32, 128, 64)" in printed


def test_it_says_why_it_cannot_measure_here(monkeypatch, capsys):
    shape = ["--backend", "pallas_gpu", "--rows", "8", "--size", "8", "--columns", "8"]
    monkeypatch.setattr("sys.argv", ["tune_blocks.py", *shape])
    assert tool.main() == 2
    assert "it runs on GPU, and this is cpu" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["tune_blocks.py", *shape, "--interpret", "--write"])
    assert tool.main() == 2


def test_candidates_deal_out_d_evenly():
    found = tool.candidates("pallas_tpu", 1000, 3072)
    assert {one.depth for one in found} == {512, 1024, 3072}
    assert {one.rows for one in found} == {256, 512, 1000}


def test_what_it_writes_is_read_back_and_leaves_the_rest(tmp_path):
    path = tmp_path / "block_sizes.py"
    shutil.copy(tool.TABLE, path)
    before = vars_of(path)
    tool.write(path, "PALLAS_TPU", "TPU v6 lite", (4096, 151936), Blocks(512, 1024, 2048))
    tool.write(path, "PALLAS_TPU", "TPU v6 lite", (2048, 151936), Blocks(1024, 1024, 2048))
    tool.write(path, "PALLAS_TPU", "TPU v6 lite", (4096, 151936), Blocks(1024, 512, 4096))
    after = vars_of(path)
    table = after.pop("PALLAS_TPU")
    assert table.pop("TPU v6 lite") == {(4096, 151936): (1024, 512, 4096), (2048, 151936): (1024, 1024, 2048)}
    assert {**after, "PALLAS_TPU": table} == before
    comments = [line for line in tool.TABLE.read_text().splitlines() if line.startswith("#")]
    assert [line for line in path.read_text().splitlines() if line.startswith("#")] == comments


def vars_of(path):
    """Gives the upper-case names of a Python file."""
    names = {}
    exec(path.read_text(), names)
    return {name: value for name, value in names.items() if name.isupper()}
