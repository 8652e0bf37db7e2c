"""A model that a function beside the run file makes: what it gets, what it may return, how it is trained."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.config.load import load_run
from jaxrl_tok.config.schema import OwnModelConfig
from jaxrl_tok.errors import ConfigError
from jaxrl_tok.models import TrieModel
from jaxrl_tok.train import own_model
from tests.train.processes import RUN

# A bag of the words so far: the least that can be called a language model.
MODULE = """
import jax, jax.numpy as jnp
from jaxrl_tok.models.row_model import RowModel, specs_of

def read(params, tokens, positions, seen):
    return jnp.einsum("rij,rjd->rid", seen.astype(jnp.float32), params["embed"][tokens])

def output(params):
    return params["embed"]

def bag(vocab, seed, dim=4, scale=0.1):
    params = {"embed": scale * jax.random.normal(jax.random.key(seed), (vocab, dim))}
    tree, leaves = specs_of(params, {})
    return RowModel(read, output, vocab, tree, leaves), params

def late(vocab):
    model, params = bag(vocab, 0)
    return model, lambda: bag(vocab, 0)[1]

def inside(vocab, dtype, remat, unroll, scan_layers):
    return bag(vocab, 0)[0], (dtype, remat, unroll, scan_layers)

def small(vocab):
    return bag(3, 0)

def needs(vocab, width):
    return bag(vocab, 0)

def params_alone(vocab):
    return bag(vocab, 0)[1]

def fails(vocab):
    raise ZeroDivisionError("no layers")

class Reads:
    # knows no tries
    def __init__(self, model):
        self.model = model

for name in ("vocab", "logit_cap", "specs", "forward", "head", "for_decoding", "prefill", "empty_cache", "decode"):
    setattr(Reads, name, property(lambda self, name=name: getattr(self.model, name)))

def apart(vocab):
    model, params = bag(vocab, 0)
    return Reads(model), params

number = 7
"""
NAME = "bag_of_words_for_test_own_model"


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    """Writes the module; what was imported of it is forgotten after the test."""
    (tmp_path / f"{NAME}.py").write_text(MODULE)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    sys.modules.pop(NAME, None)


def load(folder, function, *sets, **options):
    config = OwnModelConfig(function=f"{NAME}:{function}", **options)
    return own_model.load(config, load_run(RUN, sets), 16, folder, "bfloat16")


def test_it_gets_what_it_has_parameters_for(tmp_path):
    model, params = load(tmp_path, "bag", "run.seed=5", dim=6)
    assert model.vocab == 16
    np.testing.assert_array_equal(params["embed"], 0.1 * jax.random.normal(jax.random.key(5), (16, 6)))


def test_parameters_may_be_made_later(tmp_path):
    _, make = load(tmp_path, "late")
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[1])
    first = own_model.first_params(make, {"embed": sharding}, jnp.bfloat16)["embed"]
    assert (first.shape, first.dtype, first.sharding) == ((16, 4), jnp.bfloat16, sharding)
    given = own_model.first_params(make(), {"embed": sharding}, jnp.bfloat16)["embed"]
    np.testing.assert_array_equal(first, given)


def test_settings_of_its_inside_reach_it(tmp_path):
    sets = ("train.remat=full", "rollout.scan_layers=true")
    assert load(tmp_path, "inside", *sets)[1] == ("bfloat16", "full", 1, True)


@pytest.mark.parametrize(
    ("function", "sets", "options", "line"),
    [
        ("bag", (), {"dime": 6}, "has no option 'dime'; did you mean 'dim'?"),
        ("needs", (), {}, "'width' is not set; set it beside `function`"),
        ("small", (), {}, "its vocabulary is 3; expected at least the tokenizer's 16"),
        ("params_alone", (), {}, "returned a dict; expected (model, parameters), as from_nnx gives"),
        ("fails", (), {}, "ZeroDivisionError: no layers"),
        ("number", (), {}, "expected a Python function with a signature"),
        ("bga", (), {}, "did you mean 'bag'?"),
        ("bag", ("train.remat=full",), {}, "train.remat = full: expected none, as"),
        ("apart", ("train.share_prefix=tree",), {}, 'train.share_prefix = "tree": expected "prompt", as'),
    ],
)
def test_what_it_must_not_be(tmp_path, function, sets, options, line):
    with pytest.raises(ConfigError) as error:
        load(tmp_path, function, *sets, **options)
    assert line in str(error.value) and f"{NAME}:{function}" in str(error.value) and "\n" not in str(error.value)


def test_rows_are_read_as_tries(tmp_path):
    assert isinstance(load(tmp_path, "bag", "train.share_prefix=tree")[0], TrieModel)
    assert load(tmp_path, "apart")[0].vocab == 16


def test_a_name_has_two_parts():
    with pytest.raises(ConfigError, match=r"^model.function = bag: expected module:function$"):
        own_model.load(OwnModelConfig(function="bag"), load_run(RUN), 16, None, "float32")
