import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.io.leaves import describe, mismatches, name_leaves


def test_leaves_are_named_by_their_paths():
    tree = {"params": [{"w": 1}, None], "step": (2, 3)}
    assert name_leaves(tree) == {"params.0.w": 1, "step.0": 2, "step.1": 3}


def test_description_tells_dtype_and_shape():
    assert describe(jnp.zeros((2, 3), jnp.bfloat16)) == "bfloat16[2,3]"
    assert describe(np.bool_(True)) == "bool[]"
    assert describe(0.5) == "float64[]"
    assert describe(jax.random.split(jax.random.key(0), 4)) == "key<fry>[4]"
    assert describe(jax.ShapeDtypeStruct((1,), jnp.uint32)) == "uint32[1]"


def test_mismatches_name_each_leaf():
    stored = {"a": "float32[2]", "b": "int32[]"}
    assert mismatches(stored, stored, partial=False) == []
    assert mismatches(stored, {"a": "float32[2]"}, partial=True) == []
    assert mismatches(stored, {"a": "float32[3]", "c": "int32[]"}, partial=False) == [
        "c is missing",
        "b is not in this run's state",
        "a is float32[2] there and float32[3] here",
    ]
