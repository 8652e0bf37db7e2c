import ast
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from tools import mutate_methods as tool

ROOT = Path(__file__).parents[2]
MODULE = '''"""Half a − b."""

import jax.numpy as jnp

from jaxrl_tok import masked


def centred(x, mask, valid=None, *, weight=1.0):
    """Gives x - mean."""
    if not weight > -1:
        raise ValueError(weight - 1)
    ones = jnp.ones(mask.shape)
    return jnp.where(mask, (x - masked.mean(x, mask)) / jnp.maximum(weight, 1), -jnp.inf * ones)


def prepare(x, mask):
    """Gives -x."""
    return jnp.where(mask, -x, 0)


def init(x):
    return x - 1
'''


def changes(name, source):
    """The lines that each mutant has changed, without the import at its end."""
    found = {}
    for mutant in tool.mutants("slot", name, source):
        pairs = zip(source.splitlines(), mutant.source.splitlines(), strict=False)
        found[mutant.kind] = [after.strip() for before, after in pairs if before != after]
    return found


def test_three_mutants_of_a_method_and_one_of_what_prepares():
    end = "/ jnp.maximum(weight, 1), -jnp.inf * ones)"
    ones = "(jnp.ones_like(mask))"
    assert changes("centred", MODULE) == {
        "sign": [f"return jnp.where(mask, ((x + masked.mean(x, mask))) {end}"],
        "mean": [f"return jnp.where(mask, (x - (0 * masked.mean(x, mask))) {end}"],
        "mask": [f"return jnp.where({ones}, (x - masked.mean(x, {ones})) {end}"],
        "mask of prepare": [f"return jnp.where({ones}, -x, 0)"],
    }


@pytest.mark.parametrize(
    ("body", "flipped"),
    [
        ("return f(-x, -jnp.inf, axis=-1)", "return f((x), -jnp.inf, axis=-1)"),
        ("return f(x, axis=-1)", "return (-f(x, axis=-1))"),
        ("return x, state", "return (-x), state"),
        ("return Mean(x, n)", "return Mean((-x), n)"),
    ],
)
def test_sign_where_there_is_no_minus(body, flipped):
    assert changes("f", f"def f(x, n, state):\n    {body}\n") == {
        "sign": [flipped],
        **({"mean": ["return Mean(x, (jnp.ones_like(n)))"]} if "Mean" in body else {}),
    }


def test_a_choice_is_inverted_and_a_missing_valid_stays_missing():
    source = (
        "def f(x, valid=None) -> Bool[Array, 'P G']:\n    valid = x if valid is None else valid\n    return valid & x\n"
    )
    valid = "(None if valid is None else jnp.ones_like(valid))"
    assert changes("f", source) == {
        "sign": ["return (~(valid & x))"],
        "mask": [f"valid = x if valid is None else {valid}", f"return {valid} & x"],
    }


@pytest.mark.parametrize(
    ("expression", "dropped"),
    [
        ("centred_rewards(r, mask) / n", "(r + 0 * centred_rewards(r, mask)) / n"),
        ("r * (total / jnp.maximum(n, 1))", "r * ((total))"),
        ("r / jnp.maximum(n, eps)", None),
    ],
)
def test_mean(expression, dropped):
    tree = ast.parse(f"def f(r, n):\n    return {expression}\n")
    edits = tool.drop_mean(tree, "f")
    text = tool.edited(f"def f(r, n):\n    return {expression}\n", edits).splitlines()[1].strip()
    assert text == f"return {dropped or expression}"


def test_a_mutant_runs_and_is_wrong():
    source = "def f(x, mask):\n    return masked_sum(x, mask) - 1\n"
    results = {}
    for mutant in tool.mutants("slot", "f", source):
        scope = {"masked_sum": lambda x, mask: jnp.sum(jnp.where(mask, x, 0))}
        exec(mutant.source, scope)
        results[mutant.kind] = float(scope["f"](jnp.array([2.0, 3.0]), jnp.array([True, False])))
    assert results == {"sign": 3.0, "mask": 4.0}  # of 1


def test_tests_about_a_method_have_its_name_among_their_parameters():
    ids = ["grpo", "0-clip.grpo", "grpo_passk-3", "dr_grpo", "tempo-0"]
    items = [SimpleNamespace(callspec=SimpleNamespace(id=i)) for i in ids] + [SimpleNamespace(name="grpo")]
    tool.Watch("grpo").pytest_collection_modifyitems(items)
    assert [item.callspec.id for item in items] == ids[:3]


def test_every_method_has_a_mutant_of_its_sign_and_its_mask():
    for slot in tool.SLOTS:
        for file in (ROOT / "jaxrl_tok" / slot).glob("[a-z]*.py"):
            kinds = {mutant.kind for mutant in tool.mutants(slot, file.stem, file.read_text())}
            assert {"sign", "mask"} <= kinds or file.stem == "asymmetric", file  # which reads the mask's shape only
