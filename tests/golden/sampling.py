"""Golden functions of sampling: one row of logits, or one batch's entropies."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.samplers import SAMPLERS, cyclic_reflex
from jaxrl_tok.samplers.adaptive_temperature import token_temperature
from jaxrl_tok.scores.normalized_entropy import EntropyScale, entropy_scale
from tests.golden.flat import call

ORDERS = {"hf": ("temperature", "top_k", "top_p", "min_p"), "vllm": ("temperature", "min_p", "top_k", "top_p")}
EPS = 1e-6


def cyclic_reflex_wave(pos, amplitude=5.0, period=1200):
    count = len(pos)
    arrays = np.zeros((count, 2)), pos.astype(np.int32), np.ones(count, bool)
    return call(cyclic_reflex, *arrays, ids=(1,), amplitude=amplitude, period=int(period))[:, 1]


def hapo_temperature(entropies, as_released=False):
    """The code's statistics, and the temperatures by them.

    It divides by the root mean square, and before the temperatures by that and EPS, so that its ends are not quite met.
    """
    scale = call(entropy_scale, entropies[None], np.ones((1, len(entropies)), bool))
    std = jnp.sqrt(jnp.mean((jnp.log(entropies) - scale.pivot) ** 2))
    wider = EntropyScale(scale.pivot, *(x * (1 + EPS / std) for x in scale[1:]))
    temperature = call(token_temperature, entropies, np.ones(len(entropies)), wider, as_released=bool(as_released))
    return {"stats": jnp.stack([scale.pivot, std, std / scale.high, std / scale.low]), "temperature": temperature}


def filtered_probs(logits, T=1.0, k=0, p=1.0, m=0.0, order="hf"):
    settings = {"temperature": T, "top_k": k, "top_p": float(p), "min_p": m}
    x = jnp.asarray(logits)[None]
    for name in ORDERS[order]:
        x = call(SAMPLERS[name], x, jnp.asarray([settings[name]], jnp.int32 if name == "top_k" else x.dtype))
    return jax.nn.softmax(x, axis=-1)[0]


FUNCTIONS = {
    "cyclic_reflex_wave": cyclic_reflex_wave,
    "hapo_temperature": hapo_temperature,
    "filtered_probs": filtered_probs,
}
