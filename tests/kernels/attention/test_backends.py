import jax
import jax.numpy as jnp
import pytest

from jaxrl_tok.kernels.attention import Prefix
from jaxrl_tok.kernels.attention.api import prepare
from jaxrl_tok.kernels.attention.backends import candidates
from jaxrl_tok.kernels.attention.common import Options
from jaxrl_tok.kernels.dispatch import choose


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("cpu", {}, "chunked"),
        ("cpu", {"size": 64}, "xla"),
        ("cpu", {"tree": True}, "chunked"),
        ("cpu", {"prefix": True}, "shared_prefix"),
        ("cpu", {"prefix": True, "size": 64}, "xla"),
        ("gpu", {}, "cudnn"),
        ("gpu", {"segments": True}, "chunked"),
        ("gpu", {"soft_cap": 30.0}, "chunked"),
        ("gpu", {"dtype": jnp.float32}, "chunked"),
        ("gpu", {"head": 192}, "chunked"),
        ("gpu", {"tree": True}, "chunked"),
        ("gpu", {"prefix": True}, "shared_prefix"),
        ("tpu", {}, "splash"),
        ("tpu", {"segments": True, "soft_cap": 30.0}, "splash"),
        ("tpu", {"tree": True}, "pallas_tpu"),
        ("tpu", {"prefix": True}, "shared_prefix"),
        ("tpu", {"dtype": jnp.float16}, "chunked"),
    ],
)
def test_what_auto_takes(name, changes, expected):
    size, head = changes.get("size", 1024), changes.get("head", 64)

    def problem(q, k, ids):
        prefix = Prefix(k[:1], k[:1], ids[:1] >= 0) if changes.get("prefix") else None
        tree = (ids if changes.get("tree") else None, None)
        segments = ids if changes.get("segments") else None
        options = Options(1.0, changes.get("soft_cap"))
        found.append(prepare(q, k, k, options, True, segments, tree, prefix)._replace(platform=name))

    found = []
    q, k = (jax.ShapeDtypeStruct((2, size, n, head), changes.get("dtype", jnp.bfloat16)) for n in (4, 2))
    jax.eval_shape(problem, q, k, jax.ShapeDtypeStruct((2, size), jnp.int32))
    assert choose("auto", candidates(found[0])) == expected
