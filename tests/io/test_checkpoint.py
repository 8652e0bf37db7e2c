import re
import threading
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxrl_tok.errors import CheckpointError, ConfigError
from jaxrl_tok.io import manifest
from jaxrl_tok.io.checkpoint import Checkpoints
from jaxrl_tok.io.differences import differences
from jaxrl_tok.types import pytree
from tests.io.checkpoint_folders import fill, newest, payload, restore, small


class Moments(NamedTuple):
    mean: Any
    nothing: None
    parts: tuple


@pytree
class State:
    params: Any
    opt_state: Any
    method_state: Any
    step: Any


def every_kind_of_leaf() -> State:
    key = jax.random.key(7)
    params = {
        "f32": jax.random.normal(key, (5, 7), jnp.float32).at[0, 0].set(jnp.float32(np.nan)).at[0, 1].set(-0.0),
        "bf16": jax.random.normal(key, (33,), jnp.bfloat16),
        "nested": [{"i32": jnp.arange(-3, 3, dtype=jnp.int32)}, (jnp.array([True, False]),)],
        "u32": jnp.array(2**32 - 1, jnp.uint32),
        "empty": jnp.zeros((0, 3), jnp.float32),
        "a.b/c": jnp.float32(1 / 3),
    }
    trained = {"x": jnp.ones((2, 2), jnp.float32)}
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3), optax.identity())
    method_state = Moments(key, None, (np.float32(0.1), np.arange(3), 17, 0.1, True, jax.random.split(key, 3)))
    return State(params, optimizer.init(trained), method_state, jnp.int32(4))


def assert_same_bits(got: Any, want: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert type(one) is type(other)
        if isinstance(other, jax.Array) and jnp.issubdtype(other.dtype, jax.dtypes.prng_key):
            assert one.dtype == other.dtype
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        one, other = np.asarray(one), np.asarray(other)
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("specify", [False, True])
def test_every_kind_of_leaf_comes_back_bit_for_bit_in_the_structure_of_the_template(tmp_path, specify):
    state = every_kind_of_leaf()
    host = {"metric": 0.1, "best": None, "nested": {"é": [1, 2]}, "low": float("-inf")}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, state, host)

    def abstract(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if specify and isinstance(leaf, jax.Array) else leaf

    with Checkpoints(tmp_path) as checkpoints:
        restored = restore(checkpoints, jax.tree.map(abstract, state))
    assert (restored.step, restored.host) == (3, host)
    assert_same_bits(restored.state, state)


def test_a_save_holds_the_values_of_its_call_though_the_arrays_are_donated_right_after(tmp_path):
    update = jax.jit(lambda tree: jax.tree.map(lambda x: -x - 1, tree), donate_argnums=0)
    state = {f"w{i}": jnp.arange(200_000, dtype=jnp.float32) + i for i in range(5)}
    want = jax.tree.map(lambda x: np.array(x, copy=True), state)
    host = {"position": [1]}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, host)
        host["position"].append(2)
        for _ in range(3):
            state = update(state)
        restored = restore(checkpoints, state)
    assert restored.host == {"position": [1]}
    jax.tree.map(np.testing.assert_array_equal, restored.state, want)


def test_one_and_four_devices_restore_each_other(tmp_path):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    spread = NamedSharding(mesh, PartitionSpec("data"))
    one = {
        "w": jnp.arange(24, dtype=jnp.float32).reshape(8, 3),
        "key": jax.random.split(jax.random.key(0), 4),
    }
    four = jax.device_put(one, spread)
    for name, saved, template in (("out", one, four), ("in", four, one)):
        with Checkpoints(tmp_path / name) as checkpoints:
            checkpoints.save(1, saved, {})
            restored = restore(checkpoints, template)
        assert_same_bits(restored.state, saved)
        for leaf, like in zip(jax.tree.leaves(restored.state), jax.tree.leaves(template), strict=True):
            assert leaf.sharding.is_equivalent_to(like.sharding, leaf.ndim)


def test_the_newest_is_restored_and_an_empty_folder_gives_none(tmp_path):
    assert newest(tmp_path / "none") == (None, [])
    fill(tmp_path, 1, 2, 10)
    assert newest(tmp_path) == (10, [])


def test_a_step_that_is_already_saved_is_not_written_again(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, small(1), {"position": 10}, wait=True)
        before = payload(tmp_path / "1").stat().st_mtime_ns
        checkpoints.save(1, small(5), {"position": 50}, wait=True)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.restore(small(0))
        checkpoints.save(1, small(5), {"position": 50}, wait=True)
    assert payload(tmp_path / "1").stat().st_mtime_ns == before


def test_retention_keeps_the_last_every_nth_and_the_best(tmp_path):
    with Checkpoints(tmp_path, keep_last=2, keep_every=4) as checkpoints:
        for step in range(1, 8):
            checkpoints.save(step, small(step), {}, best=step in (2, 3))
        checkpoints.wait()
        assert checkpoints.steps() == [3, 4, 6, 7]
        assert (checkpoints.latest(), checkpoints.best()) == (7, 3)
    with Checkpoints(tmp_path, keep_last=2, keep_every=4) as checkpoints:
        checkpoints.restore(small(0))
        checkpoints.save(9, small(9), {}, wait=True)
        assert checkpoints.steps() == [3, 4, 7, 9]
        best = restore(checkpoints, small(0), step=checkpoints.best())
        np.testing.assert_array_equal(best.state["w"], np.full(3, 3, np.float32))


