"""Advantages: the rewards of a group's completions -> the credit of each token."""

from collections.abc import Callable
from typing import Any

from jaxrl_tok.advantages.ada_grpo import ada_grpo as ada_grpo
from jaxrl_tok.advantages.bnpo import bnpo as bnpo
from jaxrl_tok.advantages.brpo_thinking import brpo_thinking as brpo_thinking
from jaxrl_tok.advantages.capo import capo as capo
from jaxrl_tok.advantages.dcpo_smooth import dcpo_smooth as dcpo_smooth
from jaxrl_tok.advantages.dr_grpo import dr_grpo as dr_grpo
from jaxrl_tok.advantages.entropy_shaping import entropy_shaping as entropy_shaping
from jaxrl_tok.advantages.gae import gae as gae
from jaxrl_tok.advantages.gdpo import gdpo as gdpo
from jaxrl_tok.advantages.gigpo import gigpo as gigpo
from jaxrl_tok.advantages.gpg import gpg as gpg
from jaxrl_tok.advantages.grpo import grpo as grpo
from jaxrl_tok.advantages.hapo_group_average import hapo_group_average as hapo_group_average
from jaxrl_tok.advantages.hicra import hicra as hicra
from jaxrl_tok.advantages.himac import himac as himac
from jaxrl_tok.advantages.laser import laser as laser
from jaxrl_tok.advantages.ma_gae import ma_gae as ma_gae
from jaxrl_tok.advantages.max_rl import max_rl as max_rl
from jaxrl_tok.advantages.nthr import nthr as nthr
from jaxrl_tok.advantages.opo import opo as opo
from jaxrl_tok.advantages.oprl import oprl as oprl
from jaxrl_tok.advantages.pass_at_k import pass_at_k as pass_at_k
from jaxrl_tok.advantages.psr_nsr import psr_nsr as psr_nsr
from jaxrl_tok.advantages.pure import pure as pure
from jaxrl_tok.advantages.rank_grpo import rank_grpo as rank_grpo
from jaxrl_tok.advantages.reinforce import reinforce as reinforce
from jaxrl_tok.advantages.reinforce_pp import reinforce_pp as reinforce_pp
from jaxrl_tok.advantages.reinforce_pp_baseline import reinforce_pp_baseline as reinforce_pp_baseline
from jaxrl_tok.advantages.relative_negative import relative_negative as relative_negative
from jaxrl_tok.advantages.remax import remax as remax
from jaxrl_tok.advantages.rloo import rloo as rloo
from jaxrl_tok.advantages.rto import rto as rto
from jaxrl_tok.advantages.spear_replay import spear_replay as spear_replay
from jaxrl_tok.advantages.spo_chain import spo_chain as spo_chain
from jaxrl_tok.advantages.spo_tree import spo_tree as spo_tree
from jaxrl_tok.advantages.spo_whiten import spo_whiten as spo_whiten
from jaxrl_tok.advantages.tempo import tempo as tempo
from jaxrl_tok.advantages.thr import thr as thr
from jaxrl_tok.advantages.tp_grpo import tp_grpo as tp_grpo
from jaxrl_tok.advantages.tree_rl import tree_rl as tree_rl
from jaxrl_tok.advantages.ucas import ucas as ucas
from jaxrl_tok.advantages.vine_ppo import vine_ppo as vine_ppo

# f[P,G,T]; of a stateful method that and its new state.
ADVANTAGES: dict[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (
        grpo,
        dr_grpo,
        rloo,
        tempo,
        ada_grpo,
        bnpo,
        gae,
        gdpo,
        gpg,
        hicra,
        ma_gae,
        max_rl,
        opo,
        pass_at_k,
        psr_nsr,
        reinforce,
        reinforce_pp,
        reinforce_pp_baseline,
        relative_negative,
        remax,
        rto,
        dcpo_smooth,
        entropy_shaping,
        hapo_group_average,
        laser,
        nthr,
        spear_replay,
        thr,
        ucas,
        vine_ppo,
        spo_chain,
        spo_tree,
        spo_whiten,
        tree_rl,
        gigpo,
        himac,
        pure,
        oprl,
        tp_grpo,
        capo,
        brpo_thinking,
        rank_grpo,
    )
}
