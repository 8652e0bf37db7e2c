"""Programs compiled for machines that are not there: four CPU devices in place of one, and TPUs where libtpu is."""

import sys

import jax
import numpy as np
import pytest

from jaxrl_tok import cli
from jaxrl_tok.config.load import load_run
from jaxrl_tok.errors import ConfigError
from jaxrl_tok.train import plan, plan_numbers
from jaxrl_tok.train.topology import Topology
from tests.helpers import need
from tests.train.planned import RUN, built_for

# optax and the loop's host code are not written for strict promotion.
pytestmark = pytest.mark.usefixtures("standard_promotion")


@pytest.fixture(scope="module")
def compiled():
    with jax.numpy_dtype_promotion("standard"):
        built, _, found = plan.compile_step(RUN, [], "cpu:4")
    return built, {one.name: one for one in found}


@pytest.fixture(scope="module")
def step():
    """A step whose programs are not compiled: shapes alone."""
    return plan.Step(built_for())


def test_the_vocabulary_comes_from_the_model_or_the_characters():
    assert plan.vocabulary(load_run(RUN)).size == 16  # 14 characters, padding, the end
    assert plan.vocabulary(load_run(RUN, ["model.vocab=64"])).size == 64
    with pytest.raises(ConfigError, match=r"model.vocab: unset"):
        plan.vocabulary(load_run(RUN, ["tokenizer.kind=folder", "tokenizer.path=x"]))


def test_a_recipe_on_answers_is_refused():
    with pytest.raises(ConfigError, match="a plan is of a recipe that learns from rollouts"):
        plan.compile_step(RUN, ["recipe=sft"], "cpu:4")


def test_every_program_of_a_step_is_compiled(compiled):
    _, found = compiled
    assert list(found) == ["rollout", "assemble", "update"]
    assert not any(one.error for one in found.values())
    assert found["update"].collectives and found["rollout"].temporary > 0


def test_arguments_are_what_a_hand_counts(compiled):
    built, found = compiled
    # A chip has a quarter of each matrix (embed / 2 x heads, ffw or vocab / 2) and all of the norms; in float32, once
    # as itself and twice in the optimizer.
    matrices = 4 * (128 * 128 * 2 + 128 * 64 * 2 + 3 * 128 * 512) + 16 * 128
    norms = 4 * (2 * 128 + 2 * 32) + 128
    state = 4 * 3 * (matrices / 4 + norms)
    sizes = plan_numbers.state_bytes(built.main.template)
    assert sizes["optimizer"] == pytest.approx(2 * sizes["parameters"], abs=100)  # and counters
    assert sum(sizes.values()) == pytest.approx(state, rel=1e-3)
    assert found["update"].arguments == pytest.approx(state + found["update"].batch, rel=0.02)
    assert found["rollout"].held == pytest.approx(sizes["optimizer"], rel=1e-3)


def test_keys_and_values_are_what_a_hand_counts(compiled):
    built, found = compiled
    # 4 layers, 1 of 2 heads of 32, 8 completions of 40 and 4 prompts of 24 on a shard; keys and values in float32.
    expected = 2 * 4 * 4 * 1 * 32 * (8 * 40 + 4 * 24)
    assert plan_numbers.cache_bytes(built) == expected
    assert plan_numbers.cache_found(built, found["rollout"]) == expected


def test_of_a_good_layout_there_is_nothing_to_say(compiled):
    built, found = compiled
    assert not plan_numbers.checks(built, [*found.values()])


@pytest.mark.slow
def test_a_critic_is_planned_with_what_is_made_of_the_rewards():
    """Rewards by token, which this recipe reads, are made of the outcome: no slot reads that by its name."""
    _, _, found = plan.compile_step(RUN, ["recipe=ma_rlhf", "critic.trunk=shared"], "cpu:4")
    assert [one.name for one in found] == ["rollout", "score", "assemble", "update"]
    assert not any(one.error for one in found)


