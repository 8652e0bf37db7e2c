import jax
import numpy as np

from jaxrl_tok.sharding.mesh import make_mesh
from jaxrl_tok.sharding.place import replicate, shard_batch, to_host


def test_a_batch_is_split_by_prompts_and_comes_back_whole():
    mesh = make_mesh({"data": 2, "fsdp": 2})
    tree = {"x": np.arange(24, dtype=np.float32).reshape(8, 3), "step": np.int32(3)}
    placed = shard_batch(tree, mesh)
    assert {shard.data.shape for shard in placed["x"].addressable_shards} == {(2, 3)}
    assert placed["step"].is_fully_replicated
    jax.tree.map(np.testing.assert_array_equal, to_host(placed), tree)
    assert replicate(tree, mesh)["x"].is_fully_replicated
