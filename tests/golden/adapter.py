"""Runs a golden case on the package: the case's names and flat rows -> named arrays, and the result back.

    run("rloo", {"mask": [[1], [1]], "reward": [1, 0], "group": [0, 0]})

Inputs are nested lists; masks are 0 or 1, null in a list is a missing number, "inf" and "-inf" are numbers.
Rows are flat `[B, T]` with a `group` id each. All runs in float64. To add a function, write it here, or in the
module of its family, with the case's input names as parameters and list it in `FUNCTIONS`.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.advantages import dr_grpo, grpo, rloo, tempo
from jaxrl_tok.filters import informative_groups
from jaxrl_tok.losses import kl, ppo_clip, sft
from jaxrl_tok.ratios import token
from jaxrl_tok.reductions import (
    constant_length,
    sequence_mean_token_mean,
    sequence_mean_token_sum,
    token_mean,
)
from jaxrl_tok.scores import prefix_tree_values
from jaxrl_tok.token_weights import high_entropy
from tests.golden import objectives, outcomes, rollouts, sampling, structures, vocabulary, weights
from tests.golden.flat import LEAST, SINGLETON, Groups, call, parse

ESTIMATOR = {"kl": "k1", "mse": "k2", "low_var_kl": "k3"}


def run(function: str, inputs: Mapping[str, Any], *, x64: bool = True) -> Any:
    """Returns what the package gives for a golden function's inputs, nested as its `expected`.

    All is computed in float64, or with `x64 = False` in float32.
    """
    if function not in FUNCTIONS:
        raise KeyError(f"no golden function {function!r}; known: {', '.join(sorted(FUNCTIONS))}")
    with jax.enable_x64(x64):
        adapter = FUNCTIONS[function]
        defaults = {name: p.default for name, p in inspect.signature(adapter).parameters.items()}
        given = {name: parse(value) for name, value in inputs.items()}
        # A whole number where a float is meant: JSON does not say which.
        given |= {k: float(x) for k, x in given.items() if type(x) is int and isinstance(defaults.get(k), float)}
        result = adapter(**given)
        return jax.tree.map(lambda x: np.asarray(x, np.float64), result)


def group_relative(method: Callable[..., jax.Array], default: str) -> Callable[..., np.ndarray]:
    """Adapts an advantage of the rewards; `default` is the golden function's treatment of a group of one."""

    def adapted(reward, group, mask=None, singleton=default, **hyper):
        groups = Groups(group)
        rewards, valid = groups.rewards(reward)
        tokens = np.ones((len(reward), 1)) if mask is None else mask
        hyper["singleton"] = SINGLETON[singleton]
        advantages = groups.flat(call(method, rewards, groups.pack(tokens, bool), valid, **hyper))
        return advantages[:, 0] if mask is None else advantages

    return adapted


def rloo_advantages(rewards, group):
    return group_relative(rloo, "zero")(rewards, group)


def tree_inputs(tokens, mask, reward, group):
    groups = Groups(group)
    rewards, valid = groups.rewards(reward)
    return groups, (groups.pack(tokens, np.int32), rewards, groups.pack(mask, bool), valid)


def prefix_tree(tokens, mask, reward, group):
    groups, arrays = tree_inputs(tokens, mask, reward, group)
    return [groups.flat(x) for x in call(prefix_tree_values, *arrays)]


def tempo_advantages(tokens, mask, reward, group, use_std=True, eps=1e-6, singleton="zero"):
    groups, arrays = tree_inputs(tokens, mask, reward, group)
    return groups.flat(call(tempo, *arrays, use_std=bool(use_std), eps=eps, singleton=SINGLETON[singleton]))


def dapo_keep(reward, group):
    groups = Groups(group)
    return groups.flat(call(informative_groups, *groups.rewards(reward)))


def kl_estimate(logp, ref, kind):
    """`clamp` as in verl; a "+" asks for another gradient of the same value."""
    name = kind.removesuffix("+")
    options = {"estimator": ESTIMATOR.get(name, name), "straight_through": kind != name, "clamp": True}
    return call(kl, logp, ref, np.ones(logp.shape, bool), **options)


def kl_estimators(logp, ref_logp):
    return {kind: kl_estimate(logp, ref_logp, kind) for kind in ("k1", "abs", "k2", "k3")}


