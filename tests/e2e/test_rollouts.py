"""Runs whose completions are not independent: trees, and rollouts from states inside of completions."""

import contextlib

import numpy as np
import pytest

from jaxrl_tok.config.load import load_run
from jaxrl_tok.errors import ConfigError
from jaxrl_tok.io.metrics import read_lines
from jaxrl_tok.train import session, show
from tests.e2e.command import BUILT, built_once, train, write

# optax and the loop's host code are not written for strict promotion.
pytestmark = pytest.mark.usefixtures("standard_promotion")

SMALL = ("mesh.preset=single", "rollout.max_tokens=12", "run.steps=3", "optimizer.learning_rate=0.01")
TREE = ("recipe=spo_tree", "recipe.rollout.branches=[2,2,2]", "recipe.rollout.segment_tokens=4", "rollout.group=8")


def lines(folder, name="metrics"):
    found = read_lines(folder / f"runs/run/{name}.jsonl")
    return [{k: v for k, v in line.items() if not k.startswith(("time/", "perf/"))} for line in found]


def finished(folder, *sets):
    ended = train(write(folder, judge="last_character"), *sets)
    assert ended.code == 0, ended
    return lines(folder)[1:]


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trees") / "run"
    return folder, finished(folder, *SMALL, *TREE)


@pytest.mark.slow
def test_a_run_on_trees_learns_from_the_leaves_that_there_are(trees):
    folder, steps = trees
    assert len(steps) == 3 and all(np.isfinite(step["loss"]) and step["grad_norm"] > 0 for step in steps)
    written = lines(folder, "completions")
    for step in steps:
        rows = [row for row in written if row["step"] == step["step"]]
        # 4 prompts, 8 leaves; an early end takes leaves away, and these are neither scored nor counted.
        assert step["rewards/length/scored"] == len(rows) <= 32
        assert step["completions/min_length"] >= 1 and step["frac_trainable"] <= 1
        assert step["sampling/sampling_logp_difference/max"] < 1e-4
        assert any(row["advantage"] for row in rows)
    assert min(step["rewards/length/scored"] for step in steps) < 32
    # What leaves share was sampled, and counts, once: a tree has at most 2 * 4 + 4 * 4 + 8 * 4 tokens.
    assert 0 < steps[0]["num_tokens"] <= 4 * 56 + 4 * 8 * 4


@pytest.mark.slow
def test_a_run_on_trees_goes_on_as_if_it_had_not_stopped(trees, tmp_path):
    folder, steps = tmp_path / "run", trees[1]
    finished(folder, *SMALL, *TREE, "run.steps=2")
    assert train(folder, *SMALL, *TREE).code == 0
    assert lines(folder)[1:] == steps


CHAIN = ("recipe=spo_chain", "recipe.rollout.interval=3")
VINE = ("recipe=vine_ppo", "recipe.rollout.separator==")
PROBED = ("recipe.rollout.samples=2", "recipe.rollout.segments=3", "run.steps=2")


@pytest.mark.slow
@pytest.mark.parametrize("sets", [CHAIN, VINE], ids=["spo_chain", "vine_ppo"])
def test_a_run_on_values_of_rollouts_learns_and_compiles_once(sets, tmp_path, monkeypatch):
    built_once(monkeypatch)
    BUILT.clear()
    steps = finished(tmp_path / "run", *SMALL, *PROBED, *sets)
    assert len(steps) == 2 and all(np.isfinite(step["loss"]) and step["grad_norm"] > 0 for step in steps)
    # 16 completions; rollouts from inside are no completions, but their tokens count.
    written = lines(tmp_path / "run", "completions")
    assert [step["rewards/length/scored"] for step in steps] == [16, 16] and len(written) == 32
    own = 16 * steps[0]["completions/mean_length"] + 4 * 16
    assert own < steps[0]["num_tokens"] < 8 * own
    assert len({row["advantage"] for row in written}) > 8
    (built,) = BUILT.values()
    assert [program._cache_size() for program in (built.method, built.main.assemble, built.main.update)] == [1, 1, 1]


