import subprocess
import sys

import pytest

from jaxrl_tok.kernels.lazy import Lazy


def test_a_lazy_module_is_the_module():
    import json

    assert Lazy("json").dumps is json.dumps
    with pytest.raises(AttributeError):
        Lazy("json").no_such_thing  # noqa: B018


def test_importing_the_kernels_does_not_import_pallas():
    code = "import sys, jaxrl_tok.kernels; print(*(name for name in sys.modules if 'pallas' in name))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = [name for name in done.stdout.split() if not name.startswith("jaxrl_tok.")]
    assert found == []
