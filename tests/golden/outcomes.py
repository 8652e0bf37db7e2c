"""Golden functions of outcomes, of returns and of a critic: flat rows are the completions of one prompt, or grouped.

The references leave numbers on masked tokens, which the package does not: what a recursion carries over them, and
what whitening makes of that. Those places are filled here; all others are the package's.
"""

import jax.numpy as jnp
import numpy as np

from jaxrl_tok import advantages, losses, scores
from tests.golden.flat import SINGLETON, Groups, call


def rows(x, dtype=np.float64):
    """`[B, ...]` as the completions of one prompt."""
    return jnp.asarray(np.asarray(x, dtype))[None]


def flat(x):
    return np.array(x[0])


def ahead(x):
    """The next token's number, 0 behind the last."""
    return np.concatenate([x[:, 1:], np.zeros_like(x[:, :1])], axis=1)


def filled(x, mask, carried):
    """Puts what a recursion carries over them on the masked tokens, from the last one on."""
    for t in reversed(range(mask.shape[1])):
        x[:, t] = np.where(mask[:, t] > 0, x[:, t], carried(x, t))
    return x


def following(x, t):
    return x[:, t + 1] if t + 1 < x.shape[1] else np.zeros(len(x))


def whitened_everywhere(result, raw, mask):
    """verl shifts and scales the masked tokens too."""
    counted = raw[mask > 0]
    n = len(counted)
    mean = counted.sum() / (n + 1e-8)
    shifted = (raw - mean) / np.sqrt(((counted - mean) ** 2).sum() / (n + 1e-8) * n / (n - 1) + 1e-8)
    return np.where(mask > 0, result, shifted)


def gae(rewards, values, mask, gamma=1.0, lam=1.0):
    arrays = rows(rewards), rows(values), rows(mask, bool)
    options = {"gamma": gamma, "lam": lam}
    raw, returns = map(flat, call(scores.generalized_advantages, *arrays, **options))
    raw = filled(raw, mask, following)
    return {
        "advantages_raw": raw,
        "returns": np.where(mask > 0, returns, raw + values),
        "advantages": whitened_everywhere(flat(call(advantages.gae, *arrays, **options)), raw, mask),
    }


def gae_zero_padded(rewards, values, mask, gamma=1.0, lam=1.0):
    arrays = rows(rewards), rows(values), rows(mask, bool)
    options = {"gamma": gamma, "lam": lam, "holes": "zero"}
    raw, returns = map(flat, call(scores.generalized_advantages, *arrays, **options))
    bootstrap = gamma * ahead(np.where(mask > 0, values, 0))
    raw = filled(raw, mask, lambda x, t: bootstrap[:, t] + gamma * lam * following(x, t))
    return {"advantages_raw": raw, "returns": np.where(mask > 0, returns, raw)}


def reward_to_go(rewards, mask, gamma=1.0):
    result = flat(call(scores.reward_to_go, rows(rewards), rows(mask, bool), gamma=gamma))
    return filled(result, mask, lambda x, t: gamma * following(x, t))


def reinforce_pp(rewards, mask, gamma=1.0):
    token_rewards, trained = rows(rewards), rows(mask, bool)
    returns = flat(call(scores.reward_to_go, token_rewards, trained, gamma=gamma, holes="reset"))
    result = call(
        lambda r, m: advantages.reinforce_pp(r[..., 0], m, None, r, gamma=float(gamma), as_released=True),
        token_rewards,
        trained,
    )
    carried = rewards + gamma * ahead(returns)  # returns are 0 on masked tokens, as reset there
    return {"advantages": flat(result), "returns": np.where(mask > 0, returns, carried)}


def remax(rewards, mask, greedy_reward):
    """Every row is a prompt, since each has a greedy reward of its own."""
    token_rewards, trained = jnp.asarray(rewards)[:, None], jnp.asarray(mask, bool)[:, None]
    result = call(
        lambda r, greedy, m: advantages.remax(r[..., 0], greedy, m, None, r),
        token_rewards,
        jnp.asarray(greedy_reward),
        trained,
    )
    returns = filled(np.array(call(scores.reward_to_go, token_rewards, trained)[:, 0]), mask, following)
    return {"advantages": np.asarray(result)[:, 0], "returns": returns}