BRPO = ("recipe=anytime_reasoner", "recipe.rollout.budgets=[3,6,8]", "recipe.rollout.summary_tokens=3")
REMAX = ("recipe=remax",)


@pytest.mark.slow
@pytest.mark.parametrize("sets", [(*BRPO, "recipe.rollout.close=="), (*BRPO, "recipe.rollout.close="), REMAX])
def test_a_run_on_rewards_of_rollouts_beside_completions_learns_and_compiles_once(sets, tmp_path, monkeypatch):
    built_once(monkeypatch)
    BUILT.clear()
    steps = finished(tmp_path / "run", *SMALL, *sets, "run.steps=2")
    assert len(steps) == 2 and all(np.isfinite(step["loss"]) and step["grad_norm"] > 0 for step in steps)
    written = lines(tmp_path / "run", "completions")
    assert [step["rewards/length/scored"] for step in steps] == [16, 16] and len(written) == 32
    assert all(step["sampling/sampling_logp_difference/max"] < 1e-4 for step in steps)
    # Each prompt once a completion, and of a greedy one 1 to 12 tokens, or of 3 * 4 summaries 1 to 3 each.
    own = 16 * steps[0]["completions/mean_length"] + 4 * 16
    least, most = (4, 4 * 12) if sets is REMAX else (16 * 12, 16 * 12 * 3)
    assert own + least <= steps[0]["num_tokens"] <= own + most
    assert steps[0]["completions/max_length"] <= (12 if sets is REMAX else 8)
    if sets is REMAX:  # what is subtracted is one number a prompt
        greedy = {}
        for row in written:
            greedy.setdefault((row["step"], row["prompt"]), set()).add(round(row["reward"] - row["advantage"], 4))
        assert len(greedy) == 8 and all(len(found) == 1 for found in greedy.values())
        assert all(max(found) > 0 for found in greedy.values())
    else:
        assert len({row["advantage"] for row in written}) > 8
    (built,) = BUILT.values()
    assert [program._cache_size() for program in (built.method, built.main.assemble, built.main.update)] == [1, 1, 1]


# Of each method: its settings, and how many completions a group of it has at most.
CURE = ("recipe=cure", "recipe.rollout.samples=2", "recipe.rollout.branches=1", "recipe.rollout.min_characters=1")
LATR = ("recipe=latr", "recipe.rollout.steps=[2,4]", "recipe.rollout.symbols=", "recipe.rollout.lookahead=6")
EPTREE = ("recipe=tree_rl", "recipe.rollout.chains=2", "recipe.rollout.positions=1", "recipe.rollout.branches=1")


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["prompt", "tree"])
@pytest.mark.parametrize("sets", [CURE, LATR, EPTREE], ids=["cure", "latr", "eptree"])
def test_a_run_on_completions_that_branch_learns_and_compiles_once(sets, prefix, tmp_path, monkeypatch):
    built_once(monkeypatch)
    BUILT.clear()
    steps = finished(tmp_path / "run", *SMALL, *sets, "run.steps=2", f"train.share_prefix={prefix}")
    assert len(steps) == 2 and all(np.isfinite(step["loss"]) and step["grad_norm"] > 0 for step in steps)
    written = lines(tmp_path / "run", "completions")
    for step in steps:
        rows = [row for row in written if row["step"] == step["step"]]
        assert step["rewards/length/scored"] == len(rows) and (len(rows) == 16 or (sets is EPTREE and len(rows) > 8))
        # What is trained and what was sampled agree, also of tokens that were chosen and not drawn.
        assert step["sampling/sampling_logp_difference/max"] < 1e-4
        assert any(row["advantage"] for row in rows)
    (built,) = BUILT.values()
    programs = (built.method, built.main.assemble)
    assert [program._cache_size() for program in programs] == [1, 1]


