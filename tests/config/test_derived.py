import json

import pytest

from jaxrl_tok.config import derived as sizes
from jaxrl_tok.config.load import load_model, load_run
from jaxrl_tok.config.schema import ModelConfig, TrainSection
from jaxrl_tok.errors import ShardingError
from jaxrl_tok.models import params
from jaxrl_tok.models.architecture import specs as specs_of
from jaxrl_tok.train.build import architecture

RUN = 'model = "tiny"\nrecipe = "grpo"\n[reward.r]\nfunction = "verifier"\n'


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run.toml").write_text(RUN)
    return lambda *sets: load_run(tmp_path / "run.toml", sets)


BATCH = (
    "rollout.prompts=24",
    "rollout.group=5",
    "rollout.max_prompt=10",
    "rollout.max_tokens=7",
    "rollout.slots=30",
    "train.minibatches=3",
    "train.epochs=2",
    "train.microbatches=2",
    "run.steps=11",
)


def test_sizes(run):
    found = sizes.derived(run(*BATCH, "mesh.fsdp=2", "mesh.tensor=2"), devices=8, vocab=100)
    assert found == {
        "devices": 8,
        "mesh.data": 2,
        "mesh.fsdp": 2,
        "mesh.expert": 1,
        "mesh.sequence": 1,
        "mesh.tensor": 2,
        "batch shards": 4,
        "sequences a step": 120,
        "updates a step": 6,
        "updates in all": 66,
        "sequences an update": 40,
        "sequences a microbatch": 20,
        "sequences a microbatch and shard": 5,
        "slots a shard": 8,  # 30 over 4, rounded up
        "positions a sequence": 17,
        "tokens a step": 24 * 10 + 120 * 7,
        "vocabulary": 100,
        "parameters": found["parameters"],
    }


def test_a_recipe_on_answers_has_one_sequence_a_prompt(run):
    found = sizes.derived(run(*BATCH, "recipe=sft"), devices=1)
    assert (found["sequences a step"], found["sequences an update"], found["tokens a step"]) == (
        24,
        8,
        24 * 17,
    )
    assert "parameters" not in found


@pytest.mark.parametrize(
    ("sets", "devices", "sizes_"),
    [
        (("preset=single",), 8, {}),  # one device of the eight
        (("preset=data",), 8, {"data": 8}),
        (("preset=fsdp",), 8, {"fsdp": 8}),
        # At most the root of the devices, and at most eight.
        (("preset=fsdp_tensor",), 8, {"fsdp": 4, "tensor": 2}),
        (("preset=fsdp_tensor",), 16, {"fsdp": 4, "tensor": 4}),
        (("preset=fsdp_tensor",), 512, {"fsdp": 64, "tensor": 8}),
        (("preset=fsdp_tensor",), 6, {"fsdp": 3, "tensor": 2}),
        (("preset=fsdp_tensor",), 1, {}),
        (("preset=fsdp_sequence",), 64, {"fsdp": 8, "sequence": 8}),
        (("preset=moe",), 128, {"fsdp": 16, "expert": 8}),
        # What is given comes off first; -1 takes what the preset would have filled.
        (("preset=data", "fsdp=3"), 12, {"data": 4, "fsdp": 3}),
        (("preset=data", "data=4"), 4, {"data": 4}),
        (("preset=moe", "tensor=2"), 32, {"fsdp": 4, "expert": 4, "tensor": 2}),
        (("preset=moe", "expert=2"), 32, {"fsdp": 16, "expert": 2}),
        (("preset=fsdp", "tensor=-1"), 8, {"tensor": 8}),
        (("preset=single", "fsdp=-1"), 8, {"fsdp": 8}),
        # Each slice holds one part of its axis.
        (("preset=fsdp", "slices=2"), 8, {"data": 2, "fsdp": 4}),
        (("preset=data", "slices=2"), 8, {"data": 8}),
        (("preset=fsdp_tensor", "slices=4"), 64, {"data": 4, "fsdp": 4, "tensor": 4}),
        (("preset=fsdp", "slices=2", "slice_axis=fsdp"), 8, {"fsdp": 8}),
    ],
)
def test_presets_fill_what_is_not_given(run, sets, devices, sizes_):
    expected = dict.fromkeys(("data", "fsdp", "expert", "sequence", "tensor"), 1) | sizes_
    assert sizes.mesh_sizes(run(*(f"mesh.{item}" for item in sets)), devices) == expected


