import sys
import types
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.advantages import ADVANTAGES
from jaxrl_tok.config.bind import bind, split_signature
from jaxrl_tok.errors import ConfigError


def method(
    rewards,
    mask,
    valid=None,
    *,
    length: int,
    eps: float = 1.0,
    kind: Literal["one", "two"] = "one",
    cap: float | None = None,
    flag: bool = False,
    axis_name: str | None = None,
):
    return rewards, mask, valid, length, eps, kind, cap, flag


METHODS = {"method": method}


def test_signature_says_what_is_read_and_what_may_be_set():
    reads, optional, hyper = split_signature(method)
    assert reads == ("rewards", "mask")
    assert optional == ("valid",)
    assert list(hyper) == ["length", "eps", "kind", "cap", "flag"]  # axis_name is the caller's


def test_call_picks_its_arrays_and_passes_the_hyperparameters():
    bound = bind(METHODS, "method", length=3, kind="two", cap=2)
    assert (bound.name, bound.reads, bound.optional) == ("method", ("rewards", "mask"), ("valid",))
    assert bound({"mask": "m", "rewards": "r", "other": "o"}) == ("r", "m", None, 3, 1.0, "two", 2, False)
    assert bound({"mask": "m", "rewards": "r", "valid": "v"})[2] == "v"
    with pytest.raises(KeyError, match="mask"):
        bound({"rewards": "r"})


def test_a_whole_number_is_a_fine_float():
    hyper = bind(METHODS, "method", length=3, eps=2, cap=3).hyper
    assert [type(hyper[key]) for key in ("length", "eps", "cap")] == [int, float, float]


def test_bound_method_can_be_jitted():
    bound = bind(ADVANTAGES, "dr_grpo")
    fields = {"rewards": jnp.array([[1.0, 0.0]]), "mask": jnp.ones((1, 2, 1), bool)}
    np.testing.assert_array_equal(jax.jit(bound)(fields)[..., 0], [[0.5, -0.5]])


@pytest.mark.parametrize(
    ("name", "hyper", "message"),
    [
        ("methdo", {"length": 1}, "no method 'methdo'; did you mean 'method'?"),
        ("method", {"length": 1, "esp": 1.0}, "method has no hyperparameter 'esp'; did you mean 'eps'?"),
        ("method", {"length": 1, "axis_name": "data"}, "method has no hyperparameter 'axis_name'"),
        ("method", {}, "method needs its hyperparameter 'length'"),
        ("method", {"length": 1.5}, "method: length = 1.5 must be int"),
        ("method", {"length": True}, "method: length = True must be int"),
        ("method", {"length": 1, "eps": "1"}, "method: eps = '1' must be float"),
        ("method", {"length": 1, "cap": "x"}, "method: cap = 'x' must be float | None"),
        ("method", {"length": 1, "flag": 1}, "method: flag = 1 must be bool"),
        (
            "method",
            {"length": 1, "kind": "tow"},
            "method: kind = 'tow' is not one of 'one', 'two'; did you mean 'two'?",
        ),
    ],
)
def test_mistakes_are_named_in_one_line(name, hyper, message):
    with pytest.raises(ConfigError) as error:
        bind(METHODS, name, **hyper)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_method_without_hyperparameters_says_so():
    with pytest.raises(ConfigError, match="plain has no hyperparameter 'x'; it has none"):
        bind({"plain": _plain}, "plain", x=1)


def _plain(mask):
    return mask


def module_with(monkeypatch, source):
    """Returns the registry of a module made of text."""
    module = types.ModuleType("a_module_of_a_method")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(source, vars(module))
    return {"method": module.method}


STATEFUL = """
def method(prepared, mask, *, scale: float = 2.0):
    return prepared, mask, scale

def init(*, start: float = 1.0, num_prompts: int = 0):
    return start, num_prompts

def prepare(state, entropy, ref=None, *, target: float = 0.5, start: float = 1.0):
    return (state, entropy, target), state

def counted(planning, mask):
    return planning
"""


def test_the_functions_beside_a_method_share_its_hyperparameters(monkeypatch):
    methods = module_with(monkeypatch, STATEFUL)
    assert list(split_signature(methods["method"]).hyper) == ["scale", "start", "target"]
    bound = bind(methods, "method", start=3, target=4, scale=5)
    assert bound.needs == {"mask", "entropy", "planning"} and bound.takes == bound.needs | {"ref"}
    assert bound.init(num_prompts=7) == (3.0, 7)
    prepared, _ = bound.prepare({"state": "s", "entropy": "h", "other": 0})
    assert prepared == ("s", "h", 4.0)
    assert bound({"prepared": prepared, "mask": "m", "entropy": "h"}) == (prepared, "m", 5.0)
    assert bound.counted({"planning": "p", "mask": "m"}) == "p"
    assert bound.hyper == {"start": 3.0, "target": 4.0, "scale": 5.0}
    with pytest.raises(ConfigError, match="method has no hyperparameter 'num_prompts'"):
        bind(methods, "method", num_prompts=3)


def test_a_list_of_numbers_is_checked_number_by_number(monkeypatch):
    methods = module_with(monkeypatch, "def method(x, *, weights: tuple[float, ...] | None = None): return weights")
    assert bind(methods, "method", weights=[1, 0.5]).hyper["weights"] == [1, 0.5]
    for wrong in ("ab", [1.0, "b"], 2.0, [True]):
        with pytest.raises(ConfigError, match="method: weights = "):
            bind(methods, "method", weights=wrong)
