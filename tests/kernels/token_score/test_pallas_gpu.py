import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.kernels import token_score
from jaxrl_tok.kernels.token_score import pallas_gpu, reference
from jaxrl_tok.kernels.token_score.common import Options, Rows, Sums
from jaxrl_tok.kernels.token_score.tiling import Blocks
from jaxrl_tok.train.topology import topology
from tests.helpers import need
from tests.kernels.token_score.test_pallas_tpu import EXTRAS, check, draw


@pytest.mark.parametrize(
    ("layout", "blocks", "limit", "cut", "extras"),
    [
        ("dv", Blocks(16, 32, 16), None, False, EXTRAS),  # ragged rows, columns and D; several shares
        ("vd", Blocks(32, 64, 32), 170, True, EXTRAS),
        ("dv", Blocks(64, 64, 64), 0, False, EXTRAS),
        ("dv", Blocks(16, 64, 16), None, True, ()),
    ],
)
def test_against_the_definition(layout, blocks, limit, cut, extras):
    rows, head = draw(45, 40, 300, layout, cut=cut)
    options = Options(layout, 5.0 if cut else None, True, None, (), extras)
    limit = None if limit is None else jnp.int32(limit)
    how = {"blocks": blocks, "interpret": True}
    got = jax.jit(lambda rows, head: pallas_gpu.forward(rows, head, options, limit, **how))(rows, head)
    want = jax.jit(lambda rows, head: reference.forward(rows, head, options, limit))(rows, head)
    here = (rows.targets >= 0) & (rows.targets < (300 if limit is None else limit))
    want = want._replace(target_logit=jnp.where(here, want.target_logit, 0))
    check(got, want, [name for name in Sums._fields if name in (*Sums._fields[:4], *extras)])


def test_elsewhere_it_says_why_it_cannot_run():
    inputs = jnp.ones((2, 16)), jnp.ones((16, 8)), jnp.zeros(2, jnp.int32)
    with pytest.raises(ConfigError, match="backend 'pallas_gpu' cannot run: it runs on GPU, and this is cpu"):
        token_score(*inputs, backend="pallas_gpu")


def test_by_its_name_it_scores_with_gradients():
    rows, head = draw(20, 24, 150)
    targets = jnp.clip(rows.targets, 0, 149)

    def both(backend):
        def loss(hidden, head):
            got = token_score(hidden, head, targets, backend=backend, inv_temperature=rows.inv_temperature)
            return jnp.sum(got.logprobs + got.entropy), got

        return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(rows.hidden, head)

    got, want = both("pallas_gpu_interpret"), both("reference")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, want)


@pytest.mark.aot
@pytest.mark.parametrize(("layout", "extras"), [("dv", ()), ("vd", EXTRAS)])
def test_it_compiles_for_an_h100(layout, extras):
    need("jax_cuda13_plugin")
    mesh = jax.sharding.Mesh(np.array(topology("h100:1").devices), ("data",))
    whole = jax.sharding.NamedSharding(mesh, jax.P())

    def array(shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=whole)

    tokens, size, columns = 8192, 4096, 151936
    vector, options = array((tokens,)), Options(layout, None, True, None, (), extras)
    pivot = vector if extras else None
    rows = Rows(array((tokens, size), jnp.bfloat16), array((tokens,), jnp.int32), vector, None, pivot)
    head = array((size, columns) if layout == "dv" else (columns, size), jnp.bfloat16)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        assert pallas_gpu.device.target().platform == "gpu"
        program = jax.jit(lambda rows, head: pallas_gpu.forward(rows, head, options)).lower(rows, head).compile()
    assert "__gpu$xla.gpu.triton" in program.as_text()
    # Some numbers for each token and share of the vocabulary; logits would be 4.6 GiB.
    assert program.memory_analysis().temp_size_in_bytes < 2**23
