"""The decoder against `transformers`: stored by tools/make_hf_logits.py, and live where torch is at hand."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import save_file

from jaxrl_tok.config.families import from_hf
from jaxrl_tok.config.schema import ModelConfig, TrainSection
from jaxrl_tok.io import weights
from jaxrl_tok.models import Transformer
from jaxrl_tok.models.names import leaves, parts
from jaxrl_tok.rollouts.generate import generate, request_keys
from jaxrl_tok.sharding.mesh import make_mesh
from jaxrl_tok.train.build import architecture
from jaxrl_tok.types import Prompts
from tests import tiny
from tests.helpers import need
from tests.parity import cases

STORED = Path(__file__).parent / "stored"


def all_but(*quick):
    """Every case, and those that the quick suite leaves out marked as slow: what they have, the others have too."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (name not in quick)) for name in cases.CONFIGS]


@functools.cache
def stored(name):
    """What transformers gave."""
    with np.load(STORED / f"{name}.npz") as file:
        return dict(file)


def model_of(name) -> Transformer:
    """The decoder of a case, by its config.json."""
    model = ModelConfig(**from_hf(cases.CONFIGS[name]) | {"attention_cap": cases.SOFT_CAP.get(name)})
    return Transformer(architecture(model, TrainSection(), 0))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Returns the model of a case with its weights, read from a folder in Hugging Face form."""

    @functools.cache
    def load(name):
        folder = tmp_path_factory.mktemp(name)
        save_file(cases.draw(cases.CONFIGS[name], int(stored(name)["seed"])), folder / "model.safetensors")
        model = model_of(name)
        everywhere = NamedSharding(make_mesh({}, jax.devices()[:1]), PartitionSpec())
        shardings = jax.tree.map(lambda _: everywhere, model.specs(), is_leaf=lambda x: hasattr(x, "axes"))
        return model, weights.load(folder, model.specs(), shardings, jnp.float32)

    return load


def logits_of(model, params, prompts, completions):
    """Logits of the distributions that the completions' tokens come from: [P, G, T, V]."""
    lengths = jnp.asarray(cases.PROMPT_LENGTHS, jnp.int32)
    hidden = model.forward(params, prompts, lengths, completions)
    last = jnp.broadcast_to(hidden.prompt[:, None, -1:], hidden.completion[:, :, :1].shape)
    before = jnp.concatenate([last, hidden.completion[:, :, :-1]], axis=2)
    logits = jnp.einsum("PGTD,VD->PGTV", before, model.head(params))
    return logits if model.logit_cap is None else model.logit_cap * jnp.tanh(logits / model.logit_cap)


@pytest.mark.parametrize("name", all_but("qwen3", "qwen3_moe", "olmo2"))
def test_logits_gradients_and_greedy_tokens_are_those_of_transformers(name, loaded):
    model, params = loaded(name)
    prompts, completions = cases.tokens(int(stored(name)["seed"]))
    greedy = stored(name)["greedy"]
    # The greedy continuation is a third completion; what follows the two others is not looked at.
    padded = np.pad(completions, ((0, 0), (0, 0), (0, cases.STEPS - cases.LENGTH)))
    padded = jnp.asarray(np.concatenate([padded, greedy[:, None]], axis=1))

    def loss(params):
        logits = logits_of(model, params, jnp.asarray(prompts), padded)
        own = logits[:, : cases.GROUP, : cases.LENGTH]
        picked = jnp.take_along_axis(jax.nn.log_softmax(own), jnp.asarray(completions)[..., None], axis=-1)
        return -jnp.mean(picked), (own, jnp.argmax(logits[:, cases.GROUP], axis=-1))

    gradients, (logits, likeliest) = jax.jit(jax.grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(logits[:, :, :: cases.EVERY], stored(name)["logits"], atol=2e-4, rtol=0)
    np.testing.assert_array_equal(likeliest, greedy)
    specs, checked = model.specs(), 0
    for path, spec in leaves(specs):
        gradient = gradients[path[0]] if len(path) == 1 else gradients[path[0]][path[1]]
        for part in parts(path, spec, specs["layers"]):
            if (expected := stored(name).get(f"gradient {part.name}")) is not None:
                found = part.to_file(np.asarray(gradient)[part.at])
                assert np.linalg.norm(found - expected) < 1e-3 * np.linalg.norm(expected), part.name
                checked += 1
    assert checked == sum(key.startswith("gradient ") for key in stored(name)) >= 10


@pytest.mark.parametrize("name", all_but("gemma3"))
def test_sampling_at_temperature_0_gives_the_greedy_tokens_of_transformers(name, loaded):
    model, params = loaded(name)
    tokens, _ = cases.tokens(int(stored(name)["seed"]))
    ids = jnp.arange(cases.PROMPTS, dtype=jnp.int32)
    prompts = Prompts(jnp.asarray(tokens), jnp.asarray(cases.PROMPT_LENGTHS, jnp.int32), ids)
    keys = request_keys(jnp.uint32(0), jnp.int32(0), jnp.int32(0), ids, jnp.arange(1))
    sampling = tiny.sampling((cases.PROMPTS, 1), cases.STEPS, temperature=0.0)
    run = functools.partial(generate, model=model, max_tokens=cases.STEPS, end_ids=(), slots=cases.PROMPTS)
    rollouts, _ = jax.jit(lambda params: run(params, prompts=prompts, keys=keys, sampling=sampling))(params)
    np.testing.assert_array_equal(rollouts.tokens[:, 0], stored(name)["greedy"])


@pytest.mark.slow
@pytest.mark.parametrize("name", cases.CONFIGS)
def test_what_is_stored_is_what_transformers_gives(name):
    """So the tests above are live where torch is at hand."""
    need("torch")
    from tools import make_hf_logits

    expected = stored(name)
    seed = int(expected.pop("seed"))
    found = make_hf_logits.made(name, seed)
    assert found is not None and found[1].keys() == expected.keys()
    for key, x in found[1].items():
        np.testing.assert_allclose(x, expected[key], rtol=1e-5, atol=1e-5, err_msg=key)