@pytest.mark.parametrize(
    ("sets", "devices", "line"),
    [
        (("fsdp=3",), 8, "fsdp = 3, .* does not fit 8 devices; expected sizes that multiply to 8, or one of -1"),
        (("data=2",), 4, "does not fit 4 devices"),
        (("preset=fsdp_tensor", "fsdp=4"), 16, "fsdp = 4, expert = 1, sequence = 1, tensor = 2: does not fit 16"),
        (("data=2", "slices=4", "fsdp=-1"), 8, "mesh: data = 2: not a multiple of 4 slices"),
        (("preset=fsdp", "slices=3"), 8, "does not fit 8 devices"),
    ],
)
def test_the_mesh_must_fit(run, sets, devices, line):
    with pytest.raises(ShardingError, match=line):
        sizes.mesh_sizes(run(*(f"mesh.{item}" for item in sets)), devices)


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"tied": False, "qkv_bias": True},
        {"qk_norm": "head", "norms": "post"},
        {"qk_norm": "whole", "norms": "both", "o_bias": True, "mlp_bias": True},
        {"experts": 3, "experts_per_token": 2},
    ],
)
def test_parameters_are_those_of_the_model(flags):
    model = ModelConfig(layers=3, dim=20, heads=6, kv_heads=2, head_dim=4, ffw=28, **flags)
    specs = specs_of(architecture(model, TrainSection(), 17))
    assert sizes.parameters(model, 17) == params.count(specs)


def test_presets_have_the_size_they_say():
    assert 0.9e6 < sizes.parameters(load_model("tiny"), 100) < 1.1e6
    assert 24e6 < sizes.parameters(load_model("small"), 100) < 26e6


@pytest.mark.parametrize(
    "setting",
    [
        "model.layers=3",
        "model.vocab=999",
        "recipe=tempo",
        "clip.high=1.3",
        "loss.policy.weight=2",
        "run.seed=1",
        "data.digits=3",
        "tokenizer.alphabet=abc",
        "rollout.group=4",
        "rollout.temperature=0.5",
        "reward.r.weight=2",
        "reward.other.function=exact_match",
        "optimizer.learning_rate=1",
        "warmup.steps=5",
        "train.epochs=2",
        "train.dtype=bfloat16",
        "eval.prompts=8",
    ],
)
def test_the_fingerprint_tells_apart_what_changes_the_state(run, setting):
    assert sizes.fingerprint(run(setting)) != sizes.fingerprint(run())


@pytest.mark.parametrize(
    "setting",
    [
        "run.name=x",
        "run.dir=x",
        "run.steps=500",
        "run.checkpoint_every=7",
        "run.keep_last=3",
        "run.keep_every=5",
        "run.trackers=[]",
        "run.show_completions_every=0",
        "rewards.workers=5",
        "rewards.timeout=1",
        "mesh.fsdp=2",
        "run.max_sampled_tokens=1000",
        "rollout.slots=8",
        "rollout.wave=2",
        "rollout.chunk=4",
        "rollout.buckets=2",
        "rollout.scan_layers=true",
        "train.microbatches=2",
        "train.remat=full",
        "warmup.learning_rate=1",  # no warm-up
    ],
)
def test_the_fingerprint_leaves_a_resumed_run_free(run, setting):
    assert run(setting) != run()
    assert sizes.fingerprint(run(setting)) == sizes.fingerprint(run())


def test_steps_are_fixed_where_the_learning_rate_depends_on_them(run):
    one, other = (sizes.fingerprint(run("optimizer.schedule=cosine", f"run.steps={n}")) for n in (10, 20))
    assert (one.pop("run.steps"), other.pop("run.steps")) == (10, 20)
    assert one == other


def test_a_warm_up_is_part_of_the_state(run):
    one, other = (sizes.fingerprint(run("warmup.steps=5", f"warmup.learning_rate={x}")) for x in (0.1, 0.2))
    assert one.keys() == other.keys()
    assert [key for key in one if one[key] != other[key]] == ["warmup.learning_rate"]


def stored(run, *sets, without=(), **also):
    """What an earlier version stored, which had other keys."""
    return {key: x for key, x in sizes.fingerprint(run(*sets)).items() if key not in without} | also


@pytest.mark.parametrize("key", ["rollout.min_tokens", "optimizer.schedule", "reward.r.weight", "model.experts"])
def test_a_newer_key_had_its_default(run, key):
    assert sizes.as_now(run(), stored(run, without=[key])) == sizes.fingerprint(run())


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ("rollout.min_tokens=2", "rollout.min_tokens"),  # not its default
        ("rollout.stop=[';']", "rollout.stop.0"),
        ("recipe=spo_chain", "recipe.rollout.method"),
        ("reward.other.function=exact_match", "reward.other.function"),
        ("critic.trunk=shared", "critic.trunk"),
    ],
)
def test_a_newer_key_with_another_value_differs(run, setting, key):
    found, now = sizes.as_now(run(setting), stored(run, without=[key])), sizes.fingerprint(run(setting))
    assert found.get(key) != now[key]


def test_a_key_that_is_free_by_now_is_not_compared(run):
    old = stored(run, **{"rollout.wave": 3, "run.trackers.0": "x", "data.gone": 1})
    assert sizes.as_now(run(), old) == sizes.fingerprint(run()) | {"data.gone": 1}


def test_the_fingerprint_is_flat_and_survives_json(run):
    found = sizes.fingerprint(run('data.tasks=[{name="a", weight=2}, {name="b"}]', "optimizer.clip_norm=inf"))
    assert found["data.tasks.0.weight"] == 2
    assert found["data.tasks.1.name"] == "b"
    assert found["recipe.loss.policy.reduction.method"] == "sequence_mean_token_mean"
    assert json.loads(json.dumps(found)) == found
