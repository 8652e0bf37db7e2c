import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.models import Level, Rope, transformer
from jaxrl_tok.models import params as model_params
from tests import tiny

VARIANTS = [
    {},
    {"qk_norm": "head", "qkv_bias": True, "tied": False},
    {"kv_heads": 4, "scale_embedding": False, "layers": 3},
    # As Gemma 3: two layers with a window and positions of their own, one without, and again.
    {
        "layers": 5,
        "norms": "both",
        "norm_offset": True,
        "qk_norm": "head",
        "activation": "gelu_tanh",
        "attention_scale": 0.3,
        "attention_cap": 2.0,
        "window": 4,
        "sliding": (True, True, False),
        "rope": Rope(1000.0, "linear", 4.0),
        "local_rope": Rope(100.0),
    },
    # As OLMo 2.
    {"norms": "post", "qk_norm": "whole", "o_bias": True, "mlp_bias": True},
    {"experts": 5, "experts_per_token": 2, "ffw": 16},
]


forward = jax.jit(lambda weights, model, *arrays: model.forward(weights, *arrays), static_argnums=1)
prefill = jax.jit(lambda weights, model, *arrays: model.prefill(weights, *arrays), static_argnums=1)
decode = jax.jit(lambda weights, model, *arrays: model.decode(weights, *arrays), static_argnums=1)


def completions(prompts, group=3, size=5, seed=1):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.integers(3, 37, (prompts.lengths.shape[0], group, size)), jnp.int32)


def all_but(*quick):
    """Every variant, and those marked as slow that the quick suite leaves out."""
    return [pytest.param(one, marks=[pytest.mark.slow] * (i not in quick)) for i, one in enumerate(VARIANTS)]


@pytest.mark.parametrize("changes", all_but(1, 3))
def test_a_completion_after_its_prompt_is_one_text(changes):
    """Completions scored over a shared prompt equal the two joined to one prompt."""
    model = tiny.model(**changes)
    weights = tiny.weights(model)
    prompts = tiny.prompts(3, 6)
    after = completions(prompts)
    hidden = forward(weights, model, prompts.tokens, prompts.lengths, after).completion
    joined = jnp.concatenate([prompts.tokens[:, None].repeat(3, axis=1), after], axis=-1).reshape(9, 11)
    whole = forward(weights, model, joined, prompts.lengths.repeat(3) + 5, jnp.zeros((9, 1, 1), jnp.int32)).prompt
    np.testing.assert_allclose(hidden.reshape(9, 5, -1), whole[:, -5:], rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("scan", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("changes", all_but(5))
def test_decoding_gives_the_states_of_forward(changes, scan):
    model = tiny.model(**changes, scan_decoding=scan)
    weights = tiny.weights(model)
    prompts = tiny.prompts(2, 6)
    after = completions(prompts)
    states = forward(weights, model, prompts.tokens, prompts.lengths, after)
    before, hidden = states.prompt, states.completion
    last, prompt_cache = prefill(weights, model, prompts.tokens, prompts.lengths)
    np.testing.assert_allclose(last, before[:, -1], rtol=1e-5, atol=1e-6)
    cache = model.empty_cache(6, 5)
    ready = model.for_decoding(weights, 6 + 5)
    rows, row = after.reshape(6, 5), jnp.repeat(jnp.arange(2), 3)
    level = Level(prompt_cache, row, 6 - prompts.lengths[row], jnp.full(6, 6, jnp.int32))
    for t in range(5):
        got, cache = decode(ready, model, rows[:, t], jnp.full(6, t, jnp.int32), cache, (level,))
        np.testing.assert_allclose(got, hidden.reshape(6, 5, -1)[:, t], rtol=2e-4, atol=2e-5)


def test_what_stands_in_the_padding_changes_nothing():
    model = tiny.model()
    weights, prompts = tiny.weights(model), tiny.prompts(4, 6)
    after = completions(prompts)
    padding = jnp.arange(6)[None] < (6 - prompts.lengths)[:, None]
    other = jnp.where(padding, 11, prompts.tokens)
    assert not np.array_equal(other, prompts.tokens)
    a = forward(weights, model, prompts.tokens, prompts.lengths, after).completion
    b = forward(weights, model, other, prompts.lengths, after).completion
    np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_remat_and_unroll_change_no_gradient():
    prompts = tiny.prompts(2, 4)
    after = completions(prompts)

    def gradient(**changes):
        model = tiny.model(**changes)

        def total(weights):
            states = model.forward(weights, prompts.tokens, prompts.lengths, after)
            return jnp.sum(jnp.sin(states.completion)) + jnp.sum(states.prompt[:, -1])

        return jax.jit(jax.grad(total))(tiny.weights(model))

    plain = gradient()
    for changes in ({"remat": "full"}, {"remat": "dots"}, {"unroll": 2}):
        other = gradient(**changes)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), plain, other)


def test_bfloat16_computes_in_bfloat16_and_stays_near_float32():
    prompts = tiny.prompts(2, 4)
    after = completions(prompts)
    weights = tiny.weights(tiny.model())
    exact = forward(weights, tiny.model(), prompts.tokens, prompts.lengths, after).completion
    half = forward(weights, tiny.model(dtype="bfloat16"), prompts.tokens, prompts.lengths, after).completion
    assert half.dtype == jnp.bfloat16
    # 8 bits of mantissa, errors adding up over two layers of unit-variance states.
    np.testing.assert_allclose(np.asarray(half, np.float32), exact, atol=0.1)


def test_tied_and_untied_heads():
    tied, untied = tiny.model(), tiny.model(tied=False)
    assert transformer.head(tiny.weights(tied)) is not None
    weights = tiny.weights(untied)
    assert transformer.head(weights) is weights["head"]
    assert model_params.count(untied.specs()) - model_params.count(tied.specs()) == 37 * 32


def test_every_axis_of_every_parameter_has_a_name():
    specs = tiny.model(qkv_bias=True, qk_norm="head", tied=False).specs()
    model_params.tree_map_specs(lambda s: None if len(s.axes) == len(s.shape) else pytest.fail(str(s)), specs)