def aggregate(loss, mask, mode, loss_scale_factor=None, eps=0.0):
    """Averages by verl's or TRL's name of the mode; `eps` is added to the lengths of completions."""
    loss, mask = jnp.asarray(loss), jnp.asarray(mask, bool)
    rows = mask.shape[0]
    length = mask.shape[1] if loss_scale_factor is None else loss_scale_factor
    if mode in ("token-mean", "dapo", "bnpo", "cispo"):
        return token_mean(loss, mask).value()
    if mode == "seq-mean-token-sum":
        return sequence_mean_token_sum(loss, mask).value()
    if mode == "seq-mean-token-mean":
        return sequence_mean_token_mean(loss, mask, eps=eps).value()
    if mode == "grpo":  # rows without a token count
        return sequence_mean_token_mean(loss, mask).total / rows
    if mode == "dr_grpo":
        return constant_length(loss, mask, length=length, rows="all").value()
    if mode == "seq-mean-token-sum-norm":  # not divided by the number of rows
        return constant_length(loss, mask, length=length, rows="all").value() * rows
    raise ValueError(f"unknown mode {mode!r}")


def agg_loss(x, mask, mode="token-mean", loss_scale_factor=None):
    return call(aggregate, x, mask=mask, mode=mode, loss_scale_factor=loss_scale_factor, eps=1e-8)


def agg_weights(mask, mode, loss_scale_factor=None):
    """The aggregate is linear in the per-token losses; its gradient is their weights."""
    options = {"mask": mask, "mode": mode, "loss_scale_factor": loss_scale_factor}
    return call(jax.grad(functools.partial(aggregate, **options)), np.zeros(mask.shape))


def surrogate(logp, old, adv, mask, lo, hi, dual):
    low, high = (jnp.broadcast_to(jnp.asarray(x, float), adv.shape) for x in (1 - lo, 1 + hi))
    old, adv, mask = jnp.asarray(old), jnp.asarray(adv), jnp.asarray(mask, bool)
    return ppo_clip(token(logp, old, mask), low, high, adv, jnp.ones(adv.shape), mask, dual_clip=dual)


def ppo_token_loss(logp, old, adv, lo=0.2, hi=0.2, dual=3.0):
    options = {"old": old, "adv": adv, "mask": np.ones(adv.shape), "lo": lo, "hi": hi, "dual": dual}
    return call(surrogate, logp, **options)


def clipped_surrogate(logp, old, adv, mask, lo=0.2, hi=0.2, dual=None, mode="token-mean"):
    """Loss, and its gradient with respect to the log-probs."""

    def loss(x):
        return aggregate(surrogate(x, old, adv, mask, lo, hi, dual), mask, mode)

    return list(call(jax.value_and_grad(loss), logp))


def sft_loss(logp, mask, reduction="token_mean"):
    mask = jnp.asarray(mask, bool)
    loss = sft(jnp.asarray(logp), mask)
    if reduction == "sum":
        return token_mean(loss, mask).total
    return {"token_mean": token_mean, "seq_mean": sequence_mean_token_mean}[reduction](loss, mask).value()


def select(scope: str, default: float, least: float = LEAST) -> Callable[..., jax.Array]:
    """Adapts `high_entropy` to flat rows; `least` is in place of a fraction of 0."""

    def adapted(mask, entropy=None, score=None, rho=default, frac=None):
        values = score if entropy is None else entropy
        fraction = (rho if frac is None else frac) or least
        if not fraction:
            return np.zeros(mask.shape)
        return call(high_entropy, values[None], mask[None] > 0, fraction=fraction, scope=scope)[0]

    return adapted


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "grpo": group_relative(grpo, "verl"),
    "grpo_advantage": group_relative(grpo, "verl"),
    "dr_grpo": group_relative(dr_grpo, "verl"),
    "rloo": group_relative(rloo, "verl"),
    "rloo_advantages": rloo_advantages,
    "prefix_tree_values": prefix_tree,
    "tempo": tempo_advantages,
    "dapo_keep": dapo_keep,
    "kl_estimate": kl_estimate,
    "kl_estimators": kl_estimators,
    "agg_loss": agg_loss,
    "agg_weights": agg_weights,
    "ppo_token_loss": ppo_token_loss,
    "ppo_clip": clipped_surrogate,
    "sft_loss": sft_loss,
    "forking_mask_batch": select("batch", 0.2),
    "forking_mask_threshold": select("batch_quantile", 0.2),
    "topk_mask_per_sequence": select("response", 0.4, least=0),
    **vocabulary.FUNCTIONS,
    **outcomes.FUNCTIONS,
    **structures.FUNCTIONS,
    **weights.FUNCTIONS,
    **objectives.FUNCTIONS,
    **sampling.FUNCTIONS,
    **rollouts.FUNCTIONS,
}
