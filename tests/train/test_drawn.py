"""What a batch is after several rounds, on hand-made completions."""

import dataclasses
import types

import jax
import numpy as np

from jaxrl_tok.config.load import load_run
from jaxrl_tok.io.data import Batch, Data
from jaxrl_tok.io.data_sources import open_source
from jaxrl_tok.io.distributed import ALONE
from jaxrl_tok.io.tokenizer import characters
from jaxrl_tok.rewards.batch import RewardBatch
from jaxrl_tok.rollouts.rounds import Round
from jaxrl_tok.sharding.mesh import make_mesh
from jaxrl_tok.train.build import Stage
from jaxrl_tok.train.drawn import drawn, read_of
from jaxrl_tok.train.loop import Loop
from jaxrl_tok.train.recipe import build_recipe
from jaxrl_tok.types import Rollouts, Sampled
from tests.train.processes import RUN

PROMPTS, GROUP, LIMIT = 2, 3, 4
CHARS = characters("0123456789+=")
SETS = ("recipe=dapo_dynamic", f"rollout.group={GROUP}", f"rollout.max_tokens={LIMIT}")


class PartOfStage(Stage):
    """What sampling reads of a stage."""

    def __init__(self, **fields):
        for name, value in fields.items():
            object.__setattr__(self, name, value)


def method(params, prompts, sampling, stream, step):
    """Completion g of prompt n is g + 1 times the digit n, in places that have a limit."""
    lengths = np.where(np.asarray(sampling.limit) > 0, np.arange(1, GROUP + 1)[None], 0)
    mask = np.arange(LIMIT) < lengths[..., None]
    digit = CHARS.encode("0")[0] + np.asarray(prompts.ids)
    tokens = np.where(mask, digit[:, None, None], 0).astype(np.int32)
    numbers = np.where(mask, -1.0 - np.asarray(prompts.ids)[:, None, None], 0).astype(np.float32)
    rollouts = Rollouts(tokens, mask, lengths == 3, numbers, numbers, np.ones((PROMPTS, GROUP), np.float32))
    return Sampled(rollouts, {}, mask.sum((1, 2)))


class Pool:
    """A completion is worth its number, without its repetitions; that of 9s is none."""

    def __init__(self):
        self.seen = []

    def score(self, prompts, completions, columns):
        self.seen.append(list(zip(prompts, completions, strict=True)))
        rewards = np.array([int(c[0]) for c in completions], np.float32)
        counts = {"scored": len(rewards), "abstained": 0, "timed_out": 0, "crashed": 0}
        return RewardBatch(rewards, rewards < 9, rewards[:, None], {"one": counts}, ["scored"] * len(rewards), [])


def fake(next_round, tmp_path):
    """As much of a loop as sampling sees, on ten questions in their order."""
    (tmp_path / "a.jsonl").write_text("".join(f'{{"prompt": "{i}="}}\n' for i in range(10)))
    data = Data(open_source("files", paths=str(tmp_path / "a.jsonl")), CHARS, max_prompt=2, heldout_fraction=0.0)
    mesh = make_mesh({"data": -1}, jax.devices()[:1])
    run = load_run(RUN, SETS)
    recipe = build_recipe(run.recipe)
    recipe = dataclasses.replace(recipe, rollout=dataclasses.replace(recipe.rollout, next_round=next_round))
    stage = PartOfStage(recipe=recipe, name="train", prompts=PROMPTS, group=GROUP)
    loop = types.SimpleNamespace(
        run=run,
        built=types.SimpleNamespace(mesh=mesh, method=method),
        data=data,
        batches={"train": data.batches(1, seed=0, shuffle=False, prefetch=4)},
        pool=Pool(),
        peers=ALONE,
        state=types.SimpleNamespace(model_params=None),
        warned=[],
    )
    loop.console = types.SimpleNamespace(warn=lambda kind, line: loop.warned.append((kind, line)))
    loop.questions_of = lambda stage, batches=1: Loop.questions_of(loop, stage, batches)
    return loop, stage


