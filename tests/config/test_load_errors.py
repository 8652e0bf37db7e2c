"""Mistakes in files and on the command line: one line each, with the file, the key and what was expected."""

from pathlib import Path

import pytest

from jaxrl_tok.config.load import known, load_model, load_recipe, load_run
from jaxrl_tok.errors import ConfigError

ROOT = Path(__file__).parents[2]
RUN = 'model = "tiny"\nrecipe = "grpo"\n[reward.right]\nfunction = "verifier"\n'


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Every test stands in an empty folder."""
    monkeypatch.chdir(tmp_path)


def refused(*sets, text=RUN):
    Path("run.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_run("run.toml", sets)
    return str(caught.value).split("\n")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('run.steps = "ten"', 'run.steps = "ten": expected an integer of at least 0'),
        ("run.steps = 1.5", "run.steps = 1.5: expected an integer of at least 0"),
        ("run.steps = true", "run.steps = true: expected an integer of at least 0"),
        ("run.steps = -1", "run.steps = -1: expected an integer of at least 0"),
        ("run.keep_last = 1", "run.keep_last = 1: expected an integer of at least 2"),
        ("run.name = 3", "run.name = 3: expected a string that is not empty"),
        ('run.name = ""', 'run.name = "": expected a string that is not empty'),
        ('run.trackers = ["x"]', 'run.trackers = ["x"]: expected a list of "tensorboard" or "wandb"'),
        ("run.dirr = 'x'", "run.dirr = \"x\": unknown key; did you mean 'dir'?"),
        ("rollout.top_p = 0", "rollout.top_p = 0: expected a number above 0 and of at most 1"),
        ("rollout.temperature = nan", "rollout.temperature = nan: expected a finite number"),
        (
            "optimizer.schedule = 'cosin'",
            'optimizer.schedule = "cosin": expected "constant", "linear" or "cosine"',
        ),
        ("train.remat = 1", 'train.remat = 1: expected "none", "full" or "dots"'),
        ("data.shuffle = 'yes'", 'data.shuffle = "yes": expected true or false'),
        ("train = 3", "train = 3: expected a table"),
        ("warmup = 3", "warmup = 3: expected a table"),
        ("reward.x = 'verifier'", 'reward.x = "verifier": expected a table'),
        ("reward.x.weight = 1", "reward.x.function: missing; expected a string that is not empty"),
        ('reward."a b".function = "f"', 'reward."a b": expected a name of letters, digits, - and _'),
        ("evals.every = 1", "evals = { every = 1 }: unknown key; did you mean 'eval'?"),
        ("steps = 3", "steps = 3: unknown key; did you mean 'run.steps' or 'warmup.steps'?"),
        ("warmup.recipe = 3", "warmup.recipe = 3: expected a name, the path of a TOML file, or a table"),
        ("warmup.recipe = 'sfd'", "warmup.recipe = \"sfd\": no recipe of that name; did you mean 'sft'?"),
        ("rollout.min_tokens = 64", "rollout.min_tokens = 64: expected less than rollout.max_tokens = 64"),
        ("train.minibatches = 3", "train.minibatches = 3: expected a divisor of rollout.prompts = 16"),
        (
            "train = { minibatches = 2, microbatches = 3 }",
            "train.microbatches = 3: expected a divisor of a minibatch's 8 prompts",
        ),
        ("rollout.slots = 129", "rollout.slots = 129: expected at most a step's 128 completions"),
        (
            "optimizer = { schedule = 'linear', warmup_steps = 101 }",
            "optimizer.warmup_steps = 101: expected at most the run's 100 updates",
        ),
        (
            "warmup = { schedule = 'linear', warmup_steps = 4, steps = 3 }",
            "warmup.warmup_steps = 4: expected at most warmup.steps = 3",
        ),
        ("mesh.data = 0", "mesh.data = 0: expected -1 or at least 1"),
        ("mesh.data = -2", "mesh.data = -2: expected an integer of at least -1"),
        ("tokenizer.alphabet = 'aa'", 'tokenizer.alphabet = "aa": expected each character once'),
        ("tokenizer.path = 'x'", 'tokenizer.path = "x": expected none: tokenizer.kind is "characters"'),
        (
            "tokenizer.kind = 'folder'",
            'tokenizer.path = nothing: expected a folder: tokenizer.kind is "folder"',
        ),
    ],
)
def test_a_mistake_in_the_run_file(text, line):
    assert refused(text=f"{text}\n{RUN}") == [f"run.toml: {line}"]


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("run.steps=ten", '--set: run.steps = "ten": expected an integer of at least 0'),
        ("clip=3", "--set: recipe.clip = 3: expected a name or a table"),
        ("loss.policy.weight=x", '--set: recipe.loss.policy.weight = "x": expected a number'),
        (
            "loss.policy.method=cispo",
            "--set: recipe.loss.policy.reduction: missing; expected a name or a table",
        ),
        ("optimizer.b1=nan", "--set: optimizer.b1 = nan: expected a finite number"),
        ("loss.kl.method=kl", "--set: recipe.loss.kl.reduction: missing; expected a name or a table"),
        ("recipe=tempoo", "--set: recipe = \"tempoo\": no recipe of that name; did you mean 'tempo'?"),
        ("model=big", '--set: model = "big": no model of that name; known: llama3_70b, llama3_8b, qwen3_0_6b'),
        (
            "recipe=",
            '--set: recipe = "": no recipe of that name; known: ' + ", ".join(sorted(known("recipes"))),
        ),
        ("recipe=x.toml", '--set: recipe = "x.toml": no such file'),
        ("recipe=3", "--set: recipe = 3: expected a name, the path of a TOML file, or a table"),
        ("model.layer=3", "--set: model.layer = 3: unknown key; did you mean 'layers'?"),
        ("recipe.advantag=grpo", "--set: recipe.advantag = \"grpo\": unknown key; did you mean 'advantage'?"),
        ("run.steps", "--set run.steps: expected a dotted key and a value, as in run.steps=10"),
        ("run steps=3", "--set run steps=3: expected a dotted key and a value, as in run.steps=10"),
        (
            "run.seed.x=3",
            "--set: run.seed = { x = 3 }: expected an integer of at least 0 and below 4294967296",
        ),
        (
            "warmup.recipe=dapo",
            'configs/recipes/dapo.toml: source = "rollout": expected "answers" in the recipe of',
        ),
    ],
)
def test_a_mistake_on_the_command_line(setting, line):
    (found,) = refused(setting)
    assert found.removeprefix(f"{ROOT}/").startswith(line)


def test_all_mistakes_come_at_once_each_with_its_own_file():
    Path("mine.toml").write_text('base = "grpo"\nratio = 3\nclop = 1\n')
    lines = refused("run.seed=-1", text=RUN.replace('"grpo"', '"mine.toml"') + "[mesh]\nfsdp = -2\n[evil]\n")
    assert sorted(lines) == [
        "--set: run.seed = -1: expected an integer of at least 0 and below 4294967296",
        "mine.toml: clop = 1: unknown key; did you mean 'clip'?",
        "mine.toml: ratio = 3: expected a name or a table",
        "run.toml: evil = {}: unknown key; did you mean 'eval'?",
        "run.toml: mesh.fsdp = -2: expected an integer of at least -1",
    ]


def test_mistakes_in_model_and_recipe_files_name_them():
    Path("m.toml").write_text("layers = 1\ndim = 8\nheads = 3\nkv_heads = 2\nhead_dim = 5\nffw = 8\n")
    with pytest.raises(ConfigError) as caught:
        load_model("m.toml")
    assert str(caught.value).split("\n") == [
        "m.toml: kv_heads = 2: expected a divisor of heads = 3",
        "m.toml: head_dim = 5: expected an even number: rotary embedding turns pairs",
    ]
    Path("r.toml").write_text('base = "sft"\nadvantage = "grpo"\n')
    with pytest.raises(ConfigError) as caught:
        load_recipe("r.toml")
    assert str(caught.value) == (
        'r.toml: advantage = { method = "grpo" }: a recipe with source = "answers" has no rollouts and no '
        "rewards; leave it out"
    )
    Path("r.toml").write_text("[loss]\n")
    with pytest.raises(ConfigError, match=r"^r.toml: loss = {}: expected at least one named table$"):
        load_recipe("r.toml")


def test_what_a_run_cannot_do_without():
    assert refused(text="") == [
        "run.toml: model: missing; expected a name, the path of a TOML file, or a table",
        "run.toml: recipe: missing; expected a name, the path of a TOML file, or a table",
    ]
    text = 'model = "tiny"\nrecipe = "grpo"\n'
    line = "run.toml: reward = {}: expected at least one [reward.NAME]: the recipe learns from rollouts"
    assert refused(text=text) == [line]
    assert load_run("run.toml", ["recipe=sft"]).reward == {}


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"a = 1\nb = = 2\n", "run.toml:2: not TOML: Invalid value"),
        (b"a = 1\na = 2\n", "run.toml:2: not TOML: Cannot overwrite a value"),
        (b'a = "\xff"', "run.toml: not UTF-8 text at byte 5"),
    ],
)
def test_what_is_not_toml_is_refused_with_its_place(content, line):
    Path("run.toml").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_run("run.toml")
    assert str(caught.value) == line


def test_a_file_that_is_not_there_or_is_a_folder():
    Path("run.toml").write_text(RUN)
    with pytest.raises(ConfigError, match=r"^rum.toml: no such file; did you mean 'run.toml'\?$"):
        load_run("rum.toml")
    with pytest.raises(ConfigError, match=r"^empty/x.toml: no such file$"):
        load_run("empty/x.toml")
    Path("folder.toml").mkdir()
    with pytest.raises(ConfigError, match=r"^folder.toml: cannot be read: Is a directory$"):
        load_run("folder.toml")


def test_long_values_are_cut():
    (line,) = refused(f"run.steps={'x' * 200}")
    assert len(line) < 130 and "xxx...: expected" in line
