import types

import jax

from jaxrl_tok.kernels import device


def test_the_default_device():
    assert device.target() == ("cpu", jax.devices()[0].device_kind)


def test_the_device_of_the_mesh_in_use(monkeypatch):
    for platform, name in (("tpu", "tpu"), ("cuda", "gpu")):
        there = types.SimpleNamespace(device_kind="a kind", platform=platform)
        mesh = types.SimpleNamespace(abstract_device=there)
        monkeypatch.setattr(jax.sharding, "get_abstract_mesh", lambda mesh=mesh: mesh)
        assert device.target() == (name, "a kind")
