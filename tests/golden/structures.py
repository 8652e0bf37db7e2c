"""Golden functions of trees, segments and steps.

Rows of agents are steps: those of one trajectory follow one another in `[P, G, S]`, their tokens in `[P, G, S * T]`.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.advantages import capo, gigpo, grpo, oprl, pure, rank_grpo, spo_chain, spo_whiten, tp_grpo
from jaxrl_tok.losses import value_regression
from jaxrl_tok.reductions import token_mean
from jaxrl_tok.scores import (
    anchor_state_advantages,
    boundary_segments,
    brpo_advantages,
    capo_rewards,
    capo_vote,
    discounted_step_returns,
    groundedprm_value,
    implicit_step_rewards,
    min_form_returns,
    min_form_rewards,
    prefix_tree_values,
    rank_rewards,
    spo_cutpoints,
    tree_edge_advantages,
    tree_rl_rewards,
    tree_values,
    value_differences,
)
from jaxrl_tok.scores import brpo_summary as summary_advantages
from tests.golden.flat import SINGLETON, Groups, call


def ids(x):
    return jnp.asarray(np.asarray(x), jnp.int32)


def flags(x):
    return jnp.asarray(np.asarray(x) > 0)


def vineppo_step_advantages(step_rewards, state_values):
    """Values without that of the final state, which is 0."""
    values = np.zeros(len(step_rewards) + 1)
    values[: len(state_values)] = state_values
    values[len(state_values) : -1] = np.nan
    return call(value_differences, values[None, None], step_rewards[None, None])[0, 0]


def log(prob):
    return jnp.asarray([[[math.log(p) if p > 0 else -math.inf for p in prob]]])


def cutpoints(prob, interval=5, thresh=0.9):
    starts = call(spo_cutpoints, log(prob), flags([[prob >= 0]]), interval=int(interval), threshold=thresh)
    return np.flatnonzero(starts[0, 0]) - 1


def spo_chain_advantages(prob, cutpoints, cut_values, score, thresh=0.9):
    """A cutpoint is the token before a segment, and its value that of the state after it."""
    mask = flags([[prob >= 0]])
    starts = np.zeros(len(prob), bool)
    starts[np.asarray(cutpoints, int) + 1] = True
    values = np.append(np.asarray(cut_values, float), [0.0, 0.0])  # the final state, and one segment at least
    segments = call(boundary_segments, flags([[starts]]), mask)
    rewards = jnp.full((1, 1), float(score))
    return call(spo_chain, rewards, log(prob), segments, values[None, None], mask, threshold=thresh)[0, 0]


def whiten(adv, old_logp, mask, thresh=0.9):
    """Shifts masked tokens too, as the golden function does: with their number as they are, in the mask and certain."""
    adv = np.where(mask > 0, adv, np.nan_to_num(adv))
    mask, uncertain = flags(mask), flags(mask) & (jnp.asarray(old_logp) < math.log(thresh))
    sample = uncertain if bool(uncertain.any()) else mask
    logprobs = jnp.where(sample, math.log(thresh) - 1, 0.0)[None]
    everywhere = jnp.ones_like(mask)[None]
    whitened = call(spo_whiten, adv[None], logprobs, everywhere, threshold=thresh)
    return [whitened[0], uncertain]


class Tree:
    """Nodes in any order to one in which each comes after its parent, and results back."""

    def __init__(self, parent, leaf_reward):
        parent = np.asarray(parent, int)
        depth = [self._depth(parent, node) for node in range(len(parent))]
        self.order = np.argsort(depth, kind="stable")
        self.place = np.argsort(self.order)
        moved = np.where(parent < 0, parent, self.place[parent])
        self.arrays = ids(self.pack(moved)), jnp.asarray(self.pack(leaf_reward))

    @staticmethod
    def _depth(parent, node):
        steps = 0
        while (node := parent[node]) >= 0:
            steps += 1
        return steps

    def pack(self, x):
        return np.asarray(x)[self.order][None]

    def flat(self, x):
        return x[0][self.place]


def spo_tree(parent, leaf_reward, method="rloo"):
    tree = Tree(parent, leaf_reward)
    scale = {"rloo": "none", "grpo": "siblings"}[method]
    advantage = tree.flat(call(tree_edge_advantages, *tree.arrays, scale=scale))
    values = tree.flat(call(tree_values, *tree.arrays).values)
    return {"value": values, "advantage": advantage, "keep": advantage != 0}


def treerl_paper(parent, leaf_reward):
    tree = Tree(parent, leaf_reward)
    found = call(tree_rl_rewards, *tree.arrays)
    leaves = call(tree_values, *tree.arrays, average="leaves").leaves
    parts = {"value": found.values, "leaves": leaves, "reward": found.rewards}
    return {name: tree.flat(x) for name, x in parts.items()}


def treerl_code(parent, leaf_reward, n_tokens, norm="token", weighted=True, use_state_value=True):
    options = {"weighted": bool(weighted), "use_state_value": bool(use_state_value)}
    tree = Tree(parent, leaf_reward)
    lengths = jnp.asarray(tree.pack(n_tokens))
    found = call(tree_rl_rewards, *tree.arrays, lengths, as_released=True, norm=norm, **options)
    return {"state_value": tree.flat(found.values), "step_reward": tree.flat(found.rewards)}


def pure_weights(step_r, valid, T=0.1):
    return call(min_form_rewards, step_r[None], flags(valid)[None], temperature=T)[0]


def pure_advantages(step_r, valid, step_end, step_tokens, resp_len, solved, group, mask, kl, T=0.1):
    """Steps end at `step_end`, so a token is of the step whose end is the next; the numbers of tokens follow."""
    groups = Groups(group)
    time = np.arange(mask.shape[1])
    before = ((step_end[:, :, None] < time) & (valid[:, :, None] > 0)).sum(axis=1)
    segments = np.where((mask > 0) & (before < valid.sum(axis=1, keepdims=True)), before, -1)
    steps = groups.pack(step_r), groups.pack(valid, bool)
    arrays = groups.pack(solved), groups.pack(segments, np.int32), *steps, groups.pack(mask, bool)
    arrays += groups.rewards(solved)[1], groups.pack(kl), groups.pack(np.zeros_like(kl))
    weighted = groups.flat(call(min_form_rewards, *steps, temperature=T))
    return {
        "weighted_step_reward": weighted,
        "outcome": weighted.sum(axis=1),
        "returns": groups.flat(call(min_form_returns, *arrays, temperature=T).returns),
        "advantages": groups.flat(call(pure, *arrays, as_released=True, temperature=T)),
    }


class Steps:
    """Flat rows, each a step of a trajectory, to `[P, G, S]` and back."""

    def __init__(self, group, traj):
        names = [(str(g), str(t)) for g, t in zip(group, traj, strict=True)]
        first = [i for i, name in enumerate(names) if name not in names[:i]]
        self.first = np.array(first)
        self.groups = Groups(np.asarray(group)[first])
        order = {names[i]: k for k, i in enumerate(first)}
        row = np.array([order[name] for name in names])
        self.p, self.g = self.groups.p[row], self.groups.g[row]
        self.s = np.array([names[:i].count(name) for i, name in enumerate(names)])
        self.shape = (*self.groups.shape, self.s.max() + 1)
        self.mask = self.pack(np.ones(len(names)), bool)
        self.valid = jnp.any(self.mask, axis=2)

    def pack(self, rows, dtype=np.float64):
        packed = np.zeros(self.shape + np.shape(rows)[1:], dtype)
        packed[self.p, self.g, self.s] = rows
        return jnp.asarray(packed)

    def flat(self, x):
        return np.asarray(x)[self.p, self.g, self.s]

    def tokens(self, rows, dtype):
        """One step's tokens behind the other's, and which step they are of."""
        packed = self.pack(rows, dtype)
        steps = jnp.broadcast_to(jnp.arange(self.shape[2], dtype=jnp.int32)[:, None], packed.shape)
        return packed.reshape(*packed.shape[:2], -1), steps.reshape(*packed.shape[:2], -1)

    def flat_tokens(self, x):
        return self.flat(np.asarray(x).reshape(*self.shape, -1))

    def trajectories(self, rows):
        return self.groups.pack(np.asarray(rows)[self.first])


def step_returns(step_reward, traj, gamma=0.95):
    steps = Steps(np.zeros(len(traj)), traj)
    return steps.flat(call(discounted_step_returns, steps.pack(step_reward), steps.mask, gamma=gamma))


def gigpo_advantages(
    episode_return, step_return, mask, group, traj, state_key, omega=1.0, use_std=False, singleton="raw"
):
    """Returns are rewards that are not discounted again."""
    steps = Steps(group, traj)
    trained, segments = steps.tokens(mask, bool)
    _, keys = np.unique(state_key, return_inverse=True)
    returns, states = steps.pack(step_return), steps.pack(keys, np.int32)
    rewards, use_std = steps.trajectories(episode_return), bool(use_std)
    options = {"gamma": 0.0, "omega": omega, "use_std": use_std, "singleton": SINGLETON[singleton]}
    arrays = rewards, segments, returns, steps.mask, states, trained, steps.valid
    episode = gigpo_episode(rewards, steps, use_std, SINGLETON[singleton])
    return {
        "episode": episode,
        "step": steps.flat(call(anchor_state_advantages, returns, states, steps.mask, use_std=use_std)),
        "advantages": steps.flat_tokens(call(gigpo, *arrays, **options)),
    }


def gigpo_episode(rewards, steps, use_std, singleton):
    """The episodes' part, on a step without a state in common with another."""
    trained, segments = steps.tokens(np.ones((len(steps.s), 1)), bool)
    zeros = jnp.zeros(steps.shape)
    arrays = rewards, segments, zeros, steps.mask, zeros.astype(jnp.int32), trained, steps.valid
    return steps.flat_tokens(call(gigpo, *arrays, use_std=use_std, singleton=singleton))[:, 0]


