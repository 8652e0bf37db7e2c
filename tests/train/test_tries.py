import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.sharding.mesh import make_mesh
from jaxrl_tok.sharding.place import replicate, shard_batch
from jaxrl_tok.train import tries
from jaxrl_tok.train.assemble import assemble
from jaxrl_tok.train.score import distances, score_batch
from jaxrl_tok.train.step import gradients
from jaxrl_tok.types import LeftOut, Prompts, Rollouts
from tests import tiny
from tests.train import cases

SLIDING = {"layers": 3, "window": 4, "sliding": (True, False), "attention_cap": 2.0, "qk_norm": "head"}
EXPERTS = {"experts": 5, "experts_per_token": 2, "ffw": 16}


def drawn(prompts=6, group=5, size=7, vocab=2, seed=0, temperatures=(1.0,)):
    """Completions over few tokens, so that many share their beginning; some are empty."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 5, prompts)
    tokens = np.where(np.arange(4) >= 4 - lengths[:, None], rng.integers(5, 9, (prompts, 4)), 0).astype(np.int32)
    shape = (prompts, group, size)
    mask = np.arange(size) < rng.integers(0, size + 1, shape[:2])[..., None]
    heat = rng.choice(temperatures, shape[:2]).astype(np.float32)
    kept = rng.choice([-np.inf, -3.0], shape, p=[0.8, 0.2]).astype(np.float32)
    drawn = rng.integers(1, 1 + vocab, shape).astype(np.int32)
    return (
        Prompts(tokens, lengths.astype(np.int32), np.arange(prompts, dtype=np.int32)),
        Rollouts(drawn, mask, ~mask[..., -1], np.zeros(shape, np.float32), kept, heat),
    )


def paths(packed):
    """Every token's path from the root of its trie, by row and column, read off `ends` with loops."""
    found = {}
    for r, ends in enumerate(packed.ends):
        for q in range(len(ends)):
            if ends[q] > q:
                path = [k for k in range(q + 1) if k <= q < ends[k]]
                assert len(path) == packed.positions[r, q] + 1
                found[r, q] = path
    return found


@pytest.mark.parametrize(("parts", "shards"), [(1, 1), (3, 1), (1, 2), (3, 2)])
@pytest.mark.parametrize("filtered", [False, True])
def test_every_completion_is_a_path_and_every_token_stands_once(parts, shards, filtered):
    prompts, rollouts = drawn(temperatures=(1.0, 0.5))
    packed = tries.pack(prompts, rollouts, filtered=filtered, parts=parts, shards=shards)
    assert len(packed.tokens) == parts * shards
    where, distinct = paths(packed), set()
    for p, g, t in np.argwhere(rollouts.mask):
        row, n = packed.row[p], packed.scored[p, g, t]
        assert row % parts == p % parts
        text = [*prompts.tokens[p, 4 - prompts.lengths[p] :], *rollouts.tokens[p, g, : t + 1]]
        path = where[row, packed.node[row, n]]
        assert [packed.tokens[row, k] for k in path] == text
        assert packed.before[row, n] == path[-2]
        assert packed.place[row, n] == t
        assert packed.real[row, n]
        assert packed.temperature[row, n] == rollouts.temperature[p, g]
        kept = tuple(rollouts.keep_thresholds[p, g, : t + 1]) if filtered else ()
        assert not filtered or packed.keep_thresholds[row, n] == kept[-1]
        distinct.add((p, tuple(text), rollouts.temperature[p, g], kept))
    assert packed.real.sum() == len(distinct)
    assert len(where) == len(distinct) + int(prompts.lengths.sum())


def test_results_come_back_by_token():
    prompts, rollouts = drawn()
    packed = jax.tree.map(jnp.asarray, tries.pack(prompts, rollouts, parts=2, shards=2))
    wide = jnp.stack([jnp.take_along_axis(packed.tokens, packed.node, axis=1), packed.row.max() + packed.node], axis=-1)
    found = packed.of_completions(wide)
    assert found.shape == (6, 5, 7, 2)
    np.testing.assert_array_equal(
        np.where(rollouts.mask, found[..., 0], 0), np.where(rollouts.mask, rollouts.tokens, 0)
    )


def test_rows_of_a_part_are_about_as_full():
    sizes = [90, 10, 20, 80, 30, 70, 40, 60]
    row = tries._rows(sizes, parts=2, shards=2)
    assert [r % 2 for r in row] == [0, 1] * 4
    load = np.bincount(row, weights=sizes, minlength=4)
    assert load.max() - load.min() <= 40
    assert {int(load[0]), int(load[2])} == {90}