def grouped(method, **fixed):
    """Adapts an advantage of the rewards of a group."""

    def adapted(reward, group, mask=None, **options):
        groups = Groups(group)
        rewards, valid = groups.rewards(reward)
        tokens = np.ones((len(reward), 1)) if mask is None else mask
        if "singleton" in options:
            options["singleton"] = SINGLETON[options["singleton"]]
        result = groups.flat(call(method, rewards, groups.pack(tokens, bool), valid, **(fixed | options)))
        return result[:, 0] if mask is None else result

    return adapted


def bnpo(reward, group):
    groups = Groups(group)
    arrays = groups.rewards(reward)
    parameters = call(scores.success_rate_beta, *arrays)
    return {"advantage": grouped(advantages.bnpo)(reward, group), **parameters._asdict()}


def multi_reward(**fixed):
    def adapted(rewards_k, group, weights=None, mask=None, eps=1e-4):
        groups = Groups(group)
        valid = groups.pack(~np.isnan(rewards_k).any(axis=1), bool)
        tokens = np.ones((len(rewards_k), 1)) if mask is None else mask
        options = {"weights": None if weights is None else tuple(map(float, weights)), "eps": eps}
        arrays = groups.pack(np.nan_to_num(rewards_k)), groups.pack(tokens, bool), valid
        result = groups.flat(call(advantages.gdpo, *arrays, **options, **fixed))
        return result[:, 0] if mask is None else result

    return adapted


def ada_grpo(reward, fmt, mask, group, step, total, singleton="raw", eps=1e-6):
    groups = Groups(group)
    rewards, valid = groups.rewards(reward)
    fmt = np.unique(fmt, return_inverse=True)[1]
    arrays = rewards, groups.pack(fmt, np.int32), jnp.asarray(np.float64(step / total)), groups.pack(mask, bool), valid
    return groups.flat(call(advantages.ada_grpo, *arrays, singleton=SINGLETON[singleton], eps=eps))


def dapo_overlong_penalty(length, max_len=20480, cache_len=4096, factor=1.0):
    options = {"max_length": max_len, "cache_length": cache_len, "factor": factor}
    return flat(call(scores.overlong_penalty, rows(length, np.int32), **options))


def kimi_length_reward(length, correct):
    return flat(call(scores.kimi_length_reward, rows(correct), rows(length, np.int32)))


def rto_token_rewards(logp, logp_ref, logp_dpo, rm, mask, beta1=0.05, c=0.05, beta2=0.01):
    options = {"dpo_coef": beta1, "dpo_clip": c, "kl_coef": beta2}
    arrays = rows(rm), rows(logp), rows(logp_ref), rows(logp_dpo), rows(mask, bool)
    return flat(call(scores.rto_token_rewards, *arrays, **options))


def value_loss_tokens(v, old_v, ret, c=0.2):
    return call(
        losses.value_clip, jnp.asarray(v), jnp.asarray(old_v), jnp.asarray(ret), jnp.ones(v.shape, bool), clip=c
    )


def gpg_token_loss(logp, adv):
    ones = jnp.ones(adv.shape, bool)
    return call(losses.gpg, jnp.asarray(logp), jnp.asarray(adv), jnp.ones_like(jnp.asarray(adv)), ones)


def psr_nsr_advantage(reward01, mask, mode, lam=0.1):
    return flat(call(advantages.psr_nsr, rows(reward01), rows(mask, bool), mode=mode, positive_weight=lam))


def relative_negative_advantage(adv):
    return flat(call(advantages.relative_negative, rows(adv), rows(np.ones(adv.shape), bool)))


def hicra_advantage(adv, planning, alpha=0.2):
    return flat(call(advantages.hicra, rows(adv), rows(planning, bool), rows(np.ones(adv.shape), bool), alpha=alpha))