def oprl_step_rewards(logp_prm, logp_old, mask, beta=0.05, batch_norm=True):
    steps = Steps(np.zeros(len(mask)), np.arange(len(mask)))
    trained, segments = steps.tokens(mask, bool)
    old, prm = (steps.tokens(x, np.float64)[0] for x in (logp_old, logp_prm))
    arrays = segments, steps.mask, old, prm, trained
    return steps.flat(call(implicit_step_rewards, *arrays, beta=beta, normalize=bool(batch_norm)))


def oprl_rloo(episode_return, step_reward, mask, group, traj, w=1.0, official_first_step_only=True, singleton="raw"):
    steps = Steps(group, traj)
    trained, segments = steps.tokens(mask, bool)
    arrays = steps.trajectories(episode_return), segments, steps.pack(step_reward), steps.mask, trained, steps.valid
    options = {"step_weight": w, "as_released": bool(official_first_step_only), "singleton": SINGLETON[singleton]}
    return steps.flat_tokens(call(oprl, *arrays, **options))


def himac(macro_returns, micro_returns):
    """The two levels are groups of their own, here of one prompt each."""
    relative = [call(grpo, x[None], jnp.ones((1, len(x), 1), bool))[0, :, 0] for x in (macro_returns, micro_returns)]
    return {"macro": relative[0], "best": np.argmax(macro_returns), "micro": relative[1]}


