import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.experimental.pallas import tpu as pltpu

from jaxrl_tok.kernels.attention import attention
from tests.helpers import need
from tests.kernels.attention.cases import CASES, evaluate, expected


@pytest.mark.parametrize("name", ["few tries", pytest.param("one head of keys, one token", marks=pytest.mark.slow)])
def test_no_races_and_nothing_read_that_was_not_written(name):
    from jax._src.pallas.mosaic.interpret import interpret_pallas_call as interpreter

    arrays, want = expected(name)
    # Memory that nobody wrote is NaN there, and would show.
    got = evaluate(CASES[name], arrays, "pallas_tpu", pltpu.InterpretParams(detect_races=True))
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    # jax 0.12 raises at a race; jax 0.10 notes it.
    assert interpreter.races is None or not interpreter.races.races_found


def compiled(topology, size, monkeypatch, **rest):
    """Gives the executable of value and gradients of 16 query heads over 8, of size 128, for one chip."""
    for name in ("TPU_SKIP_MDS_QUERY", "ALLOW_MULTIPLE_LIBTPU_LOAD"):
        monkeypatch.setitem(os.environ, name, "1")
    chips = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    mesh = jax.sharding.Mesh(np.array(chips.devices[:1]), ("data",))
    whole = jax.sharding.NamedSharding(mesh, jax.P())

    def both(q, k, v, ids, w):
        o, pull = jax.vjp(lambda q, k, v: attention(q, k, v, **{name: ids for name in rest}), q, k, v)
        return o, *pull(w)

    shapes = [((1, size, n, 128), jnp.bfloat16) for n in (16, 8, 8)]
    shapes += [((1, size), jnp.int32), ((1, size, 16, 128), jnp.bfloat16)]
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        inputs = (jax.ShapeDtypeStruct(shape, dtype, sharding=whole) for shape, dtype in shapes)
        return jax.jit(both).lower(*inputs).compile()


@pytest.mark.aot
@pytest.mark.parametrize("topology", ["v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_trees_compile_for_tpus_with_memory_linear_in_tokens(topology, monkeypatch):
    need("libtpu")
    for size in (16384, 32768) if topology == "v5e:2x2" else (16384,):
        program = compiled(topology, size, monkeypatch, ends=True)
        assert program.as_text().count('custom_call_target="tpu_custom_call"') == 3
        # Four times the queries at most: copies of q, o and its cotangent with heads first, and single numbers a head.
        # The scores of one head would be 32 times the queries, at the shorter size.
        assert program.memory_analysis().temp_size_in_bytes <= 4 * size * 16 * 128 * 2


@pytest.mark.aot
@pytest.mark.parametrize("masks", ["segments", "none"])
def test_rows_compile_for_tpus_through_splash(masks, monkeypatch):
    need("libtpu")
    rest = {"segments": True} if masks == "segments" else {}
    program = compiled("v5e:2x2", 2048, monkeypatch, **rest)
    assert program.as_text().count('custom_call_target="tpu_custom_call"') == 3
