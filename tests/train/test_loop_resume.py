"""Killed and started again, a run ends as if it had never been killed: the same bits, each step once."""

import random
import signal
import time

import pytest

from tests.train.processes import finish, record, start, steps, wait_until, writing


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def undisturbed(tmp_path, cache, sets):
    folder = tmp_path / "undisturbed"
    finish(start(folder, *sets, cache=cache))
    return record(folder)


def kill_when(folder, cache, sets, condition, delay=0.0):
    process = start(folder, *sets, cache=cache)
    wait_until(process, condition)
    time.sleep(delay)
    process.kill()
    process.communicate()


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, cache):
    expected = undisturbed(tmp_path, cache, ())
    assert [line["step"] for line in expected[0]] == list(range(7))
    folder = tmp_path / "killed"
    kill_when(folder, cache, (), lambda: steps(folder) >= 4)
    out = finish(start(folder, cache=cache))
    assert "resumed at step" in out
    assert record(folder) == expected
    # The same command once more: nothing is left to do, and it says so.
    assert "finished" in finish(start(folder, cache=cache))
    assert record(folder) == expected


@pytest.mark.slow
def test_four_kills_one_inside_a_checkpoint_write(tmp_path, cache):
    """With two updates a batch, and an interval that does not divide the steps."""
    sets = ("run.steps=9", "train.epochs=2", "run.checkpoint_every=4")
    expected = undisturbed(tmp_path, cache, sets)
    folder = tmp_path / "killed"
    rng = random.Random(0)
    kill_when(folder, cache, sets, lambda: (folder / "warmup").exists(), delay=rng.random())
    kill_when(folder, cache, sets, lambda: steps(folder) >= 1, delay=rng.random() / 5)
    kill_when(folder, cache, sets, lambda: writing(folder))
    kill_when(folder, cache, sets, lambda: steps(folder) >= 6, delay=rng.random() / 20)
    finish(start(folder, *sets, cache=cache))
    assert record(folder) == expected


@pytest.mark.slow
@pytest.mark.parametrize("sets", [("recipe=spear",)], ids=" ".join)
def test_what_a_method_remembers_goes_on(tmp_path, cache, sets):
    """A ring of earlier groups, which assembly fills; a coefficient, which the pass before an update moves."""
    expected = undisturbed(tmp_path, cache, sets)
    remembered = {name: x for name, x in expected[-1].items() if "method_state" in name}
    assert remembered and any(any(x) for x in remembered.values())
    folder = tmp_path / "killed"
    kill_when(folder, cache, sets, lambda: steps(folder) >= 4)
    assert "resumed at step" in finish(start(folder, *sets, cache=cache))
    assert record(folder) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("differs", "sets"),
    [
        ("rollout/prompts", ("recipe=dapo_dynamic", "recipe.rollout.rounds=3")),
        ("rollout/completions", ("recipe=dars", "recipe.rollout.first=4", "rollout.group=8", "reward.form.weight=1.0")),
    ],
)
def test_what_was_drawn_and_sampled_in_rounds_goes_on(tmp_path, cache, differs, sets):
    """From behind the last prompt that was drawn, however many a step took."""
    expected = undisturbed(tmp_path, cache, sets)
    assert len({line[differs] for line in expected[0][1:]}) > 1
    folder = tmp_path / "killed"
    kill_when(folder, cache, sets, lambda: steps(folder) >= 4)
    assert "resumed at step" in finish(start(folder, *sets, cache=cache))
    assert record(folder) == expected


TREE = ("recipe=spo_tree", "recipe.rollout.branches=[2,2,2]", "recipe.rollout.segment_tokens=4", "rollout.group=8")


@pytest.mark.slow
def test_a_run_killed_while_it_samples_a_tree_goes_on_to_the_same_bits(tmp_path, cache):
    sets = (*TREE, "rollout.max_tokens=13", "rollout.prompts=16")
    expected = undisturbed(tmp_path, cache, sets)
    folder = tmp_path / "killed"
    finish(start(folder, *sets, cache=cache, module=("tests.train.killed_while_sampling", "3")), code=-signal.SIGKILL)
    assert 0 < steps(folder) < len(expected[0])
    assert "resumed at step" in finish(start(folder, *sets, cache=cache))
    assert record(folder) == expected


@pytest.mark.slow
def test_a_signal_saves_and_the_same_command_goes_on(tmp_path, cache):
    expected = undisturbed(tmp_path, cache, ())
    folder = tmp_path / "stopped"
    process = start(folder, "run.checkpoint_every=100", cache=cache)
    wait_until(process, lambda: steps(folder) >= 3)
    process.send_signal(signal.SIGTERM)
    assert "the same command goes on" in finish(process, code=143)
    done = steps(folder)
    assert "resumed at step" in finish(start(folder, cache=cache))
    assert done < 7 and record(folder) == expected