def brpo_thinking(scores, budget_prob, mode="brpo"):
    return call(brpo_advantages, scores[None], budget_prob, baseline=mode, singleton="raw")[0]


def brpo_summary(scores):
    return call(summary_advantages, scores[None])[0]


def rank_rewards_logdecay(hits):
    return call(rank_rewards, hits[None])[0]


def rank_grpo_advantages(item_rewards, seg, mask, eos, group, finished, shaping=True):
    """The end token is the last one of a finished completion."""
    groups = Groups(group)
    ended = (np.asarray(finished) > 0) & (eos.max(axis=1) > 0)
    arrays = groups.pack(seg, np.int32), groups.pack(item_rewards), groups.pack(ended, bool), groups.pack(mask, bool)
    valid = groups.pack(np.ones(len(group)), bool)
    return groups.flat(call(rank_grpo, *arrays, valid, shaping=0.1 if shaping else 0.0))


def vote(step_wrong, mode="intersection"):
    return call(capo_vote, flags(step_wrong)[None, None], vote=mode)[0, 0]


def capo_advantages(correct, token_wrong, mask, group, w_whole=2.0, w_process=1.0, eps=1e-6):
    """Each token is a step of its own."""
    groups = Groups(group)
    rewards, valid = groups.rewards(correct)
    segments = groups.pack(np.broadcast_to(np.arange(mask.shape[1]), mask.shape), np.int32)
    arrays = rewards, segments, groups.pack(token_wrong, bool)[:, :, None], groups.pack(mask, bool), valid
    options = {"outcome_weight": w_whole, "process_weight": w_process}
    return {
        "token_reward": groups.flat(call(capo_rewards, *arrays, **options)),
        "advantages": groups.flat(call(capo, *arrays, eps=eps, **options)),
    }


