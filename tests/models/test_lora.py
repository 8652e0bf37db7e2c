"""Adapters: the model they are at the start, the merged one that they stand for, and what they train."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.models import Level, Lora, Transformer, params
from jaxrl_tok.types import joined
from tests import tiny

BASES = {
    "dense": tiny.model(qkv_bias=True, tied=False),
    "experts": tiny.model(experts=5, experts_per_token=2, ffw=16),
}
SLOW = pytest.mark.slow
BY_KIND = ["dense", pytest.param("experts", marks=SLOW)]
TARGETS = {"dense": ("*",), "experts": ("*", "experts.*")}
PROMPTS = tiny.prompts(2, 6)
AFTER = jnp.asarray(np.random.default_rng(1).integers(3, 37, (2, 3, 5)), jnp.int32)

prompted = (PROMPTS.tokens, PROMPTS.lengths)
forward = jax.jit(lambda weights, model: model.forward(weights, *prompted, AFTER), static_argnums=1)
prefill = jax.jit(lambda weights, model: model.prefill(weights, *prompted), static_argnums=1)
decode = jax.jit(lambda weights, model, *arrays: model.decode(weights, *arrays), static_argnums=1)


@functools.cache
def lora(kind):
    """Adapters of rank 3, their factor 2, on every matrix."""
    return Lora(BASES[kind], 3, 6.0, TARGETS[kind])


@functools.cache
def trained(kind):
    """Parameters whose adapters do something: B is 0 only at the start."""
    weights, rng = tiny.weights(lora(kind)), np.random.default_rng(2)
    adapters = {
        name: pair | {"b": jnp.asarray(rng.normal(0, 0.2, pair["b"].shape), jnp.float32)}
        for name, pair in weights["lora"].items()
    }
    return weights | {"lora": adapters}


@SLOW
@pytest.mark.parametrize("kind", BASES)
def test_it_starts_as_its_base_to_the_bit(kind):
    weights = tiny.weights(lora(kind))
    got, base = forward(weights, lora(kind)), forward(weights["base"], BASES[kind])
    np.testing.assert_array_equal(got.completion, base.completion)
    np.testing.assert_array_equal(got.prompt, base.prompt)


@pytest.mark.parametrize("kind", BY_KIND)
def test_merged_it_computes_the_same(kind):
    weights = trained(kind)
    merged = jax.jit(lora(kind).merged)(weights)
    got, plain = forward(weights, lora(kind)), forward(merged, BASES[kind])
    np.testing.assert_allclose(got.completion, plain.completion, rtol=2e-4, atol=2e-5)
    # The adapters are large enough to be seen.
    assert np.abs(got.completion - forward(weights["base"], BASES[kind]).completion).max() > 0.1
    assert jax.tree.structure(merged) == jax.tree.structure(weights["base"])


@SLOW
def test_merged_is_the_base_and_alpha_over_rank_times_the_product():
    weights = trained("experts")
    merged = jax.jit(lora("experts").merged)(weights)["layers"]
    base, adapters = weights["base"]["layers"], weights["lora"]
    # Of one layer; o has two axes of inputs, an expert's matrix its number in front.
    o = base["o"][1] + 2 * np.einsum("nhr,rd->nhd", adapters["o"]["a"][1], adapters["o"]["b"][1])
    down = base["down"][1, 4] + 2 * np.asarray(adapters["down"]["a"][1, 4]) @ np.asarray(adapters["down"]["b"][1, 4])
    np.testing.assert_allclose(merged["o"][1], o, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(merged["down"][1, 4], down, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(merged["router"], base["router"])


@SLOW
@pytest.mark.parametrize("kind", BASES)
@pytest.mark.parametrize("scan", [False, True])
def test_decoding_gives_the_states_of_forward(kind, scan):
    base = Transformer(dataclasses.replace(BASES[kind].arch, scan_decoding=scan))
    model = Lora(base, 3, 6.0, TARGETS[kind])
    weights = {"base": tiny.weights(base), "lora": trained(kind)["lora"]}
    states = forward(weights, model)
    last, prompt_cache = prefill(weights, model)
    np.testing.assert_allclose(last, states.prompt[:, -1], rtol=1e-5, atol=1e-6)
    cache, ready, rows = model.empty_cache(6, 5), model.for_decoding(weights, 6 + 5), AFTER.reshape(6, 5)
    row = jnp.repeat(jnp.arange(2), 3)
    level = Level(prompt_cache, row, 6 - PROMPTS.lengths[row], jnp.full(6, 6, jnp.int32))
    for t in range(5):
        got, cache = decode(ready, model, rows[:, t], jnp.full(6, t, jnp.int32), cache, (level,))
        np.testing.assert_allclose(got, states.completion.reshape(6, 5, -1)[:, t], rtol=2e-4, atol=2e-5)


@SLOW
@pytest.mark.parametrize("kind", BASES)
def test_its_gradient_is_that_of_the_merged_matrix_through_the_product(kind):
    """With W' = W + s A B: dA = s dW' B^T and dB = s A^T dW'."""
    model, weights = lora(kind), trained(kind)

    def total(hidden):
        return jnp.sum(jnp.sin(hidden.completion)) + jnp.sum(jnp.cos(hidden.prompt[:, -1]))

    own, frozen = params.split(model.specs(), weights)
    grads = jax.jit(jax.grad(lambda own: total(forward(joined(own, frozen), model))))(own)
    assert jax.tree.leaves(grads["base"]) == []
    merged = jax.jit(model.merged)(weights)
    plain = jax.jit(jax.grad(lambda merged: total(forward(merged, BASES[kind]))))(merged)["layers"]
    assert grads["lora"].keys() == set("qkvo") | {"gate", "up", "down"}
    for name, pair in grads["lora"].items():
        stacked = 2 if kind == "experts" and name in ("gate", "up", "down") else 1
        a, b = (np.asarray(weights["lora"][name][half]) for half in "ab")
        lead, rank = a.shape[:stacked], a.shape[-1]
        a, b = a.reshape(*lead, -1, rank), b.reshape(*lead, rank, -1)
        grad = np.asarray(plain[name]).reshape(*lead, a.shape[-2], b.shape[-1])
        for half, expected in (("a", 2 * grad @ b.swapaxes(-1, -2)), ("b", 2 * a.swapaxes(-1, -2) @ grad)):
            got = np.asarray(pair[half]).reshape(expected.shape)
            assert np.linalg.norm(got - expected) <= 1e-4 * np.linalg.norm(expected), (name, half)
            assert np.linalg.norm(expected) > 0


