"""Names of machines that are not there."""

import sys

import jax
import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.train import topology
from tests.helpers import need


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("v5p", "expected a chip and a shape, as in v5p:8x8x8, h100:8 or cpu:8"),
        ("v5p:8x", "expected a chip and a shape"),
        ("cpu:0", "expected a chip and a shape"),
        ("v5q:2x2", "--topology v5q: no chip of that name; did you mean 'v5p'?"),
        ("cpu:5", "this process has 4 CPU devices; set JAX_NUM_CPU_DEVICES"),
        ("a100:8", "of GPUs only the H100 can be compiled for; expected h100:8"),
    ],
)
def test_a_machine_that_cannot_be_is_one_line(where, words):
    assert len(jax.devices()) == 4  # JAX has started
    with pytest.raises(ConfigError) as refused:
        topology.topology(where)
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_without_libtpu_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "libtpu", None)
    with pytest.raises(ConfigError, match=r"needs libtpu.*tools/run --extra tpu .*pip install 'jaxrl_tok\[tpu\]'$"):
        topology.topology("v5e:2x2")


def test_without_the_cuda_plugin_it_says_how_to_install_it(monkeypatch):
    def missing(**_):
        raise NotImplementedError("no such plugin")

    monkeypatch.setattr(topology.topologies, "get_topology_desc", missing)
    with pytest.raises(ConfigError, match=r"needs JAX's CUDA plugin.*tools/run --extra cuda "):
        topology.topology("h100:8")


@pytest.mark.aot
def test_a_shape_that_no_tpu_has_is_one_line():
    need("libtpu")
    with pytest.raises(ConfigError) as refused:
        topology.topology("v5e:3x3")
    assert "\n" not in str(refused.value)