def positions(starts):
    """Where the macro actions of one completion start, twice where two do."""
    starts = np.asarray(starts[0, 0], int)
    return np.repeat(np.arange(len(starts)), starts)


def ma_boundaries_ngram(T, n, as_released=False):
    return positions(call(scores.ngram_boundaries, jnp.ones((1, 1, T), bool), n=n, as_released=as_released))


def ma_boundaries_ngram_official(T, n):
    return ma_boundaries_ngram(T, n, as_released=True)


def ma_boundaries_ppl(ppl):
    return positions(call(scores.perplexity_boundaries, rows([-np.log(ppl)]), jnp.ones((1, 1, len(ppl)), bool)))


def ma_gae(rewards, values, bounds, value_fn="equal", reward_fn=None, gamma=1.0, lam=0.95):
    """A boundary that is listed twice starts an empty macro action, and then a full one."""
    bounds = np.asarray(bounds, int)
    if reward_fn not in (None, "sum", value_fn):
        # Pooled by themselves, they are put on the first token of each macro action, where a sum finds them.
        pooled = ma_gae(rewards, values, bounds, reward_fn, None, gamma, lam)["macro_rewards"]
        rewards, reward_fn = np.zeros(len(rewards)), "sum"
        np.add.at(rewards, bounds, pooled)
    counts = np.bincount(bounds, minlength=len(rewards))
    arrays = (rows(x[None]) for x in (rewards, values))
    result = call(
        scores.macro_advantages,
        *arrays,
        rows(counts[None], np.int32),
        jnp.ones((1, 1, len(rewards)), bool),
        gamma=gamma,
        lam=lam,
        pooling=value_fn,
        as_released=reward_fn != "sum",
    )
    first = {"token_advantages": result.advantages, "token_returns": result.returns}
    macros = {name: getattr(result, name)[..., : len(bounds)] for name in result._fields if name.startswith("macro_")}
    del macros["macro_ids"]
    return {name: np.asarray(x[0, 0]) for name, x in (first | macros).items()}


def dars_extra_samples(acc, N):
    """Groups of N completions, so many of them right; up to 32 completions, and 64 with the weights of hardness."""
    rewards = (np.arange(int(N))[None] < np.round(acc * N)[:, None]).astype(np.float64)
    more = {
        "ET": {"most": 32},
        "HW": {"most": 64, "schedule": "hardness_weighted"},
        "ET_std": {"most": 32, "std": True},
    }
    for options in more.values():
        options["most"] -= int(N)
    return {name: call(scores.dars_extra_samples, rewards, **options) for name, options in more.items()}


FUNCTIONS = {
    "dars_extra_samples": dars_extra_samples,
    "gae": gae,
    "gae_zero_padded": gae_zero_padded,
    "reward_to_go": reward_to_go,
    "reinforce_pp": reinforce_pp,
    "reinforce_pp_baseline": grouped(advantages.reinforce_pp_baseline, singleton="raw"),
    "remax": remax,
    "opo": grouped(advantages.opo, singleton="raw"),
    "gpg": grouped(advantages.gpg, alpha="verl", singleton="raw"),
    "gpg_token_loss": gpg_token_loss,
    "gdpo": multi_reward(),
    "sum_then_normalise": multi_reward(aggregation="sum_then_normalise"),
    "ada_grpo": ada_grpo,
    "grpo_passk": grouped(advantages.pass_at_k),
    "bnpo": bnpo,
    "dapo_overlong_penalty": dapo_overlong_penalty,
    "kimi_length_reward": kimi_length_reward,
    "rto_token_rewards": rto_token_rewards,
    "value_loss_tokens": value_loss_tokens,
    "psr_nsr_advantage": psr_nsr_advantage,
    "relative_negative_advantage": relative_negative_advantage,
    "hicra_advantage": hicra_advantage,
    "ma_boundaries_ngram": ma_boundaries_ngram,
    "ma_boundaries_ngram_official": ma_boundaries_ngram_official,
    "ma_boundaries_ppl": ma_boundaries_ppl,
    "ma_gae": ma_gae,
}