def test_sizes_are_few():
    sizes = np.array([tries.rounded(n) for n in range(1, 5000)])
    assert (sizes >= np.arange(1, 5000)).all()
    assert (sizes[63:] <= 1.125 * np.arange(64, 5000) + 1).all()
    assert len({*sizes[1024:2048]}) == 8
    assert {*sizes[:64]} == {64}


def test_groups_without_a_token_have_a_place():
    prompts, rollouts = drawn(prompts=2)
    rollouts.mask[:] = False
    packed = tries.pack(prompts, rollouts)
    assert not packed.real.any()
    assert len(paths(packed)) == prompts.lengths.sum()


@functools.cache
def completions(dtype="float32"):
    """Completions over three tokens, ragged, one empty: most of them begin as another one does."""
    rng = np.random.default_rng(3)
    have = {k: np.array(v) for k, v in cases.fields(vocab=6).items()}
    have["tokens"] = np.where(rng.random(have["tokens"].shape) < 0.8, 3, have["tokens"]).astype(np.int32)
    have["mask"][1, 2] = False
    # For SPO-tree: each completion is a node below the root.
    have["node_ids"] = np.broadcast_to(np.arange(1, 1 + cases.GROUP, dtype=np.int32)[:, None], have["mask"].shape)
    have["node_parents"] = np.array([[-1] + [0] * cases.GROUP] * cases.PROMPTS, np.int32)
    have["multiplicity"] = np.ones(have["mask"].shape, np.float32)
    return {k: v.astype(dtype) if v.dtype == np.float32 else v for k, v in have.items()}


def grouped(name, *, parts=1, shards=1, filtered=False, dtype="float32"):
    """A batch of a recipe, and the same with its tries."""
    fields, recipe, prompts = completions(dtype), cases.recipe(name), tiny.prompts(cases.PROMPTS, 5)
    wanted = recipe.assemble_reads | recipe.step_reads | recipe.judged | {"tokens", "mask", "sampler_logprobs"}
    heat = np.full((cases.PROMPTS, cases.GROUP), 0.875, dtype)
    kept = np.where(fields["tokens"] == 3, -5.0, -np.inf).astype(dtype) if filtered else None
    have = {k: v for k, v in fields.items() if k in wanted}
    batch = jax.jit(lambda have: assemble(recipe, {}, prompts, have, heat, kept)[0])(have)
    batch = jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, batch)
    sampled = (fields["tokens"], fields["mask"], fields["truncated"], fields["sampler_logprobs"])
    rollouts = Rollouts(*sampled, np.zeros_like(heat) if kept is None else kept, heat)
    host = jax.tree.map(np.asarray, prompts)
    packed = tries.pack(host, rollouts, filtered=filtered, parts=parts, shards=shards)
    return batch, dataclasses.replace(batch, tries=packed)


@functools.cache
def program(name, model, microbatches):
    return jax.jit(functools.partial(gradients, recipe=cases.recipe(name), model=model, microbatches=microbatches))


def compare(name, changes=None, *, microbatches=1, devices=1, bound=2e-6, dtype="float32", **options):
    """Holds the loss, the metrics and every tensor's gradient of the tries to those of plain completions."""
    model = tiny.model(**(changes or {}), dtype=dtype)
    plain, packed = grouped(name, parts=microbatches, shards=devices, dtype=dtype, **options)
    params = jax.tree.map(lambda x: x.astype(dtype), tiny.weights(model))
    assert packed.tries.real.sum() < 0.75 * int(completions(dtype)["mask"].sum())
    grads_1, metrics_1 = program(name, model, 1)(params, plain)
    mesh = make_mesh({"data": devices}, jax.devices()[:devices])
    grads, metrics = program(name, model, microbatches)(replicate(params, mesh), shard_batch(packed, mesh))
    for key, value in metrics_1.items():
        np.testing.assert_allclose(metrics[key], value, rtol=max(bound, 1e-9) * 10, atol=bound, err_msg=key)
    assert metrics["grad_norm"] > 1e-3
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(grads_1), strict=True):
        assert np.linalg.norm(a - b) <= bound * np.linalg.norm(b)


