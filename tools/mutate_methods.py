"""Breaks every method of the catalogue, one formula at a time, and says which test notices.

    python tools/mutate_methods.py [--slot advantages,...] [--only NAME,...]

The mutants of a method, where its module has the place for them: a sign flipped, a mean dropped, the mask ignored (also
in `prepare` and `counted`). Each is run in a copy of the project, by the method's own tests and, if they pass, by what
conformance and golden tests say of it. A line a mutant names the test that failed, or says SURVIVED. The tests that
failed then run on the unbroken methods, where they must pass. Exit code 1 if one fails there, or a mutant survived.
"""

import argparse
import ast
import collections
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
SLOTS = ("advantages", "filters", "token_weights", "ratios", "clips", "losses", "reductions")
COPIED = ("jaxrl_tok", "tests", "configs", "docs", "tools", "pyproject.toml", "README.md")
OPTIONS = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
MEAN = r"(masked\.|jnp\.|segment_)mean"
LIMIT_S = 900

EQUIVALENT = {  # mutants that compute the same, and why
    "filters.max_variance_subset sign": "a variance does not change when all values move by the same",
    "advantages.gdpo sign": "every group's scores sum to 0, so the mean of the batch is 0",
}

Edit = tuple[ast.expr, ast.expr]  # what stands there, and what replaces it


class Mutant(NamedTuple):
    """One changed text of a method's module."""

    slot: str
    name: str
    kind: str
    line: int
    source: str


def functions(tree: ast.Module, name: str) -> list[ast.FunctionDef]:
    """Returns the module's functions: the method, `prepare` and `counted`, then the others; `init` has no formula."""
    order = {name: 0, "prepare": 1, "counted": 2}
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name != "init"]
    return sorted(found, key=lambda node: order.get(node.name, 3))


def expressions(node: ast.AST) -> Iterator[ast.expr]:
    """Gives the expressions of a function, outer ones first, but for the checks of hyperparameters."""
    if isinstance(node, ast.If) and any(isinstance(inner, ast.Raise) for inner in node.body):
        return
    if isinstance(node, ast.expr):
        yield node
    for child in ast.iter_child_nodes(node):
        yield from expressions(child)


def _new(template: str, *parts: ast.expr) -> ast.expr:
    return ast.parse(template.format(*(f"({ast.unparse(part)})" for part in parts)), mode="eval").body


def flip_sign(tree: ast.Module, name: str) -> list[Edit]:
    """Turns the first binary minus into a plus; without one drops the first unary minus; or negates the result."""
    found = [node for function in functions(tree, name) for node in expressions(function)]
    for node in found:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
            return [(node, _new("{} + {}", node.left, node.right))]
    for node in (node for node in found if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)):
        if not isinstance(node.operand, ast.Constant | ast.Attribute):  # as in axis=-1 and -jnp.inf
            return [(node, node.operand)]
    method = functions(tree, name)[0]
    value = [node.value for node in ast.walk(method) if isinstance(node, ast.Return) and node.value is not None][-1]
    if isinstance(value, ast.Tuple):
        value = value.elts[0]
    elif isinstance(value, ast.Call) and ast.unparse(value.func) == "Mean":
        value = value.args[0]
    logical = method.returns is not None and "Bool" in ast.unparse(method.returns)
    return [(value, _new("~{}" if logical else "-{}", value))]


def drop_mean(tree: ast.Module, name: str) -> list[Edit]:
    """Makes the first mean 0, or does not centre, or divides a reduction's total by 1, or not by a count."""
    found = [node for function in functions(tree, name) for node in expressions(function)]
    calls = [(ast.unparse(node.func), node) for node in found if isinstance(node, ast.Call)]
    edits: list[Edit] = [(call, _new("0 * {}", call)) for called, call in calls if re.fullmatch(MEAN, called)]
    edits += [(c, _new("{} + 0 * {}", c.args[0], c)) for called, c in calls if called == "centred_rewards"]
    edits += [(c.args[1], _new("jnp.ones_like({})", c.args[1])) for called, c in calls if called == "Mean"]
    divisions = [node for node in found if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)]
    edits += [(d, d.left) for d in divisions if re.fullmatch(r"jnp\.maximum\(.*, 1\)", ast.unparse(d.right))]
    return edits[:1]


def ignore_mask(function: ast.FunctionDef) -> list[Edit]:
    """Replaces the mask, or where there is none `valid`, by one of the same shape that masks nothing."""
    parameters = {argument.arg for argument in function.args.args}
    name = next((name for name in ("mask", "valid") if name in parameters), None)
    template = "jnp.ones_like({0})" if name == "mask" else "None if {0} is None else jnp.ones_like({0})"
    body = list(expressions(function))
    left_alone = {node.value for node in body if isinstance(node, ast.Attribute) and node.attr in ("shape", "dtype")}
    left_alone |= {node.left for node in body if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Is)}
    names = [node for node in body if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)]
    return [(node, _new(template, node)) for node in names if node.id == name and node not in left_alone]


def edited(source: str, edits: list[Edit]) -> str:
    """Replaces expressions in a text, none inside another; jnp is there for what comes in."""
    text = source.encode()
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for old, new in sorted(edits, key=lambda edit: (edit[0].lineno, edit[0].col_offset), reverse=True):
        assert old.end_lineno is not None and old.end_col_offset is not None
        begin, end = starts[old.lineno - 1] + old.col_offset, starts[old.end_lineno - 1] + old.end_col_offset
        text = text[:begin] + f"({ast.unparse(new)})".encode() + text[end:]
    return text.decode() + "\n\nimport jax.numpy as jnp\n"


