"""Writes docs/methods.md from the signatures and docstrings of the registered methods.

    tools/run python tools/methods_table.py [--check]

With `--check` it writes nothing and fails if the page is out of date.
"""

import argparse
import sys
from pathlib import Path

from jaxrl_tok.config import catalogue
from jaxrl_tok.train.recipe import REGISTRIES, supplier

PAGE = Path(__file__).parents[1] / "docs" / "methods.md"
HEAD = """# Methods

Written by `tools/methods_table.py` from signatures and docstrings. What each array is stands in
[the notation](notation.md); those with a `?` are read when there are any. Hyperparameters are set beside
`method` in a recipe's slot. `jaxrl-tok methods` prints the same, and `jaxrl-tok methods --reads entropy` the
methods that read an array. [Which one to take](choose_a_method.md) is another page.

**Fidelity**: *code* gives the numbers of the authors' code (or of the library that is named), and any deviation
is an option or stands in the docstring; *paper* follows the paper alone; *reconstructed* has a formula that is
partly ours, and is no reproduction. **Also needs**: what a recipe with this method would need beside what this
trainer has; the function takes its arrays from any program. **Degenerate case**: where it becomes another method,
or gives nothing.

"""


def page() -> str:
    """Returns the whole page."""
    return HEAD + catalogue.markdown(catalogue.rows(REGISTRIES, supplier))


def main() -> int:
    """Writes or checks the page; returns the exit status."""
    parser = argparse.ArgumentParser(description="Writes docs/methods.md, or checks it.")
    parser.add_argument("--check", action="store_true", help="fail if the page is out of date")
    if not parser.parse_args().check:
        PAGE.write_text(page())
        return 0
    if PAGE.exists() and PAGE.read_text() == page():
        return 0
    print("docs/methods.md is out of date: run tools/methods_table.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