def test_adapters_lie_as_their_matrices_do():
    specs = Lora(BASES["experts"], 3, 6.0, ("o", "experts.up")).adapter_specs()
    assert {name: {half: x.shape for half, x in pair.items()} for name, pair in specs.items()} == {
        "o": {"a": (2, 4, 8, 3), "b": (2, 3, 32)},
        "up": {"a": (2, 5, 32, 3), "b": (2, 5, 3, 16)},
    }
    assert specs["o"]["a"].axes == ("layers", "heads", None, None) and specs["o"]["b"].axes == ("layers", None, "embed")
    assert (specs["o"]["a"].scale, specs["o"]["b"].scale) == (32**-0.5, 0.0)


def test_only_adapters_are_trained_in_float32_whatever_the_base():
    specs = lora("dense").specs()
    own, frozen = params.split(specs, params.abstract(specs, jnp.bfloat16))
    assert {x.dtype for x in jax.tree.leaves(own)} == {jnp.dtype("float32")}
    assert {x.dtype for x in jax.tree.leaves(frozen)} == {jnp.dtype("bfloat16")}
    assert jax.tree.leaves(own["base"]) == jax.tree.leaves(frozen["lora"]) == []
    # Two layers, rank 3: q and o 32 <-> 32, k and v 32 -> 16, gate, up and down 32 <-> 48.
    assert sum(x.size for x in jax.tree.leaves(own)) == 2 * 3 * (2 * 64 + 2 * 48 + 3 * 80)


@pytest.mark.parametrize(
    ("kind", "targets", "names"),
    [
        ("dense", ("q", "v"), {"q", "v"}),
        ("dense", ("[qkv]",), {"q", "k", "v"}),
        ("experts", ("*",), {"q", "k", "v", "o"} | {"gate", "up", "down"}),
        ("experts", ("q", "down"), {"q"}),
        ("experts", ("experts.d*",), {"down"}),
    ],
)
def test_targets_are_patterns_of_names(kind, targets, names):
    assert Lora(BASES[kind], 1, 1.0, targets).adapter_specs().keys() == names


@pytest.mark.parametrize(
    ("kind", "rank", "targets", "line"),
    [
        ("dense", 1, ("q", "gat"), "lora.targets: no matrix is called 'gat'; did you mean 'gate'?"),
        ("dense", 1, ("experts.up",), "lora.targets = ['experts.up']: nothing in this model fits"),
        ("experts", 1, ("down",), "lora.targets = ['down']: nothing in this model fits"),
        ("dense", 0, ("q",), "lora.rank = 0: expected at least 1"),
    ],
)
def test_what_fits_nothing_is_refused(kind, rank, targets, line):
    with pytest.raises(ConfigError) as error:
        Lora(BASES[kind], rank, 1.0, targets)
    assert str(error.value) == line
