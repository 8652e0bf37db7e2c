"""Golden functions of ratios, clips, losses and of advantages reshaped or with state."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.advantages import (
    dcpo_smooth,
    entropy_shaping,
    grpo,
    hapo_group_average,
    laser,
    nthr,
    spear_replay,
    thr,
    ucas,
)
from jaxrl_tok.advantages.dcpo_smooth import PromptStatistics
from jaxrl_tok.advantages.spear_replay import RecentMeans
from jaxrl_tok.clips import archer, asymmetric, dcpo
from jaxrl_tok.losses import (
    archer_kl,
    cispo,
    clip_cov,
    gmpo,
    kl_cov,
    laser_mse,
    lp_reg,
    ppo_clip,
    return_decomposition,
    sapo,
)
from jaxrl_tok.losses.archer_kl import counted
from jaxrl_tok.losses.clip_cov import prepare as prepare_clip_cov
from jaxrl_tok.losses.kl_cov import prepare as prepare_kl_cov
from jaxrl_tok.losses.laser_mse import prepare as prepare_laser
from jaxrl_tok.losses.lp_reg import prepare as prepare_lp_reg
from jaxrl_tok.ratios import segment, sequence, token
from jaxrl_tok.reductions import row_mean, sequence_mean_token_mean, token_mean
from jaxrl_tok.scores import low_entropy, thr_scores
from tests.golden.flat import Groups, call


def bool_of(mask):
    return jnp.asarray(np.asarray(mask) > 0)


def with_grad(loss, logp):
    """Value, and gradient with respect to the log-probs."""
    return list(call(jax.value_and_grad(loss), jnp.asarray(logp)))


def step(logp, old, adv, mask, lo, hi, ratio=token):
    """Log-ratio, bounds, advantages, weights: what most losses read before the mask."""
    low, high = asymmetric(mask, low=float(1 - lo), high=float(1 + hi))
    dtype = logp.dtype
    return (
        ratio(logp, jnp.asarray(old), mask),
        low.astype(dtype),
        high.astype(dtype),
        jnp.asarray(adv),
        jnp.ones_like(logp),
    )


def gspo_loss(logp, old, adv, mask, lo, hi):
    return ppo_clip(*step(logp, old, adv, mask, lo, hi, sequence), mask)


def gspo_token_loss(logp, old, adv, mask, lo=3e-4, hi=4e-4):
    """The reference gives masked tokens a loss too, which nothing reads."""
    mask, everywhere = bool_of(mask), jnp.ones(logp.shape, bool)

    def losses(logp):
        log_ratio, *rest = step(logp, old, adv, mask, lo, hi, sequence)
        of_row = jnp.max(jnp.where(mask, log_ratio, -jnp.inf), axis=1, keepdims=True, initial=-jnp.inf)
        of_row = jnp.where(jnp.isfinite(of_row), of_row, 0)
        return ppo_clip(jnp.broadcast_to(of_row, logp.shape), *rest, everywhere)

    return call(losses, logp)


def gspo_grad_logp(logp, old, adv, mask, lo=3e-4, hi=4e-4):
    return gspo(logp, old, adv, mask, lo, hi, functools.partial(sequence_mean_token_mean, eps=1e-8))[1]


def gspo(logp, old, adv, mask, lo=3e-4, hi=4e-4, reduction=sequence_mean_token_mean):
    mask = bool_of(mask)
    return with_grad(lambda x: reduction(gspo_loss(x, old, adv, mask, lo, hi), mask).value(), logp)


def cispo_losses(logp, old, adv, mask, lo, hi, cap):
    return cispo(logp, *step(logp, old, adv, mask, lo, hi), mask, cap=cap)


def cispo_token_loss(logp, old, adv, lo=0.2, hi=0.28, style="verl"):
    everywhere = jnp.ones(logp.shape, bool)
    bounds = (lo, hi, "both") if style == "verl" else (1.0, hi - 1, "upper")
    return call(lambda x: cispo_losses(x, old, adv, everywhere, *bounds), logp)


def cispo_(logp, old, adv, mask, lo=1.0, hi=0.28):
    mask = bool_of(mask)
    return with_grad(lambda x: token_mean(cispo_losses(x, old, adv, mask, lo, hi, "both"), mask).value(), logp)


def gmpo_(logp, old, adv, mask, lo=0.4, hi=0.4):
    mask = bool_of(mask)

    def loss(x):
        log_ratio, _, _, *rest = step(x, old, adv, mask, 0, 0)
        bounds = (jnp.full_like(x, jnp.exp(y)) for y in (-lo, hi))
        return sequence_mean_token_mean(gmpo(log_ratio, *bounds, *rest, mask, eps=1e-8), mask, rows="all").value()

    return with_grad(loss, logp)


def gmpo_loss(logp, old, adv, mask, lo=0.4, hi=0.4):
    return gmpo_(logp, old, adv, mask, lo, hi)[0]


def sapo_losses(logp, old, adv, mask, tau_pos, tau_neg):
    log_ratio, _, _, *rest = step(logp, old, adv, mask, 0, 0)
    return sapo(log_ratio, *rest, mask, tau_positive=tau_pos, tau_negative=tau_neg)


def sapo_token_loss(logp, old, adv, tau_pos=1.0, tau_neg=1.05):
    everywhere = jnp.ones(logp.shape, bool)
    return call(lambda x: sapo_losses(x, old, adv, everywhere, tau_pos, tau_neg), logp)


def sapo_(logp, old, adv, mask, tau_pos=1.0, tau_neg=1.05):
    mask = bool_of(mask)
    losses = functools.partial(sapo_losses, old=old, adv=adv, mask=mask, tau_pos=tau_pos, tau_neg=tau_neg)
    return with_grad(lambda x: sequence_mean_token_mean(losses(x), mask).value(), logp)


def clip_cov_(logp, old, adv, mask, priority, ratio=2e-4, lb=1.0, ub=5.0, lo=1.0, hi=1.0):
    """Loss, gradient, the candidates and those that are dropped; all candidates are when there is room."""
    mask, adv = bool_of(mask), jnp.asarray(adv)
    fields = step(jnp.asarray(logp), old, adv, mask, lo, hi)
    draw = functools.partial(call, prepare_clip_cov, logp, *fields[:4], priority, mask, cov_low=lb, cov_high=ub)
    dropped = draw(fraction=ratio)

    def loss(x):
        return token_mean(clip_cov(*step(x, old, adv, mask, lo, hi), dropped, mask), mask).value()

    return [*with_grad(loss, logp), draw(fraction=1.0), dropped]


def kl_cov_(logp, old, adv, mask, ratio=2e-4, coef=1.0):
    mask = bool_of(mask)
    chosen = call(prepare_kl_cov, logp, adv, mask, fraction=ratio)

    def loss(x):
        log_ratio, _, _, *rest = step(x, old, adv, mask, 0, 0)
        return token_mean(kl_cov(log_ratio, *rest, chosen, mask, coefficient=coef), mask).value()

    return [*with_grad(loss, logp), chosen]


def lp_reg_(logp, old, adv, mask, proxy, frac=0.01, lo=1.0, hi=9.0, coef=1.0):
    mask, proxy = bool_of(mask), jnp.asarray(proxy)
    chosen = call(prepare_lp_reg, logp, adv, mask, fraction=frac)

    def loss(x):
        log_ratio, low, high, *rest = step(x, old, adv, mask, lo, hi)
        losses = lp_reg(x, log_ratio, low, high, proxy, *rest, chosen, mask, coefficient=coef)
        return token_mean(losses, mask).value()

    return [*with_grad(loss, logp), chosen & (logp < proxy)]


def archer_(logp, old, adv, mask, entropy, ref, q=0.8, low_kl=1e-3):
    mask, entropy, ref, adv = bool_of(mask), jnp.asarray(entropy), jnp.asarray(ref), jnp.asarray(adv)

    def loss(x):
        low, high = (bound.astype(x.dtype) for bound in archer(entropy, mask, quantile=q))
        log_ratio = token(x, jnp.asarray(old), mask)
        policy = token_mean(ppo_clip(log_ratio, low, high, adv, jnp.ones_like(x), mask, dual_clip=10.0), mask)
        drawn = token_mean(archer_kl(x, ref, entropy, mask, quantile=q), counted(entropy, mask, quantile=q))
        return policy.value() + low_kl * drawn.value()

    return [*with_grad(loss, logp), low_entropy(entropy, mask, quantile=q)]


def rank_grpo_ratio(logp, old, seg, mask, N):
    inside = bool_of(mask) & bool_of(seg + 1)
    ids = jnp.asarray(seg, jnp.int32)
    log_ratio = call(segment, logp, old, ids, inside, items=int(N), gradient="mean")
    return jnp.where(inside, jnp.exp(log_ratio), 0)


def dcpo_bounds(old_logp, lo=0.2, hi=0.28, cap=10.0):
    rows = old_logp.reshape(1, -1)
    bounds = call(dcpo, rows, np.ones(rows.shape, bool), epsilon_low=lo, epsilon_high=hi, cap=max(cap, 10.0))
    return [bound.reshape(old_logp.shape) for bound in bounds]


def dcpo_running(old_mean, old_std, n, new_mean, new_std):
    """Two rewards with the given mean and unbiased std are the visit."""
    away = new_std / 2**0.5
    state = PromptStatistics(*(jnp.asarray([float(x)]) for x in (old_mean, old_std, n)))
    rewards = jnp.asarray([[new_mean - away, new_mean + away]])
    _, state = call(dcpo_smooth, state, rewards, jnp.zeros(1, jnp.int32), jnp.ones((1, 2, 1), bool))
    return [state.mean[0], state.std[0]]


def dcpo_smooth_advantage(reward, group, old_mean, old_std, n):
    groups = Groups(group)
    rewards, valid = groups.rewards(reward)
    state = PromptStatistics(*(groups.pack(x)[:, 0] for x in (old_mean, old_std, n)))
    ids = jnp.arange(rewards.shape[0], dtype=jnp.int32)
    return groups.flat(call(dcpo_smooth, state, rewards, ids, valid[:, :, None], valid)[0])[:, 0]


def laser_loss(score, verified, finished, balanced=True):
    finished, verified = bool_of(finished), jnp.asarray(verified)
    weights = call(prepare_laser, verified, finished, balanced=bool(balanced))
    losses = call(laser_mse, score, verified, finished, weights, beta=1.0, reference=0.0)
    return row_mean(losses, jnp.ones_like(finished)).value()


def laser_advantages(adv, score, finished, group):
    groups = Groups(group)
    valid = groups.pack(np.ones(len(adv)), bool)
    fields = groups.pack(adv[:, None]), groups.pack(score), groups.pack(finished, bool), valid[:, :, None], valid
    return groups.flat(call(laser, *fields, beta=1.0, reference=0.0, singleton="raw"))[:, 0]


def lare_rd_loss(proxy, episode_return, length):
    mask = jnp.asarray(np.arange(proxy.shape[1]) < np.asarray(length)[:, None])
    losses = call(return_decomposition, proxy, episode_return, mask)
    return row_mean(losses, jnp.ones(losses.shape, bool)).value()


class Flat:
    """Tokens in one line, each with its response, to one group's `[1, G, T]` and back."""

    def __init__(self, resp, count):
        """`count` responses, some of which may have no token."""
        self.row = np.asarray(resp, int)
        self.time = np.array([np.sum(self.row[:i] == row) for i, row in enumerate(self.row)], int)
        self.shape = count, self.time.max() + 1
        self.mask = self.pack(np.ones(len(resp))) > 0

    def pack(self, x):
        packed = np.zeros(self.shape + x.shape[1:])
        packed[self.row, self.time] = x
        return jnp.asarray(packed)[None]

    def flat(self, x):
        return np.asarray(x)[0, self.row, self.time]


