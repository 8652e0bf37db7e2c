import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxrl_tok import compat


def test_vary_together_sums_the_gradient_of_what_is_shared():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))

    @jax.custom_vjp
    def product(x, w):
        return x * w

    product.defvjp(lambda x, w: (x * w, (x, w)), lambda r, g: (g * r[1], g * r[0]))

    def loss(x, w):
        def local(x, w):
            marked = compat.vary_together({"x": x, "w": w, "none": None})
            return jax.lax.psum(jnp.sum(product(marked["x"], marked["w"])), "data")

        return jax.shard_map(local, mesh=mesh, in_specs=(P("data"), P()), out_specs=P())(x, w)

    gradient = jax.jit(jax.grad(loss, 1))(jnp.arange(8.0), jnp.ones(2))
    np.testing.assert_array_equal(gradient, [0 + 2 + 4 + 6, 1 + 3 + 5 + 7])


def test_vary_together_leaves_arrays_as_they_are_outside_shard_map():
    x = jnp.ones(3)
    assert compat.vary_together((x, None)) == (x, None)
