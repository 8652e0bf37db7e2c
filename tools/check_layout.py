"""Checks what no linter does: sizes, tests beside their sources, forbidden words, ends of files.

    tools/run python tools/check_layout.py

The limits, and what may pass them for which reason, stand in pyproject.toml under [tool.layout].
"""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("jaxrl_tok", "tests", "tools", "configs", "docs", ".ci")
TEXT = {".py", ".md", ".toml", ".yaml", ".txt", ".sh", ""}
# Spelt in two parts, so that this file passes its own check.
FORBIDDEN = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")


def text_files(root: Path) -> Iterator[Path]:
    """Gives every text file of the project: those of its folders, and those beside them."""
    for path in sorted(root.iterdir()):
        inside = sorted(path.rglob("*")) if path.is_dir() and path.name in FOLDERS else [path]
        for file in inside:
            if file.is_file() and file.suffix in TEXT and "__pycache__" not in file.parts:
                yield file


def lengths_of_functions(tree: ast.AST, outer: str = "") -> Iterator[tuple[str, int]]:
    """Gives each function's dotted name and its lines, from `def` to the last, docstring included."""
    for node in ast.iter_child_nodes(tree):
        named = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        name = f"{outer}.{node.name}".lstrip(".") if named else outer
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield name, (node.end_lineno or node.lineno) - node.lineno + 1
        yield from lengths_of_functions(node, name)


def sizes(root: Path) -> Iterator[tuple[str, str, int]]:
    """Gives ("file", path, lines) and ("function", path:name, lines) for all Python of the project."""
    for path in text_files(root):
        if path.suffix == ".py":
            place, source = path.relative_to(root).as_posix(), path.read_text()
            yield "file", place, len(source.splitlines())
            for name, lines in lengths_of_functions(ast.parse(source)):
                yield "function", f"{place}:{name}", lines


def check_sizes(root: Path, layout: dict) -> Iterator[str]:
    """Gives a line for what is over its limit without a reason, and for what is listed but not over it."""
    over = [(kind, key, lines) for kind, key, lines in sizes(root) if lines > layout[f"{kind}_lines"]]
    for kind, key, lines in over:
        if not layout[f"long_{kind}s"].get(key, "").strip():
            limit, table = layout[f"{kind}_lines"], f"[tool.layout.long_{kind}s]"
            yield f"{key}: {lines} lines, over {limit}; split it, or list it with a reason in {table}"
    for kind in ("file", "function"):
        for key in sorted(set(layout[f"long_{kind}s"]) - {key for _, key, _ in over}):
            yield f"{key}: listed in [tool.layout.long_{kind}s], but not there or within the limit"


def mirrored(test: Path, root: Path, test_folders: list[str]) -> bool:
    """Tells whether a test module stands where its source does, as test_NAME.py or test_NAME_ASPECT.py."""
    place = test.relative_to(root)
    if any(place.is_relative_to(folder) for folder in test_folders):
        return True
    inner = place.parent.relative_to("tests")
    folder = root / inner if inner.parts[:1] == ("tools",) else root / "jaxrl_tok" / inner
    words = test.stem.removeprefix("test_").split("_")
    names = {"_".join(words[:count]) for count in range(1, len(words) + 1)}
    return any((folder / name).exists() or (folder / f"{name}.py").exists() for name in names)


def check_mirror(root: Path, layout: dict) -> Iterator[str]:
    """Gives a line for each test module that mirrors no source module."""
    for test in sorted((root / "tests").rglob("test_*.py")):
        if not mirrored(test, root, layout["test_folders"]):
            place = test.relative_to(root).as_posix()
            yield f"{place}: no source module of that name; rename it, or use one of {layout['test_folders']}"


def check_text(root: Path) -> Iterator[str]:
    """Gives a line for each forbidden word, trailing blank, and file that does not end with one newline."""
    for path in text_files(root):
        place, text = path.relative_to(root).as_posix(), path.read_text()
        for number, line in enumerate(text.splitlines(), start=1):
            if word := FORBIDDEN.search(line):
                yield f"{place}:{number}: {word[0]}; file an issue, or do it"
            if line != line.rstrip():
                yield f"{place}:{number}: blank at the end of the line"
        if text and not text.endswith("\n"):
            yield f"{place}: no newline at the end"
        if text.endswith("\n\n"):
            yield f"{place}: blank line at the end"


def check(root: Path) -> list[str]:
    """Gives every finding in the project at `root`, one line each."""
    layout = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["layout"]
    return [*check_sizes(root, layout), *check_mirror(root, layout), *check_text(root)]


def main() -> int:
    """Prints the findings; returns the exit status."""
    findings = check(ROOT)
    print("\n".join(findings) or "layout: clean")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
