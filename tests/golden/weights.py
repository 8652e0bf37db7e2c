"""Golden functions of token weights, of what they are made of, and of the filter and clip that go with them."""

import jax.numpy as jnp
import numpy as np

from jaxrl_tok.clips import hapo
from jaxrl_tok.filters import max_variance_subset
from jaxrl_tok.scores import (
    d3s_schedule,
    effective_rank,
    flow_throughput,
    group_divergence,
    kl_estimate,
    normalized_attention_entropy,
    normalized_entropy,
)
from jaxrl_tok.token_weights import (
    d3s_tokens,
    dgpo,
    hapo_redistribute,
    icepop,
    mismatch_mask,
    rhythm,
    sequence_is,
    truncated_is,
    tw_grpo,
)
from jaxrl_tok.token_weights.stare import State, controller, prepare
from jaxrl_tok.token_weights.vppo import trajectory_scale
from tests.golden.flat import LEAST, call

LEVELS = {"token": "token", "seq_sum": "sequence_sum", "seq_mean": "sequence_mean", "seq_max": "sequence_max"}


def named(**options):
    """Options that a case gives; the others keep the method's default."""
    return {name: value for name, value in options.items() if value is not None}


def positive(fraction):
    return LEAST if fraction == 0 else fraction


def dgpo_weights(dev, ent, mask, logV, tau=None, kappa=None):
    """The reference takes the largest entropy itself, which need not be the logarithm of a whole number."""
    vocab_size = max(2, round(np.exp(logV)))
    options = named(vocab_size=vocab_size, temperature=tau, kappa=kappa)
    return call(dgpo, dev[None], ent[None] * (np.log(vocab_size) / logV), mask[None] > 0, **options)[0]


def tis_weights(
    train_logp,
    mask,
    rollout_logp=None,
    roll_logp=None,
    level="token",
    mode="truncate",
    cap=None,
    lower=None,
    normalize=False,
):
    """Both files' names of the sampler's log-probs; at the level of tokens the masking mode is IcePop's."""
    arrays = train_logp[None], (roll_logp if rollout_logp is None else rollout_logp)[None], mask[None] > 0
    bounds = named(low=0.0 if lower is None else lower, high=2.0 if cap is None else cap)
    if level == "token" and mode == "mask":
        return call(icepop, *arrays, **bounds)[0]
    if level == "token":
        return call(truncated_is, *arrays, **bounds, normalize=bool(normalize))[0]
    return call(sequence_is, *arrays, **bounds, mode=mode, normalize=bool(normalize))[0]


def icepop_weights(train_logp, roll_logp, mask, alpha=None, beta=None):
    return call(icepop, train_logp[None], roll_logp[None], mask[None] > 0, **named(low=alpha, high=beta))[0]


def mis_mask(train_logp, roll_logp, mask, kind, lower=None, upper=None):
    """The reference is verl's code, in which k1 has the other sign."""
    level, _, estimator = kind.rpartition("_")
    options = named(level=LEVELS[level], estimator=estimator, low=1e-300 if lower == 0 else lower, high=upper)
    return call(mismatch_mask, train_logp[None], roll_logp[None], mask[None] > 0, as_released=True, **options)[0]


def stare_weights(logp, adv, mask, variant="O1", top=None, W=1.1, M=0.9):
    """Outside the mask the reference has 1. An entropy of 0 opens the gate."""
    mask = mask > 0
    state = State(jnp.asarray(W), jnp.asarray(M))
    weights, _ = call(
        prepare, state, logp, np.zeros(mask.shape), adv, mask, variant=variant, **named(fraction=positive(top))
    )
    return jnp.where(mask, weights, 1)


def stare_controller(ent, target=0.3, W=1.1, M=0.9, alpha=None):
    state = State(jnp.asarray(W), jnp.asarray(M))
    options = named(target_entropy=target, adapt=alpha)
    on, state = controller(state, jnp.asarray(ent, state.positive.dtype), **options)
    return [on, state.positive, state.negative]


