"""Log-prob, entropy and normaliser of tokens, from hidden states and head, without their logits.

Throughout, z[n, v] = inv_temperature[n] * cap(hidden[n] . head[v]) with cap(x) = c tanh(x / c), or x without
a soft cap, and p[n] = softmax(z[n]).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxrl_tok import compat
from jaxrl_tok.errors import ConfigError
from jaxrl_tok.kernels.dispatch import choose
from jaxrl_tok.kernels.token_score.common import Layout, Options, Rows, wider
from jaxrl_tok.kernels.token_score.vjp import BACKENDS, score_rows
from jaxrl_tok.types import Leaf, pytree


@pytree
class TokenScores:
    """What one pass over the vocabulary tells of each token, in nats; 0 where the target is ignored."""

    logprobs: Leaf  # f32[...], log p[target]
    entropy: Leaf  # f32[...], -sum_v p_v log p_v
    lse: Leaf  # f32[...], log sum_v exp z_v


def token_score(
    hidden: Float[Array, "*rows D"],
    head: Float[Array, "_ _"],
    targets: Int[Array, "*rows"],
    *,
    inv_temperature: float | int | Float[Array, "..."] = 1.0,
    soft_cap: float | int | None = None,
    head_layout: Layout | None = None,
    head_grad: bool = True,
    backend: str = "auto",
    block: int | None = None,
) -> TokenScores:
    """Returns each target's log-prob, the entropy of its distribution and the normaliser.

        lse[n] = log sum_v exp z[n, v]
        logprobs[n] = z[n, targets[n]] - lse[n]
        entropy[n] = -sum_v p[n, v] log p[n, v]

    Differentiable once, in hidden and head, through all three results; the gradient by the logits is

        G[n, v] = p[n, v] (g_lse[n] - g_logprobs[n] - g_entropy[n] (log p[n, v] + entropy[n]))
                  + g_logprobs[n] 1[v = targets[n]]

    Sums and results are float32 whatever the inputs (float64 for float64 inputs); logprobs <= 0 and
    0 <= entropy <= log V hold exactly. A negative target is ignored: its three results are 0, it gives no
    gradient, and its hidden state, temperature and cotangents may be anything, NaN too. A target of V or more
    gives NaN. The streaming form is that of Cut Cross-Entropy, Wijmans et al. 2024,
    https://arxiv.org/abs/2411.09009, without its filter of small gradients.

    Args:
        hidden: the model's last hidden states, after its final norm.
        head: [D, V] or [V, D]; an embedding that is tied to the head goes in as it is.
        targets: the tokens to score.
        inv_temperature: 1 / temperature, finite; broadcast to `targets`. No gradient.
        soft_cap: c of the cap on raw logits, applied before the temperature.
        head_layout: "dv" or "vd"; needed only for a square head.
        head_grad: `False` treats the head as a constant and saves a third of the backward pass.
        backend: "chunked", "reference" or "auto".
        block: columns of the vocabulary held at a time; by default a measured size. The reference ignores it.

    Raises:
        ConfigError: a backend that is unknown or cannot run, shapes that do not fit, an ambiguous layout.
    """
    options = _options(hidden, head, targets, soft_cap, head_layout, head_grad, block)
    return _score(hidden, head, targets, inv_temperature, None, options, backend)


def kept_logprobs(
    hidden: Float[Array, "*rows D"],
    head: Float[Array, "_ _"],
    targets: Int[Array, "*rows"],
    thresholds: Float[Array, "*rows"],
    lse: Float[Array, "*rows"] | None = None,
    *,
    inv_temperature: float | int | Float[Array, "..."] = 1.0,
    soft_cap: float | int | None = None,
    head_layout: Layout | None = None,
    head_grad: bool = True,
    backend: str = "auto",
    block: int | None = None,
) -> Float[Array, "*rows"]:
    """Returns each target's log-prob among the tokens that a filter (top-k, top-p, min-p) kept.

        kept[n] = {v : z[n, v] - lse[n] >= thresholds[n]} and targets[n]
        logprob[n] = z[n, targets[n]] - log sum_{v in kept[n]} exp z[n, v]
        G[n, v] = g[n] (1[v = targets[n]] - p_kept[n, v])

    A threshold is a log-prob at the temperature 1 / inv_temperature, before filtering. Another program rounds
    logits otherwise, so it is best laid halfway between the last kept token and the first dropped one. The
    kept set is constant under differentiation; thresholds and lse get no gradient. +inf keeps the target
    alone and gives 0. -inf keeps all and gives the `logprobs` of `token_score`, to the bit where that too is
    compiled for its log-probs alone. Ignored targets, bounds and types are those of `token_score`.

    Args:
        hidden: the model's last hidden states, after its final norm.
        head: [D, V] or [V, D].
        targets: the tokens to score.
        thresholds: the least log-prob that is kept.
        lse: `token_score(...).lse` for the same arguments; without it, one more pass computes it.
        inv_temperature: 1 / temperature, which must be the one of `thresholds`.
        soft_cap: see `token_score`.
        head_layout: see `token_score`.
        head_grad: see `token_score`.
        backend: see `token_score`.
        block: see `token_score`.

    Raises:
        ConfigError: as `token_score`.
    """
    options = _options(hidden, head, targets, soft_cap, head_layout, head_grad, block)
    if lse is None:
        fixed_hidden, fixed_head = jax.lax.stop_gradient((hidden, head))
        all_lse = _score(fixed_hidden, fixed_head, targets, inv_temperature, None, options, backend).lse
    else:
        all_lse = lse
    dtype = _accumulation_dtype(hidden, head)
    cut = jax.lax.stop_gradient(thresholds.astype(dtype) + all_lse.astype(dtype))
    return _score(hidden, head, targets, inv_temperature, cut, options, backend).logprobs


def _score(
    hidden: Array,
    head: Array,
    targets: Array,
    inv_temperature: float | int | Array,
    cut: Array | None,
    options: Options,
    backend: str,
) -> TokenScores:
    """Flattens the rows, keeps the ignored ones out of the arithmetic, and scores over the kept tokens."""
    chosen = choose(backend, dict.fromkeys(BACKENDS))
    shape, vocabulary = targets.shape, head.shape[options.vocab_axis]
    dtype = _accumulation_dtype(hidden, head)
    inv_temperature = jax.lax.stop_gradient(jnp.asarray(inv_temperature).astype(dtype))
    targets = targets.reshape(-1)
    valid = targets >= 0
    rows = Rows(
        hidden=jnp.where(valid[:, None], hidden.reshape(-1, hidden.shape[-1]), 0),
        targets=jnp.clip(targets, 0, vocabulary).astype(jnp.int32),
        inv_temperature=jnp.where(valid, jnp.broadcast_to(inv_temperature, shape).reshape(-1), 1),
        cut=None if cut is None else jnp.where(valid, cut.reshape(-1), -jnp.inf),
    )
    results = score_rows(options, chosen, *compat.vary_together((rows, head)))
    known = targets < vocabulary
    logprobs, entropy, lse = (jnp.where(valid, jnp.where(known, x, jnp.nan), 0).reshape(shape) for x in results)
    return TokenScores(logprobs=logprobs, entropy=entropy, lse=lse)


def _accumulation_dtype(hidden: Array, head: Array) -> np.dtype:
    return np.dtype(np.float64 if wider(hidden, head) == np.float64 else np.float32)


def _options(
    hidden: Array,
    head: Array,
    targets: Array,
    soft_cap: float | int | None,
    head_layout: Layout | None,
    head_grad: bool,
    block: int | None,
) -> Options:
    """Checks what is static, and finds the head's layout."""
    *leading, size = hidden.shape
    if tuple(leading) != targets.shape:
        raise ConfigError(f"hidden is {hidden.shape} for targets {targets.shape}; expected {targets.shape} + (D,)")
    if soft_cap is not None and not soft_cap > 0:
        raise ConfigError(f"soft_cap is {soft_cap}; expected a positive number, or None for no cap")
    if block is not None and block < 1:
        raise ConfigError(f"block is {block}; expected a positive number of columns")
    layouts: tuple[Layout, ...] = ("dv", "vd") if head_layout is None else (head_layout,)
    if not set(layouts) <= {"dv", "vd"}:
        raise ConfigError(f"head_layout is {head_layout!r}; expected 'dv' for [D, V] or 'vd' for [V, D]")
    fitting: list[Layout] = [layout for layout in layouts if head.shape[layout.index("d")] == size]
    if not fitting:
        raise ConfigError(f"head is {head.shape}; expected {size} for D, as in hidden, in {' or '.join(layouts)}")
    if len(fitting) > 1:
        raise ConfigError(f"head is square, {head.shape}; say head_layout='dv' for [D, V] or 'vd' for [V, D]")
    return Options(fitting[0], soft_cap, head_grad, block)
