"""Names agree: file, function, registry, notation; and every method says where it comes from."""

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

from jaxrl_tok.advantages import ADVANTAGES
from jaxrl_tok.clips import CLIPS
from jaxrl_tok.config.bind import split_signature
from jaxrl_tok.filters import FILTERS
from jaxrl_tok.losses import LOSSES
from jaxrl_tok.ratios import RATIOS
from jaxrl_tok.reductions import REDUCTIONS
from jaxrl_tok.scores import SCORES
from jaxrl_tok.token_weights import TOKEN_WEIGHTS

SLOTS = {
    "filters": FILTERS,
    "advantages": ADVANTAGES,
    "token_weights": TOKEN_WEIGHTS,
    "ratios": RATIOS,
    "clips": CLIPS,
    "losses": LOSSES,
    "reductions": REDUCTIONS,
    "scores": SCORES,
}
METHODS = [(slot, name) for slot, methods in SLOTS.items() for name in methods]
NOTATION = Path(__file__).parents[2] / "docs" / "notation.md"


def vocabulary():
    """Names in the first column of the tables of arrays."""
    first = re.findall(r"^\| (`[^|]+) \| \[", NOTATION.read_text(), re.MULTILINE)
    return {name for cell in first for name in re.findall(r"`(\w+)`", cell)}


@pytest.mark.parametrize("slot", SLOTS)
def test_every_module_of_the_folder_is_registered(slot):
    folder = importlib.import_module(f"jaxrl_tok.{slot}")
    assert {module.name for module in pkgutil.iter_modules(folder.__path__)} == set(SLOTS[slot])
    assert list(SLOTS[slot]) == list(dict.fromkeys(SLOTS[slot]))


@pytest.mark.parametrize(("slot", "name"), METHODS)
def test_module_function_and_registry_have_one_name(slot, name):
    method = SLOTS[slot][name]
    assert method.__name__ == name
    assert method.__module__ == f"jaxrl_tok.{slot}.{name}"
    assert getattr(importlib.import_module(f"jaxrl_tok.{slot}"), name) is method


@pytest.mark.parametrize(("slot", "name"), [method for method in METHODS if method[0] != "scores"])
def test_every_array_read_is_in_the_notation(slot, name):
    reads, optional, _ = split_signature(SLOTS[slot][name])
    assert {*reads, *optional} <= vocabulary()


@pytest.mark.parametrize(("slot", "name"), METHODS)
def test_parameters_are_arrays_or_keyword_hyperparameters(slot, name):
    for parameter in inspect.signature(SLOTS[slot][name]).parameters.values():
        array = parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        assert array or parameter.kind is parameter.KEYWORD_ONLY
        assert not array or parameter.default in (parameter.empty, None)
        assert parameter.annotation is not parameter.empty


@pytest.mark.parametrize(("slot", "name"), METHODS)
def test_docstring_has_a_summary_a_formula_and_a_source(slot, name):
    doc = inspect.getdoc(SLOTS[slot][name])
    assert doc.partition("\n")[0].endswith(".")
    assert re.search(r"^    \S", doc, re.MULTILINE)
    if slot != "scores":
        assert re.search(r"https://arxiv\.org/abs/\d{4}\.\d{4,5}", doc)
        assert re.search(r"^Fidelity: (code|paper|reconstructed)\.", doc, re.MULTILINE)
        assert re.search(r"^Degenerate: \S", doc, re.MULTILINE)


def test_the_notation_is_read():
    assert {"tokens", "mask", "valid", "old_entropy", "log_ratio", "low", "high", "loss"} <= vocabulary()