def hapo_h(entropy, mask, as_released=False, **options):
    return call(normalized_entropy, entropy, mask > 0, as_released=bool(as_released), **options)


def hapo_clip_ranges(h, lo=0.2, hi=0.2, alpha=None):
    low, high = call(hapo, h, np.ones(h.shape, bool), low=1 - lo, high=1 + hi, **named(alpha=alpha))
    return [1 - low, high - 1]


def hapo_redistributed(adv, h, ratio, lo, hi, beta=None):
    arrays = jnp.log(ratio), 1 - lo, 1 + hi, h, np.ones(h.shape, bool)
    return adv * call(hapo_redistribute, *arrays, **named(beta=beta))


def tw_grpo_weights(all_logp, mask, G, alpha=None):
    """Groups are consecutive rows of equal number."""
    mask = mask.reshape(-1, G, mask.shape[1]) > 0
    divergence = call(group_divergence, all_logp.reshape(*mask.shape, -1), mask, as_released=True)
    weights = call(tw_grpo, divergence, mask, as_released=True, **named(alpha=alpha))
    return weights.reshape(-1, mask.shape[2])


def vppo_dependency(logp, logp_aug):
    return call(kl_estimate, logp, logp_aug, estimator="k3", clamp=True)


def vppo_scale(dep, mask, b=None):
    return call(trajectory_scale, dep[None], mask[None] > 0, **named(floor=b))[0]


def largest_variance(adv, n):
    """Indices of what is kept."""
    mask = np.ones((1, len(adv), 1), bool)
    kept = call(max_variance_subset, adv[None, :, None], mask, samples=int(n), final_samples=int(n))
    return np.flatnonzero(kept)


def d3s_token_mask(adv, entropy, mask, keep=None):
    options = named(fraction=positive(keep), final_fraction=positive(keep))
    return call(d3s_tokens, adv[None], entropy[None], mask[None] > 0, **options)[0]


def schedule(p, init, final):
    """Number of samples and fraction of tokens, one after the other."""
    pairs = zip(init.tolist(), final.tolist(), strict=True)
    return [call(d3s_schedule, jnp.asarray(float(p)), initial=a, final=b) for a, b in pairs]


def rhythm_gamma(w, f, mode="local", k=None, tau_waad=None, tau_delta=None, q=None, amp=None, alpha=None):
    thresholds = {"distance_threshold": tau_waad, "change_threshold": tau_delta}
    options = named(mode=mode, window=k, fraction=q, amplify=amp, handover=alpha, **thresholds)
    one = np.ones((1, 1, len(w)))
    return call(rhythm, w[None, None], f[None, None], one, one > 0, **options)[0, 0]


def flow(W, question, answer):
    return list(call(flow_throughput, W, question > 0, answer > 0))


def attention_entropy(A):
    return call(normalized_attention_entropy, A)


def rank(H):
    return call(effective_rank, H[None, None], np.ones((1, 1, len(H)), bool))[0, 0]


FUNCTIONS = {
    "dgpo_weights": dgpo_weights,
    "tis_weights": tis_weights,
    "icepop_weights": icepop_weights,
    "mis_mask": mis_mask,
    "stare_weights": stare_weights,
    "stare_controller": stare_controller,
    "hapo_h": hapo_h,
    "hapo_clip_ranges": hapo_clip_ranges,
    "hapo_redistribute": hapo_redistributed,
    "tw_grpo_weights": tw_grpo_weights,
    "vppo_dependency": vppo_dependency,
    "vppo_scale": vppo_scale,
    "max_variance_subset": largest_variance,
    "d3s_token_mask": d3s_token_mask,
    "d3s_schedule": schedule,
    "rhythm_gamma": rhythm_gamma,
    "flow_throughput": flow,
    "attention_entropy": attention_entropy,
    "effective_rank": rank,
}
