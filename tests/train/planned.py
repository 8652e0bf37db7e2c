"""A run to plan with, on four CPU devices, and programs of it that were not compiled."""

from pathlib import Path

import jax

from jaxrl_tok.config.load import load_run
from jaxrl_tok.train import plan
from jaxrl_tok.train.build import Build, build
from jaxrl_tok.train.hlo import Collective
from jaxrl_tok.train.plan import Compiled

RUN = Path(__file__).parent / "plan.toml"


def built_for(*sets: str) -> Build:
    """The run of `plan.toml`, with its mesh of fsdp 2 x tensor 2 unless `sets` say otherwise."""
    run = load_run(RUN, sets)
    with jax.numpy_dtype_promotion("standard"):
        return build(run, plan.vocabulary(run), 1000, jax.devices())


def program(name: str, *collectives: Collective, **sizes) -> Compiled:
    """What the compiler might have made of a program."""
    return Compiled(name, collectives=collectives, **sizes)