@pytest.mark.parametrize(
    ("name", "changes", "options"),
    [
        ("grpo_kl", {}, {"microbatches": 2, "devices": 4, "filtered": True}),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("grpo", SLIDING, {}),
                ("tempo", EXPERTS, {"microbatches": 2}),
                ("spo_tree", EXPERTS, {"devices": 4}),
                ("gspo", {}, {"devices": 4}),
                ("gmpo", EXPERTS, {}),
            )
        ),
    ],
)
def test_loss_and_gradient_are_those_of_plain_completions(name, changes, options):
    compare(name, changes, **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes", "devices"),
    [
        ("grpo", EXPERTS, 4),
        ("grpo_kl", {}, 1),
        ("tempo", {}, 4),
        ("spo_tree", {}, 1),
        ("gspo", EXPERTS, 1),
        ("gmpo", {}, 4),
        ("dapo", EXPERTS, 4),
    ],
)
def test_in_double_precision_nothing_is_left_of_the_difference(name, changes, devices):
    with jax.enable_x64(True):
        completions.cache_clear()
        compare(name, changes, devices=devices, bound=1e-10, dtype="float64")
    completions.cache_clear()


@pytest.mark.slow
def test_a_prompt_for_each_completion_gives_the_same():
    batch, _ = grouped("grpo_kl")
    params = tiny.weights(tiny.model())
    shared, apart = (program("grpo_kl", tiny.model(share_prompt=s), 1)(params, batch) for s in (True, False))
    np.testing.assert_allclose(apart[1]["loss"], shared[1]["loss"], rtol=1e-6, atol=1e-7)
    for a, b in zip(jax.tree.leaves(apart[0]), jax.tree.leaves(shared[0]), strict=True):
        assert np.linalg.norm(a - b) <= 2e-6 * np.linalg.norm(b)


def test_experts_are_as_even_in_tries():
    model = tiny.model(**EXPERTS)
    params = tiny.weights(model)
    plain, packed = (jax.jit(score_batch, static_argnums=1)(params, model, x).balance for x in grouped("grpo"))
    np.testing.assert_allclose(packed, plain, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("filtered", [False, True])
def test_what_is_left_out_of_tries(filtered):
    model = tiny.model()
    params = tiny.weights(model)
    left = LeftOut((9, 12), (20,), 3)
    batches = [dataclasses.replace(x, left_out=left) for x in grouped("grpo", filtered=filtered)]
    without, plain, packed = (
        jax.jit(score_batch, static_argnums=1)(params, model, x).logprobs
        for x in (dataclasses.replace(batches[0], left_out=None), *batches)
    )
    np.testing.assert_allclose(packed, plain, rtol=1e-4, atol=1e-5)
    away = np.asarray(plain - without)[np.asarray(batches[0].fields["mask"])]
    assert np.abs(away).max() > 0.01 and (filtered or away.min() >= -1e-5)


def test_temperatures_of_their_own_in_tries():
    """By the token, so that completions share what they have alike: as it is where each goes by its entropy."""
    model = tiny.model()
    params = tiny.weights(model)
    fields, (batch, before) = completions(), grouped("grpo")
    heat = np.where(fields["tokens"] == 3, 0.5, 1.5).astype(np.float32)
    sampled = (fields["tokens"], fields["mask"], fields["truncated"], fields["sampler_logprobs"])
    packed = tries.pack(jax.tree.map(np.asarray, tiny.prompts(cases.PROMPTS, 5)), Rollouts(*sampled, heat, heat))
    assert packed.real.sum() == before.tries.real.sum()
    batches = [dataclasses.replace(batch, temperature=heat, tries=x) for x in (None, packed)]
    plain, shared, other = (
        jax.jit(score_batch, static_argnums=1)(params, model, x).logprobs for x in (*batches, batch)
    )
    np.testing.assert_allclose(shared, plain, rtol=1e-4, atol=1e-5)
    assert np.abs(np.asarray(plain) - np.asarray(other)).max() > 0.1


def test_statistics_values_and_distances_of_tries():
    """Everything that a scoring pass gives, of the same tokens."""
    model = tiny.model()
    params = tiny.weights(model)
    other = jax.tree.map(lambda x: x + 0.1 * jnp.sin(7 * x), params)
    batches = grouped("grpo")
    kinds = ("hellinger", "js_to_ref", "kl_to_ref")

    @jax.jit
    def measured(batch):
        sampled = (batch.fields["tokens"], batch.fields["mask"], batch.temperature, batch.tries)
        return distances(params, other, model, model, batch.prompts, *sampled, kinds=kinds)

    plain, packed = map(measured, batches)
    for kind in kinds:
        np.testing.assert_allclose(packed[kind], plain[kind], rtol=1e-4, atol=1e-6)