def thr_scores_(err, hid, resp, correct):
    flat = Flat(resp, len(correct))
    score = flat.flat(call(thr_scores, flat.pack(hid), flat.pack(err), correct[None], flat.mask))
    return {"s": score, "thr": np.where(correct[flat.row] > 0, score, -score)}


def nthr_advantages(resp_adv, err, hid, resp, correct, beta=1.0):
    flat = Flat(resp, len(correct))
    adv = jnp.where(flat.mask, jnp.asarray(resp_adv)[None, :, None], 0)
    return flat.flat(call(nthr, adv, correct[None], flat.pack(hid), flat.pack(err), flat.mask, beta=beta))


def thr_reweight(resp_adv, thr, resp, p, tau=0.0):
    """Hidden states are numbers, errors 1: then M is the sum over correct tokens, which one more of them makes 1."""
    flat = Flat(resp, len(resp_adv))
    correct = np.append(np.asarray(resp_adv) > 0, [True, False])
    of_tokens = correct[:-2][flat.row]
    score = np.where(of_tokens, thr, -thr)
    mask = jnp.pad(flat.mask, ((0, 0), (0, 2), (0, 0)), constant_values=True)
    hidden = jnp.pad(flat.pack(score), ((0, 0), (0, 2), (0, 0))).at[0, -2, 0].set(1 - np.sum(score[of_tokens]))
    adv = jnp.where(mask, jnp.asarray(np.append(resp_adv, [0.0, 0.0]))[None, :, None], 0)
    rewards = jnp.asarray(correct.astype(resp_adv.dtype))[None]
    return flat.flat(call(THR, adv, rewards, hidden[..., None], jnp.ones((*mask.shape, 1)), mask, p=p, tau=tau))


