import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.sharding.local import per_shard
from jaxrl_tok.sharding.mesh import make_mesh
from jaxrl_tok.sharding.place import replicate
from jaxrl_tok.train.compilation import compiled

ROWS, HEAD = ("batch", "positions", None), ("vocab", "embed")
X = jnp.arange(8 * 2 * 4, dtype=jnp.float32).reshape(8, 2, 4)
W = jnp.arange(6 * 4, dtype=jnp.float32).reshape(6, 4)


def largest(x, w, over):
    """The largest logit of each position, over a head in parts."""
    for name in over["embed"]:
        w = jax.lax.all_gather(w, name, axis=1, tiled=True)
    top = jnp.max(jnp.einsum("BTD,VD->BTV", x, w), axis=-1)
    return (jax.lax.pmax(top, over["vocab"]) if over["vocab"] else top), jnp.full(x.shape[:2], w.shape[0])


def run(x, w):
    return per_shard(largest, (x, w), (ROWS, HEAD), (ROWS[:2], ROWS[:2]))


def test_each_device_has_its_part_and_the_result_is_whole():
    top, rows = run(X, W)
    assert (rows == 6).all()
    mesh = make_mesh({"fsdp": 2, "tensor": 2})
    split, own = compiled(run, mesh)(*replicate((X, W), mesh))
    np.testing.assert_array_equal(split, top)
    assert (own == 3).all() and split.sharding.shard_shape(split.shape) == (4, 2)


def test_of_a_mesh_of_one_device_it_is_as_without():
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    for got, expected in zip(compiled(run, mesh)(X, W), run(X, W), strict=True):
        np.testing.assert_array_equal(got, expected)