def described(folder, *sets):
    with contextlib.chdir(folder):
        return show.show(folder / "run.toml", [*SMALL, *sets])


@pytest.mark.slow
@pytest.mark.parametrize("share", ["prompt", "tree"])
def test_a_run_whose_tokens_have_temperatures_of_their_own(share, tmp_path):
    """With tokens that are left out besides. It goes on from a checkpoint, in which the scale is."""
    sets = (*SMALL, "recipe=hapo", "recipe.sampler.strength=0.5", f"train.share_prefix={share}", "rollout.top_p=0.9")
    sets += ('rollout.bad_tokens=["="]', "rollout.min_tokens=3")
    steps = finished(tmp_path / "run", *sets)
    assert all(step["sampling/sampling_logp_difference/max"] < 1e-4 for step in steps)
    rows = lines(tmp_path / "run", "completions")
    assert not any("=" in row["completion"] for row in rows) and min(len(row["completion"]) for row in rows) >= 3
    finished(tmp_path / "again", *sets, "run.steps=2")
    assert train(tmp_path / "again", *sets).code == 0
    assert lines(tmp_path / "again")[1:] == steps
    assert finished(tmp_path / "plain", *sets, "recipe.sampler.strength=0.0")[1:] != steps[1:]


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [0, 5])
def test_shorter_prompts_and_waves_of_them_change_no_completion(chunk, tmp_path):
    sets = (*SMALL, f"rollout.chunk={chunk}")
    shorter = ("rollout.max_prompt=24", "rollout.buckets=3", "rollout.wave=2")
    steps = [finished(tmp_path / name, *sets, *more) for name, more in (("plain", ()), ("shorter", shorter))]
    rows = [lines(tmp_path / name, "completions") for name in ("plain", "shorter")]
    assert rows[0] == rows[1]
    for one, other in zip(*steps, strict=True):
        np.testing.assert_allclose(one["loss"], other["loss"], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(one["grad_norm"], other["grad_norm"], rtol=1e-4)


@pytest.mark.slow
def test_a_stop_string_ends_completions_and_is_not_in_their_text(tmp_path):
    finished(tmp_path / "run", *SMALL, 'rollout.stop=["=", "11"]', "run.steps=1")
    rows = lines(tmp_path / "run", "completions")
    assert rows and not any("=" in row["completion"] or "11" in row["completion"] for row in rows)
    assert any(not row["truncated"] for row in rows) and all(len(row["completion"]) <= 24 for row in rows)


def test_show_names_the_rollouts(tmp_path):
    text = described(write(tmp_path / "run"), *TREE)
    row = next(line for line in text.splitlines() if line.startswith("#   rollout "))
    assert row.split() == ["#", "rollout", "spo_tree", "branches", "=", "[2,", "2,", "2],", "segment_tokens", "=", "4"]


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (("rollout.group=4",), "has 8 leaves; expected as many as rollout.group = 4"),
        (("recipe.rollout.segment_tokens=6",), "segment_tokens = 6: expected 1 to 5"),
        (("recipe.rollout=spo_tre",), "rollout: no method 'spo_tre'; did you mean 'spo_tree'?"),
        (("recipe.rollout.branch=[2]",), "rollout: spo_tree has no hyperparameter 'branch'; did you mean 'branches'?"),
        (("recipe.rollout.branches=2",), "rollout: spo_tree: branches = 2 must be"),
        (("advantage=vine_ppo",), "it needs a segmenter, or rollouts with segments"),
        (("recipe=cure",), "samples = 4, branches = 3: 16 completions; expected as many as rollout.group = 4"),
        (
            ("recipe=latr", "recipe.rollout.eta=0.01"),
            "eta = 0.01: expected at most 1, and at least one of rollout.group",
        ),
        (("recipe=latr", 'rollout.stop=["1"]'), "rollout.stop = ['1']: expected [] with rollout = 'latr'"),
        (("recipe=anytime_reasoner", 'rollout.stop=["1"]'), "rollout.stop = ['1']: expected [] with rollout = 'brpo'"),
        (("recipe=hapo", "recipe.rollout=remax"), "sampler = 'adaptive_temperature': expected none with rollout"),
        (("recipe=hapo", "recipe.sampler.strength=1.0"), "sampler: adaptive_temperature: strength = 1.0 must lie in"),
        (("recipe=tree_rl",), "30 leaves; expected as many as rollout.group = 4"),
        (("recipe=anytime_reasoner",), "rollout = 'brpo': close = '</think>': character '<'"),
        ((*BRPO[:1], "recipe.rollout.close=="), "up to 8129 tokens; expected at most rollout.max_tokens = 12"),
        (("advantage=remax",), 'it needs a greedy rollout of each prompt (rollout = "remax")'),
        (("recipe=vine_ppo",), r"separator = '\n': expected text that some token of the vocabulary has in it"),
    ],
)
def test_rollouts_that_cannot_be_are_refused_at_load(sets, words, tmp_path):
    with pytest.raises(ConfigError) as error:
        own = () if sets[0].startswith("recipe=") and sets[0] != "recipe=spo_tree" else TREE
        described(write(tmp_path / "run"), *own, *sets)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_answers_have_no_rollouts(tmp_path):
    folder = write(tmp_path / "run")
    with contextlib.chdir(folder), pytest.raises(ConfigError, match=r"recipe.rollout = .*has no rollouts"):
        load_run("run.toml", ["recipe=sft", "recipe.rollout=spo_tree"])