def tp_grpo_advantages(correct, thought_of_token, thought_bad, mask, group, alpha=1.0, eps=1e-6):
    groups = Groups(group)
    rewards, valid = groups.rewards(correct)
    segments, wrong = groups.pack(thought_of_token, np.int32), groups.pack(thought_bad, bool)[:, :, None]
    return groups.flat(call(tp_grpo, rewards, segments, wrong, groups.pack(mask, bool), valid, alpha=alpha, eps=eps))


def grounded_value(sim_step_scores, final_score, depth=0, decay=0.9):
    steps = jnp.asarray(np.append(np.asarray(sim_step_scores, float), 0.0))[None, None]  # at least one place
    exists = jnp.arange(steps.shape[2])[None, None] < len(sim_step_scores)
    options = {"depth": int(depth), "decay": decay}
    return call(groundedprm_value, jnp.full((1, 1), float(final_score)), steps, exists, **options)[0, 0]


def tvm_loss(pred, tokens, mask, reward, group, kind="mse"):
    groups = Groups(group)
    rewards, valid = groups.rewards(reward)
    labels = call(prefix_tree_values, groups.pack(tokens, np.int32), rewards, groups.pack(mask, bool), valid).after
    loss = functools.partial(value_regression, kind=kind)
    return token_mean(jax.jit(loss)(jnp.asarray(pred), groups.flat(labels), flags(mask)), flags(mask)).value()


FUNCTIONS = {
    "vineppo_step_advantages": vineppo_step_advantages,
    "spo_cutpoints": cutpoints,
    "spo_chain_advantages": spo_chain_advantages,
    "spo_whiten": whiten,
    "spo_tree": spo_tree,
    "treerl_paper": treerl_paper,
    "treerl_code": treerl_code,
    "pure_weights": pure_weights,
    "pure_advantages": pure_advantages,
    "discounted_step_returns": step_returns,
    "gigpo": gigpo_advantages,
    "oprl_step_rewards": oprl_step_rewards,
    "oprl_rloo": oprl_rloo,
    "himac": himac,
    "brpo_thinking": brpo_thinking,
    "brpo_summary": brpo_summary,
    "rank_rewards_logdecay": rank_rewards_logdecay,
    "rank_grpo_advantages": rank_grpo_advantages,
    "capo_vote": vote,
    "capo": capo_advantages,
    "tp_grpo": tp_grpo_advantages,
    "groundedprm_value": grounded_value,
    "tvm_loss": tvm_loss,
}