def mutants(slot: str, name: str, source: str) -> Iterator[Mutant]:
    """Gives the mutants of a method's module."""
    tree = ast.parse(source)
    kinds = {"sign": flip_sign(tree, name), "mean": drop_mean(tree, name)}
    for function in functions(tree, name):
        if function.name in (name, "prepare", "counted"):
            kinds["mask" if function.name == name else f"mask of {function.name}"] = ignore_mask(function)
    for kind, edits in kinds.items():
        if edits:
            yield Mutant(slot, name, kind, edits[0][0].lineno, edited(source, edits))


class Watch:
    """A pytest plugin that keeps the tests about one method, all with None, and notes what fails."""

    def __init__(self, name: str | None) -> None:
        self.name, self.failed, self.broken = name, [], []

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Keeps the tests with the method's name among their parameters."""
        items[:] = [item for item in items if self.name is None or self._about(item)]

    def _about(self, item: Any) -> bool:
        words = re.split(r"[-.]", item.callspec.id if hasattr(item, "callspec") else "")
        return any(word == self.name or word.startswith(f"{self.name}_") for word in words)

    def pytest_collectreport(self, report: Any) -> None:
        """Notes a module that cannot be imported: it shows nothing about a formula."""
        self.broken += [report.nodeid] if report.failed else []

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Notes a test that fails, or its fixture."""
        self.failed += [report.nodeid] if report.failed else []


def tested(place: Path, tests: list[str], name: str | None = None) -> tuple[list[str], list[str]]:
    """Runs tests up to the first that fails, in a fork without the package; returns what failed, what is broken."""
    answer = place / "answer.json"
    answer.write_text(json.dumps([[], ["the process died"]]))
    sys.stdout.flush()
    if (child := os.fork()) == 0:
        try:
            signal.alarm(LIMIT_S)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.chdir(place)
            sys.path[:] = [str(place), *(entry for entry in sys.path if Path(entry).resolve() != ROOT)]
            import pytest

            watch = Watch(name)
            code = int(pytest.main([*OPTIONS, *tests], plugins=[watch]))  # 5 says that there is no test
            broken = watch.broken or ([] if code in (0, 1, 5) else [f"pytest ended with {code}"])
            answer.write_text(json.dumps([watch.failed, broken]))
        except BaseException as error:
            print(repr(error), file=sys.stderr)
        finally:
            os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGALRM:
        return [f"the limit of {LIMIT_S} s"], []
    return tuple(json.loads(answer.read_text()))


def judged(place: Path, mutant: Mutant, clock: Iterator[int]) -> tuple[list[str], list[str]]:
    """Runs the tests of one mutant, its own first, and restores the file."""
    file = place / "jaxrl_tok" / mutant.slot / f"{mutant.name}.py"
    original = file.read_text()

    def put(text: str) -> None:
        file.write_text(text)
        moment = next(clock)  # or Python could take the compiled text of another mutant
        os.utime(file, (moment, moment))

    try:
        put(mutant.source)
        result = tested(place, [f"tests/{mutant.slot}/test_{mutant.name}.py"])
        return result if any(result) else tested(place, ["tests/conformance", "tests/golden"], mutant.name)
    finally:
        put(original)


def import_libraries() -> None:
    """Imports what every fork needs; no backend is started, which would not survive a fork."""
    os.environ |= {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1"}
    import hypothesis
    import jax.numpy  # noqa: F401

    phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]  # the first failure will do, not the smallest
    hypothesis.settings.register_profile("mutants", phases=phases, database=None)
    hypothesis.settings.load_profile("mutants")


def main() -> int:
    """Runs the mutants one after the other and adds up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slot", default=",".join(SLOTS), help="folders of methods, comma-separated")
    parser.add_argument("--only", default="", help="names of methods, comma-separated")
    options = parser.parse_args()
    only = set(filter(None, options.only.split(",")))
    start, clock, ends, catching = time.monotonic(), iter(range(10**9, 2 * 10**9)), collections.Counter(), set()
    import_libraries()
    with tempfile.TemporaryDirectory(prefix="mutants_") as folder:
        place = Path(folder)
        for name in COPIED:
            (shutil.copytree if (ROOT / name).is_dir() else shutil.copy2)(ROOT / name, place / name)
        folders = {slot: sorted((ROOT / "jaxrl_tok" / slot).glob("[a-z]*.py")) for slot in options.slot.split(",")}
        files = [(slot, file) for slot, inside in folders.items() for file in inside if not only or file.stem in only]
        found = [mutant for slot, file in files for mutant in mutants(slot, file.stem, file.read_text())]
        for mutant in found:
            failed, broken = judged(place, mutant, clock)
            catching |= {test for test in failed if "::" in test}
            label = f"{mutant.slot}.{mutant.name} {mutant.kind}"
            unnoticed = f"equivalent: {EQUIVALENT[label]}" if label in EQUIVALENT else "SURVIVED"
            verdict = f"caught by {failed[0]}" if failed else f"BROKEN: {broken[0]}" if broken else unnoticed
            ends[verdict.split()[0].strip(":")] += 1
            print(f"{label} (line {mutant.line}) {verdict}", flush=True)
        alone = [test for tests in (tested(place, sorted(catching)) if catching else ()) for test in tests]
    for test in alone:
        print(f"FAILS WITHOUT A MUTATION: {test}")
    print(f"{len(found)} mutants, {dict(ends)}, {time.monotonic() - start:.0f} s")
    return int(ends["SURVIVED"] + ends["BROKEN"] + len(alone) > 0)


if __name__ == "__main__":
    sys.exit(main())