def test_a_run_without_a_method_has_no_program_of_one(tmp_path):
    folder = write(tmp_path / "run")
    with contextlib.chdir(folder):
        run = load_run("run.toml", SMALL)
        built, _ = session._build(run, folder / "run.toml")
    assert built.method is None and run.recipe.rollout is None


TWENTY = "".join(f'{{"prompt": "{i % 10}+{i // 10}="}}\n' for i in range(20))
DARS = ("recipe=dars", "recipe.rollout.first=3", "rollout.group=8")
DYNAMIC = ("recipe=dapo_dynamic", "data.shuffle=false")


def in_rounds(folder, judge, *sets, steps=2):
    ended = train(write(folder, judge=judge, questions=TWENTY), *SMALL, *sets, f"run.steps={steps}")
    assert ended.code == 0, ended
    return lines(folder)[1:], ended


def by_prompt(folder, step):
    found = {}
    for row in lines(folder, "completions"):
        if row["step"] == step:
            found.setdefault(row["prompt"], []).append(row)
    return found


@pytest.mark.slow
def test_dars_samples_more_of_what_is_hard_and_compiles_once(tmp_path, monkeypatch):
    built_once(monkeypatch)
    BUILT.clear()
    steps, _ = in_rounds(tmp_path / "run", "hard_for_even", *DARS)
    assert len(steps) == 2 and all(np.isfinite(step["loss"]) for step in steps)
    for step in steps:
        groups = by_prompt(tmp_path / "run", step["step"])
        assert len(groups) == 4 == step["rollout/prompts"]
        for prompt, rows in groups.items():
            right = sum(row["reward"] for row in rows[:3])
            # Of three: one right 1.5 / (4/9) = 3.4, none 1.5 / (5/18) = 5.4 and not over 8; else no more.
            assert len(rows) == {0: 6, 1: 4}.get(right, 3), prompt
            if int(prompt[0]) % 2:
                assert len(rows) == 3 and not any(row["advantage"] for row in rows)
        total = sum(map(len, groups.values()))
        assert step["rollout/completions"] == step["rewards/length/scored"] == total > 12
        assert step["rollout/rounds"] == 2
        assert step["sampling/sampling_logp_difference/max"] < 1e-4
    (built,) = BUILT.values()
    assert [program._cache_size() for program in (built.method, built.main.assemble, built.main.update)] == [1, 1, 1]