THR = thr  # `thr` is also the name of one of the reference's inputs


def entropy_advantage_shaping(adv, entropy, alpha=0.4, kappa=2.0):
    everywhere = jnp.ones((1, *adv.shape), bool)
    return call(entropy_shaping, adv[None], entropy[None], everywhere, alpha=alpha, kappa=kappa)[0]


def ucas_advantage(reward, certainty_sum, token_logit, mask, group, b_pos=0.25, b_neg=0.35, pen=0.05):
    groups = Groups(group)
    rewards, valid = groups.rewards(reward)
    tokens = groups.pack(mask, bool)
    advantages = call(grpo, rewards, tokens, valid, singleton="raw")
    trained = jnp.sum(tokens, axis=2, dtype=rewards.dtype, keepdims=True)
    lse = jnp.where(tokens, groups.pack(certainty_sum)[:, :, None] / jnp.maximum(trained, 1), 0)
    logits = groups.pack(token_logit)
    fields = advantages, logits, jnp.zeros_like(logits), lse, tokens, valid
    options = {"positive": b_pos, "negative": b_neg, "penalty": pen}
    return groups.flat(call(ucas, *fields, vocab_size=1, singleton="raw", **options))


def hapo_token_group_average(reward, mask, group, include_pad=True, limit=5.0):
    groups = Groups(group)
    rewards, valid = groups.rewards(reward)
    options = {"as_released": bool(include_pad), "limit": limit, "singleton": "raw"}
    return groups.flat(call(hapo_group_average, rewards, groups.pack(mask, bool), valid, **options))


