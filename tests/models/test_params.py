import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.models import params
from jaxrl_tok.models.params import ParamSpec

SPECS = {
    "a": ParamSpec((4, 300), ("embed", "ffw"), scale=0.5),
    "b": ParamSpec((3,), (None,), fill=2.0),
    "c": {"d": ParamSpec((400, 5), ("ffw", "embed"), scale=0.1)},
}


def test_init_has_the_specs_shapes_scales_and_fills():
    tree = params.init(SPECS, 0)
    assert tree["a"].shape == (4, 300) and tree["c"]["d"].shape == (400, 5)
    np.testing.assert_allclose(np.std(tree["a"]), 0.5, rtol=0.1)
    np.testing.assert_allclose(np.std(tree["c"]["d"]), 0.1, rtol=0.1)
    np.testing.assert_array_equal(tree["b"], [2.0, 2.0, 2.0])


def test_a_parameter_depends_on_its_name_and_the_seed_only():
    alone = params.init({"a": SPECS["a"]}, 0)["a"]
    np.testing.assert_array_equal(params.init(SPECS, 0)["a"], alone)
    assert not np.array_equal(params.init(SPECS, 1)["a"], alone)
    renamed = params.init({"z": SPECS["a"]}, 0)["z"]
    assert not np.array_equal(renamed, alone)


def test_abstract_count_and_decay_mask():
    shapes = params.abstract(SPECS, jnp.bfloat16)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), shapes["a"]) == ((4, 300), jnp.bfloat16)
    assert params.count(SPECS) == 4 * 300 + 3 + 400 * 5
    assert params.decay_mask(SPECS) == {"a": True, "b": False, "c": {"d": True}}
