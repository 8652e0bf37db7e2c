import re
import tomllib
from pathlib import Path

import pytest

from jaxrl_tok.config import explain, toml
from jaxrl_tok.config.load import dump_toml, known, load_model, load_recipe, load_run
from jaxrl_tok.config.schema import LossTerm, Method
from jaxrl_tok.errors import ConfigError

RESOLVED = Path(__file__).parent / "resolved"
RUN = """
model = "tiny"
recipe = "grpo"
[data]
digits = 3
tasks = [{ name = "a", weight = 2 }]
[reward.right]
function = "verifier"
[reward.short]
function = "mine:short"
weight = 0.1
limit = { soft = 10 }
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Every test stands in an empty folder that has one good run file."""
    monkeypatch.chdir(tmp_path)
    Path("run.toml").write_text(RUN)
    return tmp_path


def load(*sets, text=None):
    if text is not None:
        Path("run.toml").write_text(text)
    return load_run("run.toml", sets)


def flat(table, path=""):
    if not isinstance(table, dict):
        return {path[1:]: table}
    return {k: v for key, item in table.items() for k, v in flat(item, f"{path}.{key}").items()}


def test_every_recipe_and_model_has_a_golden_text():
    assert {*known("recipes")} | {*known("models")} == {file.stem for file in RESOLVED.glob("*.toml")}
    assert {"grpo", "dr_grpo", "rloo", "tempo", "dapo", "beyond_80_20", "grpo_kl", "sft"} <= known("recipes").keys()


@pytest.mark.parametrize("name", sorted(known("recipes")))
def test_recipes_resolve_to_their_golden_text(name):
    assert dump_toml(load_recipe(name)) == (RESOLVED / f"{name}.toml").read_text()


@pytest.mark.parametrize("name", sorted(known("models")))
def test_models_resolve_to_their_golden_text(name):
    assert dump_toml(load_model(name)) == (RESOLVED / f"{name}.toml").read_text()


@pytest.mark.parametrize("name", sorted(known("recipes")))
def test_recipe_files_open_with_paper_command_and_result(name):
    head = known("recipes")[name].read_text().split("\n\n")[0]
    comment = "\n".join(line for line in head.split("\n") if line.startswith("#"))
    assert re.search(
        rf"tools/run jaxrl-tok train configs/runs/quickstart.toml --set recipe={name}(\n| --set )", comment
    )
    assert "# Expect:" in comment
    assert "https://arxiv.org/abs/" in comment or name == "sft"


def test_every_run_file_loads():
    for name, file in known("runs").items():
        assert load_run(file).run.name == name


def test_a_base_is_merged_key_by_key_and_another_method_replaces_its_slot():
    Path("base.toml").write_text(
        'clip = { method = "asymmetric", low = 0.5, high = 1.5 }\n'
        'advantage = { method = "grpo", eps = 0.1 }\n'
        '[loss.policy]\nmethod = "ppo_clip"\nweight = 3.0\n'
        'reduction = { method = "constant_length", length = 9 }\n'
    )
    Path("mine.toml").write_text(
        'base = "base.toml"\nclip = { high = 1.28 }\nadvantage = "rloo"\n'
        '[loss.policy]\nreduction = "token_mean"\n'
        '[loss.kl]\nmethod = "kl"\nweight = 0.1\nreduction = "token_mean"\n'
    )
    recipe = load_recipe("mine.toml")
    assert recipe.name == "mine"
    assert recipe.clip == Method(method="asymmetric", low=0.5, high=1.28)
    assert recipe.advantage == Method(method="rloo")
    token_mean = Method(method="token_mean")
    assert recipe.loss == {
        "policy": LossTerm(method="ppo_clip", weight=3.0, reduction=token_mean),
        "kl": LossTerm(method="kl", weight=0.1, reduction=token_mean),
    }


def test_another_loss_keeps_nothing_of_the_base():
    Path("mine.toml").write_text('base = "grpo"\n[loss.policy]\nmethod = "other"\nweight = 2.0\n')
    with pytest.raises(ConfigError) as caught:
        load_recipe("mine.toml")
    assert str(caught.value) == "mine.toml: loss.policy.reduction: missing; expected a name or a table"


def test_a_base_has_no_base():
    Path("mine.toml").write_text('base = "tempo"\n')
    with pytest.raises(ConfigError, match=r'^mine.toml: base = "tempo": has a base itself, and one level is all'):
        load_recipe("mine.toml")


def test_a_table_may_stand_in_the_run_file_in_place_of_a_name():
    run = load(
        text='[model]\nbase = "tiny"\nlayers = 7\n[recipe]\nbase = "grpo"\nadvantage = "tempo"\n'
        '[warmup]\nsteps = 3\nrecipe = { loss = { a = { method = "sft", reduction = "token_mean" } }, '
        'source = "answers" }\n[reward.r]\nfunction = "verifier"\n'
    )
    assert (run.model.layers, run.model.dim) == (7, load_model("tiny").dim)
    assert run.recipe == load_recipe("tempo").model_copy(update={"name": "grpo"})
    assert [*run.warmup.recipe.loss] == ["a"]