def asking(*rounds):
    """A method that asks for this, whatever the rewards; they are kept."""
    seen = []

    def next_round(done, rewards, valid):
        seen.append((rewards.copy(), valid.copy()))
        wanted, fresh = rounds[done] if done < len(rounds) else ([[0] * GROUP] * PROMPTS, [0] * PROMPTS)
        return Round(np.array(wanted, bool), np.array(fresh, bool), "not all" if done == len(rounds) else "")

    return next_round, seen


def test_later_rounds_fill_places_and_fresh_prompts_take_the_rows_of_others(tmp_path):
    ask, seen = asking(([[1, 1, 0], [1, 0, 0]], [1, 1]), ([[0, 0, 1], [0, 1, 0]], [0, 1]))
    loop, stage = fake(ask, tmp_path)
    found = drawn(loop, stage, 1)
    # Prompts 0 and 1, then 2 in the place of 1: of that one's first completion nothing is left.
    assert found.questions.prompts == ["0=", "2="] and found.prompts.ids.tolist() == [0, 2]
    assert loop.pool.seen == [[("0=", "0"), ("0=", "00"), ("1=", "1")], [("0=", "000"), ("2=", "22")]]
    assert found.host.mask.sum(-1).tolist() == [[1, 2, 3], [0, 2, 0]]
    np.testing.assert_array_equal(found.host.truncated, [[False, False, True], [False, False, False]])
    assert found.host.sampler_logprobs[..., 0].tolist() == [[-1, -1, -1], [0, -3, 0]]
    jax.tree.map(np.testing.assert_array_equal, found.rollouts, found.host)
    np.testing.assert_array_equal(found.rewards.rewards, [0, 0, 0, 0, 2, 0])
    np.testing.assert_array_equal(found.rewards.valid, [1, 1, 1, 0, 1, 0])
    assert found.rewards.sample_outcomes == ["scored"] * 3 + ["absent", "scored", "absent"]
    assert found.rewards.outcomes["one"]["scored"] == 5
    # What the method saw before each round: nothing, the first rewards, all.
    assert [valid.sum() for _, valid in seen] == [0, 3, 4]
    assert seen[1][0].tolist() == [[0, 0, 0], [1, 0, 0]] and seen[2][0].tolist() == [[0, 0, 0], [0, 2, 0]]
    assert loop.warned == [("rounds", "not all")]


def test_all_that_was_sampled_counts(tmp_path):
    loop, stage = fake(asking(([[1, 1, 0], [1, 0, 0]], [1, 1]), ([[0, 0, 1], [0, 1, 0]], [0, 1]))[0], tmp_path)
    found = drawn(loop, stage, 1)
    assert (found.tokens, found.prompt_tokens) == (1 + 2 + 1 + 3 + 2, 2 * 5)
    expected = {"rollout/rounds": 2, "rollout/prompts": 3, "rollout/completions": 5, "rollout/reward": 3 / 5}
    assert found.metrics == expected
    # The position is behind the last prompt that was drawn.
    again = loop.data.batches(1, seed=0, shuffle=False)
    again.restore(loop.batches["train"].state())
    assert next(again).prompts == ["3="]


def test_prompts_are_read_at_the_smallest_length_that_holds_them():
    run = load_run(RUN, ("rollout.max_prompt=10", "rollout.buckets=3"))

    def read(*lengths):
        tokens = np.arange(10 * len(lengths), dtype=np.int32).reshape(-1, 10)
        ids = np.arange(len(lengths), dtype=np.int32)
        lengths = np.array(lengths, np.int32)
        found = read_of(Batch(ids, [], [], {}, tokens, lengths), run)
        np.testing.assert_array_equal(found.tokens, tokens[:, 10 - found.tokens.shape[1] :])
        return found.tokens.shape[1]

    assert [read(1, 3), read(2, 4), read(5, 1), read(6, 2), read(10, 1)] == [3, 5, 5, 10, 10]
    run = load_run(RUN, ("rollout.max_prompt=10",))
    assert read(1) == 10