def spear_replay_advantage(reward, history_group_means):
    """The advantage of every trajectory, and which of them are kept."""
    state = RecentMeans(jnp.asarray(history_group_means), jnp.int32(0))
    mask = jnp.ones((1, len(reward), 1), bool)
    signed, kept = (
        call(spear_replay, state, reward[None], mask, record=False, positive_only=only)[0][0, :, 0]
        for only in (False, True)
    )
    return [signed, kept > 0]


FUNCTIONS = {
    "gspo_token_loss": gspo_token_loss,
    "gspo_grad_logp": gspo_grad_logp,
    "gspo": gspo,
    "cispo_token_loss": cispo_token_loss,
    "cispo": cispo_,
    "gmpo_loss": gmpo_loss,
    "gmpo": gmpo_,
    "sapo_token_loss": sapo_token_loss,
    "sapo": sapo_,
    "clip_cov": clip_cov_,
    "kl_cov": kl_cov_,
    "lp_reg": lp_reg_,
    "archer": archer_,
    "rank_grpo_ratio": rank_grpo_ratio,
    "dcpo_bounds": dcpo_bounds,
    "dcpo_running": dcpo_running,
    "dcpo_smooth_advantage": dcpo_smooth_advantage,
    "laser_loss": laser_loss,
    "laser_advantages": laser_advantages,
    "lare_rd_loss": lare_rd_loss,
    "thr_scores": thr_scores_,
    "nthr_advantages": nthr_advantages,
    "thr_reweight": thr_reweight,
    "entropy_advantage_shaping": entropy_advantage_shaping,
    "ucas_advantage": ucas_advantage,
    "hapo_token_group_average": hapo_token_group_average,
    "spear_replay_advantage": spear_replay_advantage,
}
