"""Losses: what is minimised, one number a token, before it is averaged."""

from collections.abc import Callable

from jaxtyping import Array, Float

from jaxrl_tok.losses.adaptive_entropy_bonus import adaptive_entropy_bonus as adaptive_entropy_bonus
from jaxrl_tok.losses.archer_kl import archer_kl as archer_kl
from jaxrl_tok.losses.cispo import cispo as cispo
from jaxrl_tok.losses.clip_cov import clip_cov as clip_cov
from jaxrl_tok.losses.entropy_bonus import entropy_bonus as entropy_bonus
from jaxrl_tok.losses.functional_anchor import functional_anchor as functional_anchor
from jaxrl_tok.losses.gmpo import gmpo as gmpo
from jaxrl_tok.losses.gpg import gpg as gpg
from jaxrl_tok.losses.kl import kl as kl
from jaxrl_tok.losses.kl_cov import kl_cov as kl_cov
from jaxrl_tok.losses.laser_mse import laser_mse as laser_mse
from jaxrl_tok.losses.load_balance import load_balance as load_balance
from jaxrl_tok.losses.lp_reg import lp_reg as lp_reg
from jaxrl_tok.losses.ppo_clip import ppo_clip as ppo_clip
from jaxrl_tok.losses.return_decomposition import return_decomposition as return_decomposition
from jaxrl_tok.losses.sapo import sapo as sapo
from jaxrl_tok.losses.sft import sft as sft
from jaxrl_tok.losses.value_clip import value_clip as value_clip
from jaxrl_tok.losses.value_regression import value_regression as value_regression

LOSSES: dict[str, Callable[..., Float[Array, "B *T"]]] = {
    f.__name__: f
    for f in (
        ppo_clip,
        kl,
        sft,
        gpg,
        value_clip,
        adaptive_entropy_bonus,
        archer_kl,
        cispo,
        clip_cov,
        entropy_bonus,
        functional_anchor,
        gmpo,
        kl_cov,
        laser_mse,
        load_balance,
        lp_reg,
        return_decomposition,
        sapo,
        value_regression,
    )
}
