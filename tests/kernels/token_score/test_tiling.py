import jax
import jax.numpy as jnp
import pytest

from jaxrl_tok.kernels.token_score import block_sizes, pallas_tpu, tiling
from jaxrl_tok.kernels.token_score.common import Options, Rows
from jaxrl_tok.kernels.token_score.tiling import Blocks


def test_a_table_answers_for_what_it_lists_and_for_the_rest():
    table = {None: {None: (1, 2, 3)}, "A": {(8, 9): (4, 5, 6)}, "B": {None: (7, 8, 9)}}
    assert tiling.listed(table, "A", 8, 9) == Blocks(4, 5, 6)
    assert tiling.listed(table, "A", 8, 10) == tiling.listed(table, "C", 8, 9) == Blocks(1, 2, 3)
    assert tiling.listed(table, "B", 8, 9) == Blocks(7, 8, 9)


@pytest.mark.parametrize(
    ("tokens", "rows"), [(1, 16), (13, 16), (40, 64), (1024, 1024), (1025, 544), (1100, 576), (8192, 1024)]
)
def test_rows_are_dealt_out_evenly(tokens, rows):
    assert tiling.even(tokens, 1024) == rows
    assert -(-tokens // rows) == -(-tokens // 1024)
    assert rows % tiling.at_once(rows) == 0


def test_what_does_not_fit_gets_smaller_in_depth_first():
    most = [10**9]

    def fits(blocks):
        return blocks.rows * blocks.columns * blocks.depth <= most[0]

    wanted = Blocks(1024, 1024, 16384)
    assert tiling.fitted(wanted, 640, fits) == Blocks(1024, 1024, 640)
    most[0] = 1024 * 1024 * 400
    assert tiling.fitted(wanted, 640, fits) == Blocks(1024, 1024, 128)
    assert tiling.fitted(wanted, 640, fits, whole=True) == Blocks(1024, 512, 640)
    assert tiling.fitted(wanted, 600, fits) == Blocks(1024, 512, 600)  # no part of 600 is a multiple of 128
    most[0] = 0
    assert tiling.fitted(wanted, 640, fits) == Blocks(16, 128, 128)
    assert tiling.fitted(wanted._replace(depth=256), 1024, lambda _: True) == Blocks(1024, 1024, 256)


@pytest.mark.parametrize("chip", ["TPU v5 lite", "TPU v5", "TPU v6 lite"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_blocks_of_common_shapes_fit_every_chip(chip, dtype, monkeypatch):
    monkeypatch.setattr(pallas_tpu.device, "target", lambda: pallas_tpu.device.Device("tpu", chip))
    for size in (896, 1536, 2048, 2560, 3584, 4096, 5120, 7168, 8192, 16384):
        found = []

        def look(rows, head, found=found):
            found.append(pallas_tpu.blocks_of(rows, head, Options("dv", None, True, None)))
            return head

        head = jax.ShapeDtypeStruct((size, 151936), dtype)
        vector = jax.ShapeDtypeStruct((8192,), jnp.float32)
        jax.eval_shape(look, Rows(jax.ShapeDtypeStruct((8192, size), dtype), vector, vector, None), head)
        (blocks,) = found
        assert size % blocks.depth == 0
        assert pallas_tpu.memory(blocks, head.dtype.itemsize, 4) <= tiling.budget(chip) < tiling.vmem(chip)
        # As many rows as keep the chip busy, for each column that is read.
        assert blocks.rows >= 1024


def test_the_table_is_of_whole_lanes():
    for of_chip in block_sizes.PALLAS_TPU.values():
        for rows, columns, depth in of_chip.values():
            assert rows % 32 == columns % 128 == depth % 128 == 0
