import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.models import params as model_params
from jaxrl_tok.models import transformer
from tests import tiny

VARIANTS = [
    {},
    {"qk_norm": True, "qkv_bias": True, "tied": False},
    {"kv_heads": 4, "scale_embedding": False, "layers": 3},
]


forward = jax.jit(transformer.forward, static_argnums=1)
prefill = jax.jit(transformer.prefill, static_argnums=1)
decode = jax.jit(transformer.decode, static_argnums=1)


def completions(prompts, group=3, size=5, seed=1):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.integers(3, 37, (prompts.lengths.shape[0], group, size)), jnp.int32)


@pytest.mark.parametrize("changes", VARIANTS)
def test_a_completion_after_its_prompt_is_one_text(changes):
    """Completions scored over a shared prompt equal the two joined to one prompt."""
    arch = tiny.architecture(**changes)
    weights = tiny.weights(arch)
    prompts = tiny.prompts(3, 6)
    after = completions(prompts)
    _, hidden = forward(weights, arch, prompts.tokens, prompts.lengths, after)
    joined = jnp.concatenate([prompts.tokens[:, None].repeat(3, axis=1), after], axis=-1).reshape(9, 11)
    whole, _ = forward(weights, arch, joined, prompts.lengths.repeat(3) + 5, jnp.zeros((9, 1, 1), jnp.int32))
    np.testing.assert_allclose(hidden.reshape(9, 5, -1), whole[:, -5:], rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("changes", VARIANTS)
def test_decoding_gives_the_states_of_forward(changes):
    arch = tiny.architecture(**changes)
    weights = tiny.weights(arch)
    prompts = tiny.prompts(2, 6)
    after = completions(prompts)
    before, hidden = forward(weights, arch, prompts.tokens, prompts.lengths, after)
    last, prompt_cache = prefill(weights, arch, prompts.tokens, prompts.lengths)
    np.testing.assert_allclose(last, before[:, -1], rtol=1e-5, atol=1e-6)
    cache = transformer.empty_cache(arch, 6, 5)
    ready = transformer.for_decoding(weights, arch, 6 + 5)
    rows = after.reshape(6, 5)
    for t in range(5):
        got, cache = decode(
            ready, arch, rows[:, t], jnp.full(6, t, jnp.int32), cache, prompt_cache,
            jnp.repeat(jnp.arange(2), 3), prompts.lengths,
        )  # fmt: skip
        np.testing.assert_allclose(got, hidden.reshape(6, 5, -1)[:, t], rtol=2e-4, atol=2e-5)


def test_what_stands_in_the_padding_changes_nothing():
    arch = tiny.architecture()
    weights, prompts = tiny.weights(arch), tiny.prompts(4, 6)
    after = completions(prompts)
    padding = jnp.arange(6)[None] < (6 - prompts.lengths)[:, None]
    other = jnp.where(padding, 11, prompts.tokens)
    assert not np.array_equal(other, prompts.tokens)
    a = forward(weights, arch, prompts.tokens, prompts.lengths, after)[1]
    b = forward(weights, arch, other, prompts.lengths, after)[1]
    np.testing.assert_array_equal(a, b)


def test_remat_and_unroll_change_no_gradient():
    prompts = tiny.prompts(2, 4)
    after = completions(prompts)

    def gradient(**changes):
        arch = tiny.architecture(**changes)

        def total(weights):
            before, hidden = transformer.forward(weights, arch, prompts.tokens, prompts.lengths, after)
            return jnp.sum(jnp.sin(hidden)) + jnp.sum(before[:, -1])

        return jax.jit(jax.grad(total))(tiny.weights(arch))

    plain = gradient()
    for changes in ({"remat": "full"}, {"remat": "dots"}, {"unroll": 2}):
        other = gradient(**changes)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), plain, other)


def test_bfloat16_computes_in_bfloat16_and_stays_near_float32():
    prompts = tiny.prompts(2, 4)
    after = completions(prompts)
    weights = tiny.weights(tiny.architecture())
    exact = forward(weights, tiny.architecture(), prompts.tokens, prompts.lengths, after)[1]
    half = forward(weights, tiny.architecture(dtype="bfloat16"), prompts.tokens, prompts.lengths, after)[1]
    assert half.dtype == jnp.bfloat16
    # 8 bits of mantissa, errors adding up over two layers of unit-variance states.
    np.testing.assert_allclose(np.asarray(half, np.float32), exact, atol=0.1)


def test_tied_and_untied_heads():
    tied, untied = tiny.architecture(), tiny.architecture(tied=False)
    assert transformer.head(tiny.weights(tied)) is not None
    weights = tiny.weights(untied)
    assert transformer.head(weights) is weights["head"]
    assert model_params.count(transformer.specs(untied)) - model_params.count(transformer.specs(tied)) == 37 * 32


def test_every_axis_of_every_parameter_has_a_name():
    specs = transformer.specs(tiny.architecture(qkv_bias=True, qk_norm=True, tied=False))
    model_params.tree_map_specs(lambda s: None if len(s.axes) == len(s.shape) else pytest.fail(str(s)), specs)