@pytest.mark.slow
def test_dars_on_easy_prompts_is_grpo_without_the_deviation(tmp_path):
    """Half are right or more: the second phase has nothing to do, and its places change no sum."""
    own, _ = in_rounds(tmp_path / "dars", "mostly_right", *DARS)
    plain = ("recipe=dars", "rollout.group=3", "recipe.rollout=dynamic", "recipe.rollout.rounds=1")
    expected, _ = in_rounds(tmp_path / "plain", "mostly_right", *plain)
    for one, other in zip(own, expected, strict=True):
        assert one["rollout/rounds"] == 1 and one["grad_norm"] > 0
        for name in ("loss", "grad_norm", "reward", "entropy", "num_tokens"):
            np.testing.assert_allclose(one[name], other[name], rtol=1e-5, atol=1e-7, err_msg=name)


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("filled") / "run"
    return folder, *in_rounds(folder, "constant_for_even", *DYNAMIC, steps=3)


@pytest.mark.slow
def test_dynamic_sampling_fills_the_batch_with_the_next_prompts_that_differ(filled):
    folder, steps, ended = filled
    assert [step["rollout/prompts"] for step in steps[:2]] == [8, 8] and not ended.warnings
    order = [f"{i % 10}+{i // 10}=" for i in range(20)] * 2
    for step in steps:
        assert step["frac_reward_zero_std"] == 0 and step["frac_trainable"] == 1 and step["grad_norm"] > 0
        first, order = order[: step["rollout/prompts"]], order[step["rollout/prompts"] :]
        # Those that were drawn and differ are those that train, and the last one drawn is one of them.
        groups = by_prompt(folder, step["step"])
        assert len(groups) == 4 and {*groups} <= {*first} and first[-1] in groups
        assert all(int(prompt[0]) % 2 and len({row["reward"] for row in rows}) > 1 for prompt, rows in groups.items())
        assert step["rollout/completions"] == 4 * step["rollout/prompts"] == step["rewards/length/scored"]
        assert step["rollout/reward"] < step["reward"]


@pytest.mark.slow
def test_dynamic_sampling_goes_on_as_if_it_had_not_stopped(filled, tmp_path):
    folder, steps, _ = filled
    in_rounds(tmp_path / "run", "constant_for_even", *DYNAMIC, steps=2)
    assert train(tmp_path / "run", *SMALL, *DYNAMIC, "run.steps=3").code == 0
    assert lines(tmp_path / "run")[1:] == steps
    assert lines(tmp_path / "run", "completions") == lines(folder, "completions")


@pytest.mark.slow
def test_dynamic_sampling_without_a_difference_trains_on_what_there_is_and_says_so(tmp_path):
    steps, ended = in_rounds(tmp_path / "run", "constant", *DYNAMIC, "recipe.rollout.rounds=2")
    assert [step["rollout/rounds"] for step in steps] == [2, 2] and [step["grad_norm"] for step in steps] == [0, 0]
    (warning,) = [line for line in ended.warnings if "rounds" in line]
    assert "4 of 4 groups have equal rewards after 2 rounds of sampling" in warning


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (("recipe=dars",), "first = 8: expected 1 to 3, less than rollout.group = 4"),
        (("recipe=dars", "recipe.rollout.schedule=et"), "schedule"),
        (("recipe=dapo_dynamic", "recipe.rollout.rounds=0"), "rollout = 'dynamic': rounds = 0: expected at least 1"),
        (("recipe=dapo_dynamic", "rollout.group=1"), "at least 2 completions"),
    ],
)
def test_rounds_that_cannot_be_are_refused_at_load(sets, words, tmp_path):
    with pytest.raises(ConfigError) as error:
        described(write(tmp_path / "run"), *sets)
    assert words in str(error.value) and "\n" not in str(error.value)