@pytest.mark.slow
def test_tries_are_planned_at_their_longest():
    """A row of each of two shards holds two prompts with completions that share nothing."""
    built, _, found = plan.compile_step(RUN, ["train.share_prefix=tree"], "cpu:4")
    assert not any(one.error for one in found)
    plain = plan.compile_step(RUN, [], "cpu:4")[2]
    (tries, without) = (next(one for one in x if one.name == "update") for x in (found, plain))
    rollout = built.run.rollout
    size, count = (rollout.prompts // 2 * n for n in (24 + 2 * 40, 2 * 40))
    assert tries.batch - without.batch > 4 * (3 * size + 3 * count)


TREE = ("recipe=spo_tree", "recipe.rollout.branches=[2,1]", "recipe.rollout.segment_tokens=30")
BRPO = ("recipe=anytime_reasoner", "recipe.rollout.budgets=[4,8]", "recipe.rollout.summary_tokens=4")


@pytest.mark.parametrize(
    ("sets", "programs"),
    [
        ((*TREE, "train.share_prefix=tree"), ["rollout", "score", "reference", "assemble", "update"]),
        pytest.param(("recipe=dapo_dynamic",), ["rollout", "assemble", "update"], marks=pytest.mark.slow),
        pytest.param(("recipe=remax",), ["rollout", "assemble", "update"], marks=pytest.mark.slow),
        pytest.param(
            ("recipe=vine_ppo", "recipe.rollout.samples=2", "recipe.rollout.segments=2"),
            ["rollout", "assemble", "update"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("recipe=cure", "recipe.rollout.samples=1", "recipe.rollout.branches=1"),
            ["rollout", "assemble", "update"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            BRPO,
            ["rollout", "assemble", "update"],
            marks=pytest.mark.slow,
        ),
        pytest.param((*BRPO, "train.share_prefix=tree"), ["rollout", "assemble", "update"], marks=pytest.mark.slow),
    ],
    ids=lambda sets: sets[0].removeprefix("recipe="),
)
def test_a_methods_program_takes_the_place_of_the_plain_one(sets, programs):
    """And assembly takes what it supplies, values made of probes' rewards on the host among it."""
    built, _, found = plan.compile_step(RUN, sets, "cpu:4")
    assert built.method is not None and [one.name for one in found] == programs
    assert not any(one.error for one in found)
    assert found[0].loops and not plan_numbers.checks(built, found)


def test_the_longest_tries_of_a_tree_are_its_nodes():
    built = built_for(*TREE, "recipe.rollout.branches=[1,2]", "train.share_prefix=tree")
    tries = plan.longest_tries(built)
    assert tries.tokens.shape[0] == 2 and tries.real.sum() == 8 * (30 + 2 * 10)
    assert (tries.ends > np.arange(tries.ends.shape[1])).sum() == 8 * (24 + 30 + 2 * 10)
    star = plan.longest_tries(built_for("train.share_prefix=tree"))
    assert star.real.sum() == 8 * 2 * 40
    thinking = plan.longest_tries(built_for(*BRPO, "train.share_prefix=tree"))  # up to the last budget
    assert thinking.real.sum() == 8 * 2 * 8
    assert plan.longest_tries(built_for(*TREE)) is None


def test_the_reference_is_held_beside_the_policy():
    step = plan.Step(built_for("recipe=grpo_kl"))
    step._hold(step._state)
    held = sum(map(plan.on_a_chip, step._live.values()))
    assert held == sum(plan_numbers.state_bytes(step.built.main.template).values())


def test_a_program_that_is_not_asked_for_is_traced_alone(step):
    class Traced:
        out_info = jax.ShapeDtypeStruct((8, 2), "float32")

        def __call__(self):
            return None

        def lower(self):
            return self

    asked = plan.Step(step.built, frozenset({"update"}))
    found = asked.call("reference", Traced())  # which could not be compiled
    assert not asked.compiled and found.sharding.shard_shape(found.shape) == (4, 2)
    assert id(found) in asked._live


def test_out_of_memory_is_kept_and_another_error_is_raised(step):
    class Refused:
        out_info = jax.ShapeDtypeStruct((8,), "float32")

        def __init__(self, words):
            self.words = words

        def __call__(self):
            return None

        def lower(self):
            return self

        def compile(self):
            raise jax.errors.JaxRuntimeError(self.words)

    shape = step.call("mine", Refused("RESOURCE_EXHAUSTED: Ran out of memory on HBM."))
    assert shape.shape == (8,) and step.compiled[-1].error.startswith("RESOURCE_EXHAUSTED")
    for words in ("INTERNAL: Mosaic failed", "RESOURCE_EXHAUSTED: Used 70.60M of 63.94M vmem."):
        with pytest.raises(jax.errors.JaxRuntimeError, match=words[:8]):
            step.call("mine", Refused(words))


@pytest.mark.parametrize(("slots", "expected"), [(0, (8, 1)), (6, (3, 3)), (16, (8, 1)), (2, (1, 8))])
def test_rounds_of_slots_make_the_decoding_loop_longer(slots, expected):
    built = built_for(f"rollout.slots={slots}")  # for 16 completions on 2 shards of the batch
    assert plan.slots_and_rounds(built) == expected
    assert plan.decoding_steps(built) == 40 * expected[1]


def test_the_command_prints_a_verdict_and_its_exit_code(compiled, monkeypatch, capsys):
    built, found = compiled
    answer = built, Topology("cpu:4", None, ()), [*found.values()]
    monkeypatch.setattr("jaxrl_tok.train.plan_report.compile_step", lambda *_: answer)
    monkeypatch.setattr(sys, "argv", ["jaxrl-tok", "plan", str(RUN), "--topology", "cpu:4"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out = capsys.readouterr().out
    assert ended.value.code == 0 and out.splitlines()[-1].startswith("fits: ")
    monkeypatch.setattr("os.sysconf", lambda name: 1000)  # a thousand pages of a thousand bytes
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1 and "does not fit: " in capsys.readouterr().out


# Sizes that fill the tiles of a TPU, whose padding a hand does not count.
FULL = ["model.dim=512", "model.head_dim=128", "model.ffw=1024", "model.vocab=2048", "rollout.max_tokens=256"]


@pytest.mark.aot
def test_a_tpu_that_is_not_there():
    need("libtpu")
    built, place, found = plan.compile_step(RUN, FULL, "v5e:2x2")
    assert place.chip is not None and place.chip.name == "v5e" and len(place.devices) == 4
    assert not plan_numbers.checks(built, found)
    assert max(one.total for one in found) < place.chip.hbm