def test_a_look_at_another_step_does_not_move_the_run_there(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, small(step), {}, best=step == 1)
        checkpoints.wait()
        before = payload(tmp_path / "3").stat().st_mtime_ns
        assert restore(checkpoints, small(0), step=1).step == 1
        checkpoints.save(3, small(3), {}, wait=True)
        assert payload(tmp_path / "3").stat().st_mtime_ns == before
        assert checkpoints.steps() == [1, 2, 3]
        with pytest.raises(CheckpointError, match=r"5: no intact checkpoint"):
            checkpoints.restore(small(0), step=5)
        checkpoints.close()


def test_an_old_step_is_deleted_only_after_a_newer_one_is_sealed(tmp_path, monkeypatch):
    seen = []
    seal = manifest.seal

    def watch(folder):
        seen.append(sorted(path.parent.name for path in tmp_path.glob(f"*/{manifest.NAME}")))
        seal(folder)

    monkeypatch.setattr(manifest, "seal", watch)
    fill(tmp_path, 1, 2, 3, 4)
    assert seen == [[], ["1"], ["1", "2"], ["2", "3"]]
    assert newest(tmp_path) == (4, [])


def test_the_example_in_the_docs_runs(tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    assert capsys.readouterr().out.startswith("[120] 120 120\n120 {'position': 960} {'params': {'w': Array(")


def test_keep_last_below_two_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"keep_last = 1: expected at least 2$"):
        Checkpoints(tmp_path, keep_last=1)


def test_a_save_returns_while_its_sealing_is_still_to_come(tmp_path, monkeypatch):
    go_on, seal = threading.Event(), manifest.seal
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, small(1), {}, wait=True)
        monkeypatch.setattr(manifest, "seal", lambda folder: (go_on.wait(60), seal(folder)))
        checkpoints.save(2, small(2), {})
        assert checkpoints.steps() == [1]
        go_on.set()
        checkpoints.wait()
        assert checkpoints.steps() == [1, 2]


def test_another_config_is_refused_with_the_differing_keys(tmp_path):
    fill(tmp_path, 1, fingerprint={"model": {"layers": 4, "heads": [2, 2]}, "seed": 0, "name": "a"})
    now = {"model": {"layers": 2, "heads": (2, 2)}, "seed": 0, "data": {"task": "x"}}
    with Checkpoints(tmp_path, fingerprint=now) as checkpoints:
        with pytest.raises(CheckpointError) as caught:
            checkpoints.restore(small(0))
        assert str(caught.value) == (
            f'{tmp_path / "1"}: belongs to another config: data.task is unset there and "x" here; '
            'model.layers is 4 there and 2 here; name is "a" there and unset here; '
            "undo the change, or give this run another folder"
        )
        assert checkpoints.steps() == [1]
    assert newest(tmp_path) == (1, [])
    assert differences({"a": 1, "b": {"c": None}}, {"b": {"c": None}, "a": 1}) == []


def test_what_an_earlier_version_stored_is_compared_as_this_one_would_have_stored_it(tmp_path):
    fill(tmp_path, 1, fingerprint={"seed": 0, "gone": 1})
    now = {"seed": 0, "new": (2, 2)}
    with Checkpoints(tmp_path, fingerprint=now, as_now=lambda old: {"seed": old["seed"], "new": (2, 2)}) as checkpoints:
        assert checkpoints.restore(small(0)).step == 1


def test_another_state_is_refused_with_the_differing_leaves(tmp_path):
    fill(tmp_path, 1)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        with pytest.raises(CheckpointError, match=r"w is float32\[3\] there and float32\[4\] here$"):
            checkpoints.restore({"w": jnp.zeros(4, jnp.float32)})
        with pytest.raises(CheckpointError, match=r"w is float32\[3\] there and bfloat16\[3\] here$"):
            checkpoints.restore({"w": jnp.zeros(3, jnp.bfloat16)})
        with pytest.raises(CheckpointError, match=r"v is missing; w is not in this run's state$"):
            checkpoints.restore({"v": jnp.zeros(3, jnp.float32)})


def test_a_part_of_the_state_can_be_restored(tmp_path):
    state = {"params": {"w": jnp.arange(3)}, "opt_state": optax.adam(1e-3).init({"w": jnp.ones(3)})}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        with pytest.raises(CheckpointError, match="is not in this run's state"):
            checkpoints.restore({"params": {"w": jnp.zeros(3, jnp.int32)}})
        restored = restore(checkpoints, {"params": {"w": jnp.zeros(3, jnp.int32)}}, partial=True)
    assert_same_bits(restored.state, {"params": {"w": jnp.arange(3)}})