def test_paths_are_seen_from_the_naming_file_and_from_here():
    Path("runs").mkdir()
    Path("runs/near.toml").write_text(dump_toml(load_recipe("rloo")))
    Path("far.toml").write_text(dump_toml(load_model("small")))
    Path("runs/x.toml").write_text(RUN.replace('"grpo"', '"near.toml"').replace('"tiny"', '"far.toml"'))
    run = load_run("runs/x.toml")
    assert (run.recipe, run.model) == (load_recipe("rloo"), load_model("small"))


def test_what_the_file_does_not_say_has_a_default():
    run = load()
    assert (run.run.name, run.run.dir) == ("run", "runs/run")
    assert load("run.name=other").run.dir == "runs/other"
    assert load("run.dir=/tmp/there").run.dir == "/tmp/there"
    assert run.recipe == load_recipe("grpo")
    assert run.warmup.recipe == load_recipe("sft")
    assert run.data.options == {"digits": 3, "tasks": [{"name": "a", "weight": 2}]}
    assert run.reward["short"].options == {"limit": {"soft": 10}}
    assert len(run.tokenizer.alphabet) == 96


@pytest.mark.parametrize(
    "sets",
    [
        (),
        ("recipe=beyond_80_20", "model=small", "warmup.steps=3", "optimizer.clip_norm=inf"),
        (
            "clip.high=inf",
            "tokenizer.kind=folder",
            'tokenizer.path=a "b"',
            "run.keep_every=40",
            "model.vocab=7",
        ),
    ],
)
def test_the_resolved_whole_loads_back_to_the_same_run(sets):
    run = load(*sets)
    Path("resolved.toml").write_text(dump_toml(run))
    assert load_run("resolved.toml") == run
    assert dump_toml(load_run("resolved.toml")) == dump_toml(run)


def other(value, field):
    """Returns a value of the same type that the schema allows as well."""
    choices = explain.expected(field).split('"')[1::2] if field else []
    match value:
        case bool():
            return not value
        case int():
            return value * 2 if value > 0 else 2
        case float():
            return value / 2 if value else 0.25
        case str():
            return next((choice for choice in choices if choice != value), value + "é")
        case [] | ():
            return ["é"]
        case list() | tuple():
            return [not value[0]] if isinstance(value[0], bool) else [*value][1:]


def test_every_key_of_a_run_can_be_set():
    before = flat(load().model_dump(exclude_none=True))
    assert len(before) > 80
    for path, value in before.items():
        # Of these, one change asks for another.
        if (path.endswith("source") and "recipe" in path) or path in ("tokenizer.kind", "model.experts"):
            continue
        changed = other(value, explain.field_at(path.split(".")))
        sets = [f"{path}={toml.value(changed)}"]
        if path.endswith(("loss.policy.method", "loss.answers.method")):
            sets.append(f"{path.removesuffix('method')}reduction=token_mean")
        after = flat(load(*sets).model_dump(exclude_none=True))
        assert changed != value
        assert (list(after[path]) if isinstance(changed, list) else after[path]) == changed
        # Another method leaves nothing of its table, and the folder follows the name.
        around = path.removesuffix("method") if path.endswith(".method") else path
        rest = {p for p in before if not p.startswith(around) and p != "run.dir"}
        assert {p: after[p] for p in rest} == {p: before[p] for p in rest}, path


def test_a_path_that_starts_with_a_slot_is_about_the_recipe():
    sets = ("clip.high=1.28", "loss.policy.weight=0.5", "advantage=rloo", "filter.method=informative_groups")
    run = load(*sets)
    assert run == load(*(f"recipe.{item}" for item in sets))
    assert run.recipe.clip == Method(method="asymmetric", low=0.8, high=1.28)
    assert run.recipe.loss["policy"].weight == 0.5
    assert (run.recipe.advantage, run.recipe.filter) == (
        Method(method="rloo"),
        Method(method="informative_groups"),
    )


def test_the_recipe_is_chosen_first_and_changed_second():
    either = [load(*sets) for sets in (("clip.high=9", "recipe=tempo"), ("recipe=tempo", "clip.high=9"))]
    assert either[0] == either[1]
    assert (either[0].recipe.name, either[0].recipe.clip.options["high"]) == ("tempo", 9)
    inline = RUN.replace('recipe = "grpo"', 'recipe = { base = "grpo", advantage = "rloo" }')
    assert load("recipe=tempo", text=inline).recipe == load_recipe("tempo")


def test_later_settings_win_and_a_new_method_keeps_settings_made_for_it():
    assert load("run.steps=1", "run.steps=2").run.steps == 2
    assert load("advantage.eps=0.5", "advantage.method=tempo").recipe.advantage == Method(method="tempo", eps=0.5)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        ("1e-3", 0.001),
        ("true", True),
        ('"12"', "12"),
        ("two words", "two words"),
        ("", ""),
        ("a=b", "a=b"),
        ("[1, 2]", [1, 2]),
        ("{ x = 1 }", {"x": 1}),
        ("2025-01-02", "2025-01-02"),
        ("1\ny=2", "1\ny=2"),
    ],
)
def test_values_are_toml_or_else_strings(text, value):
    assert load(f"data.option={text}").data.options["option"] == value


def test_keys_may_be_quoted():
    assert load('data."a b".c=1').data.options["a b"] == {"c": 1}


def test_dumped_text_is_plain_toml():
    assert tomllib.loads(dump_toml(load()))["recipe"]["clip"] == {
        "method": "asymmetric",
        "low": 0.8,
        "high": 1.2,
    }
