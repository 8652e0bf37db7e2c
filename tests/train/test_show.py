"""What `show` and `methods` print, and what `show` refuses before anything is computed. Four devices."""

from pathlib import Path

import pytest

from jaxrl_tok.config.load import load_run
from jaxrl_tok.errors import ConfigError, DataError, JaxrlTokError, RewardError, ShardingError
from jaxrl_tok.train import show as shown
from jaxrl_tok.train.recipe import REGISTRIES
from jaxrl_tok.train.show import methods

QUICKSTART = Path(__file__).parents[2] / "configs" / "runs" / "quickstart.toml"
# The quickstart's own sizes may change; these do not.
SIZES = ["run.steps=80", "rollout.prompts=16", "rollout.max_tokens=16", "warmup.steps=200", "eval.prompts=128"]


def show(path, sets=()):
    """What `show` prints of a run of these sizes."""
    return shown.show(path, [*SIZES, *sets])


@pytest.fixture(scope="module")
def text():
    return show(QUICKSTART, ["recipe=grpo_kl"])


def notes(text):
    return [line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#")]


def passes(*sets):
    """What `show` says of the main part's passes: its last line."""
    return notes(show(QUICKSTART, sets))[-1]


def cells(text, path):
    """The row of a slot of the main part: its last one of that path."""
    row = [line for line in notes(text) if line.split("  ")[0] == path][-1]
    return [cell.strip() for cell in row.split("  ") if cell.strip()]


def test_the_text_is_a_run_file_of_the_same_run(text, tmp_path):
    copy = tmp_path / "copy.toml"
    copy.write_text(text)
    assert load_run(copy) == load_run(QUICKSTART, [*SIZES, "recipe=grpo_kl"])


@pytest.mark.parametrize(
    "size",
    [
        "devices 4",
        "mesh.data 4",
        "batch shards 4",
        "sequences a step 128",  # 16 prompts * 8
        "updates in all 80",
        "sequences a microbatch and shard 32",
        "tokens a step 2,240",  # 16 prompts * 12 + 128 completions * 16
        "vocabulary 16",  # 14 characters, pad, end
        # 16*128 + 128 + 4 * (2*128 + 2*128*(4*32 + 2*32) + 3*128*512 + 2*32)
        "parameters 986,496",
    ],
)
def test_sizes(text, size):
    assert size in [" ".join(line.split()) for line in notes(text)]


def test_a_row_says_what_a_slot_is_given_and_every_hyperparameter(text):
    assert cells(text, "advantage") == [
        "advantage",
        "grpo",
        'eps = 1e-06, scale = "group", singleton = "zero"',
        "rewards, mask, valid",
    ]
    assert cells(text, "clip") == ["clip", "asymmetric", "low = 0.8, high = 1.2", "mask"]
    assert cells(text, "loss.kl")[3] == "logprobs, ref_logprobs, mask, log_ratio"
    assert cells(text, "loss.kl.reduction") == [
        "loss.kl.reduction",
        "sequence_mean_token_mean",
        'eps = 0.0, rows = "trained"',
        "loss, mask",
    ]


def test_a_row_has_what_was_set_over_the_default():
    text = show(QUICKSTART, ["clip.high=1.5", "advantage.scale=batch"])
    assert cells(text, "clip")[2] == "low = 0.8, high = 1.5"
    assert 'scale = "batch"' in cells(text, "advantage")[2]


def test_both_stages_are_described(text):
    titles = [line for line in notes(text) if "; recipe " in line]
    assert titles == [
        "warmup: 200 steps of 128 prompts, 1 completion each, and 1 update; recipe sft",
        "train: 80 steps of 16 prompts, 8 completions each, and 1 update; recipe grpo_kl",
    ]
    without = notes(show(QUICKSTART, ["warmup.steps=0", "train.epochs=3"]))
    assert [line for line in without if "; recipe " in line] == [
        "train: 80 steps of 16 prompts, 8 completions each, and 3 updates; recipe grpo"
    ]


NO_REFERENCE = "reference no (no slot reads it)"


@pytest.mark.parametrize(
    ("sets", "line"),
    [
        ([], f"passes: rollout yes; old policy no (one update a batch: costs nothing); {NO_REFERENCE}"),
        (
            ["train.minibatches=2"],
            f"passes: rollout yes; old policy yes (ratio reads old_logprobs); {NO_REFERENCE}",
        ),
        (
            ["recipe=beyond_80_20"],
            "passes: rollout yes; old policy yes (token_weight reads old_entropy, ratio reads old_logprobs); "
            + NO_REFERENCE,
        ),
        (
            ["recipe=grpo_kl"],
            "passes: rollout yes; old policy no (one update a batch: costs nothing); "
            "reference yes (loss.kl reads ref_logprobs)",
        ),
        (
            ["recipe=sft"],
            "passes: rollout no (trains on the data's worked answers); old policy no (no slot reads it); "
            + NO_REFERENCE,
        ),
    ],
)
def test_passes(sets, line):
    assert passes(*sets) == line


@pytest.mark.parametrize(
    ("error", "sets", "words"),
    [
        (ShardingError, ["mesh.data=3"], "does not fit 4 devices"),
        (ShardingError, ["rollout.prompts=6"], "rollout.prompts: 6 prompts a microbatch do not divide"),
        (ShardingError, ["train.microbatches=8"], "rollout.prompts: 2 prompts a microbatch"),
        (ShardingError, ["warmup.batch=6"], "warmup.batch: 6"),
        (ShardingError, ["mesh.tensor=4"], "dimension 'kv_heads' of 2 does not divide over 4"),
        (ConfigError, ["advantage.epss=1"], "grpo has no hyperparameter 'epss'; did you mean 'eps'"),
        (ConfigError, ["filter=informative"], "no method 'informative'; did you mean 'informative_groups'"),
        (ConfigError, ["data.termz=3"], "data.termz: no such option"),
        (RewardError, ["reward.correct.function=verifyer"], "did you mean 'verifier'"),
        (RewardError, ["eval.function=exactmatch"], "did you mean 'exact_match'"),
        (DataError, ["data.terms=3"], "questions; training draws 25600"),
        (DataError, ["tokenizer.alphabet=0123456789"], "arithmetic question"),
        (DataError, ["rollout.max_prompt=5"], "more than rollout.max_prompt = 5"),
        (DataError, ["data.heldout_fraction=0.0"], "held-out questions found, 128 asked for"),
    ],
)
def test_what_training_would_refuse(error, sets, words):
    with pytest.raises(error, match=words) as caught:
        show(QUICKSTART, sets)
    assert isinstance(caught.value, JaxrlTokError) and "\n" not in str(caught.value)


def test_methods_has_every_registered_method_under_its_slot():
    parts = dict(part.split("\n", 1) for part in methods().split("\n\n"))
    assert list(parts) == list(REGISTRIES)
    named = {slot: [x.strip() for x in parts[slot].splitlines() if x[2] != " "] for slot in REGISTRIES}
    assert sorted(named["advantage"] + named["reshape"]) == sorted(REGISTRIES["advantage"])
    for slot in set(REGISTRIES) - {"advantage", "reshape"}:
        assert named[slot] == list(REGISTRIES[slot])


def test_methods_by_what_they_read():
    lines = methods("old_entropy").splitlines()
    start = lines.index("  high_entropy")
    assert "token_weight" in lines[:start]
    assert lines[start + 1 : start + 4] == [
        "    Weight 1 on the given fraction of tokens with the highest entropy, 0 on the rest.",
        "    assemble; reads old_entropy, mask",
        '    takes fraction = 0.2, scope = "batch", renormalize = false',
    ]
    assert "fidelity: " in lines[start + 5] and "https://arxiv.org/abs/2506.01939" in lines[start + 5]
    assert "  tempo" in methods("valid").splitlines()  # optional arrays count
    assert "  token_mean" not in methods("valid").splitlines()


def test_methods_refuses_an_array_that_nothing_reads():
    with pytest.raises(ConfigError, match=r"--reads old_entopy: .*; did you mean 'old_entropy'"):
        methods("old_entopy")
