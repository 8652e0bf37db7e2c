import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxrl_tok.sharding.constrain import constrain, free_axes, layout, manual_axes, partition, spec
from jaxrl_tok.sharding.mesh import make_mesh
from jaxrl_tok.sharding.place import replicate
from jaxrl_tok.train.compilation import compiled

ROWS = ("batch", "tokens", None)


def on(**sizes):
    return jax.sharding.use_abstract_mesh(make_mesh(sizes).abstract_mesh)


def test_without_a_mesh_nothing_is_split():
    assert not free_axes() and spec((8, 6, 4), *ROWS) == P(None, None, None)
    x = jnp.ones((8, 6, 4))
    assert constrain(x, *ROWS) is x


def test_rows_are_split_by_prompt_and_by_position():
    with on(fsdp=2, sequence=2):
        assert free_axes() == {"fsdp": 2, "sequence": 2}
        assert spec((8, 6, 4), *ROWS) == P(("fsdp",), ("sequence",), None)
        # Inside attention every head sees all positions.
        assert spec((8, 6, 2, 4), "batch", None, "heads", None) == P(("fsdp",), None, ("sequence",), None)


def test_a_mesh_axis_that_does_not_divide_is_left_out_with_those_after_it():
    with on(sequence=2, tensor=2):
        assert spec((8, 8, 4), *ROWS) == P(None, ("sequence", "tensor"), None)
        assert spec((8, 6, 4), *ROWS) == P(None, ("sequence",), None)
        assert spec((8, 7, 4), *ROWS) == P(None, None, None)


def test_too_few_key_heads_leave_the_rest_to_the_queries_of_each():
    """An axis that one dimension has taken is not used again."""
    axes = ("batch", None, "heads", "queries", None)
    with on(sequence=2, tensor=2):
        assert spec((8, 6, 2, 2, 4), *axes) == P(None, None, ("tensor",), ("sequence",), None)
        assert spec((8, 6, 4, 2, 4), *axes) == P(None, None, ("tensor", "sequence"), None, None)


def test_several_arrays_are_split_alike():
    """Completions of 6 prompts and a head of 5 tokens: what divides one but not the other is whole in both."""
    rows, head = ("batch", "completions", "positions"), ("vocab", "embed")
    with on(data=2, tensor=2):
        over = layout([(6, 3, 4), (6, 3, 4), (8, 4)], [rows, rows, head])
        assert partition(rows, over) == P(("data",), None, None) and partition(head, over) == P(("tensor",), None)
        over = layout([(6, 3, 4), (5, 3, 4)], [rows, rows])
        assert over["batch"] == ()


def test_a_width_is_split_only_as_the_rows_are_that_gather_it():
    with on(fsdp=4):
        assert layout([(8, 2), (6, 4)], [("batch", "positions"), ("vocab", "embed")])["embed"] == ("fsdp",)
        assert layout([(7, 2), (6, 4)], [("batch", "positions"), ("vocab", "embed")])["embed"] == ()


def test_inside_shard_map_the_axes_it_has_split_are_not_split_again():
    mesh, seen = make_mesh({"data": 2, "tensor": 2}), []

    def run(x):
        seen.append((manual_axes(), free_axes(), spec((4, 4), "batch", "vocab")))
        return constrain(x, "batch", "vocab")

    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        rows = P("data")
        split = jax.shard_map(run, in_specs=rows, out_specs=rows, axis_names={"data"})
        y = jax.eval_shape(split, jax.ShapeDtypeStruct((8, 4), jnp.float32))
    assert y.shape == (8, 4)
    assert seen[0] == ({"data": 2}, {"tensor": 2}, P(None, ("tensor",)))


def test_a_constraint_is_where_the_array_lies():
    mesh = make_mesh({"fsdp": 2, "tensor": 2})
    program = compiled(lambda x: constrain(x, "batch", "tokens"), mesh)
    assert program(replicate(jnp.zeros((8, 6)), mesh)).sharding.is_equivalent_to(
        NamedSharding(mesh, P("fsdp", "tensor")), 2
    )
