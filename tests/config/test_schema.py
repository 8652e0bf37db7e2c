import subprocess
import sys

import pydantic
import pytest

from jaxrl_tok.config import schema


def recipe(**over):
    table = {
        "advantage": {"method": "grpo", "eps": 1e-4},
        "clip": {"method": "asymmetric", "low": 0.8, "high": 1.28},
        "loss": {
            "policy": {"method": "ppo_clip", "dual_clip": 3.0, "reduction": {"method": "token_mean"}},
            "kl": {
                "method": "kl",
                "estimator": "k2",
                "weight": 0.04,
                "reduction": {"method": "constant_length", "length": 9},
            },
        },
    }
    return schema.RecipeConfig.model_validate(table | over)


def test_slots_come_in_order_with_their_hyperparameters():
    assert schema.slots(recipe(filter={"method": "informative_groups"})) == [
        ("advantage", "advantage", "grpo", {"eps": 1e-4}),
        ("filter", "filter", "informative_groups", {}),
        ("clip", "clip", "asymmetric", {"low": 0.8, "high": 1.28}),
        ("loss", "loss.policy", "ppo_clip", {"dual_clip": 3.0}),
        ("reduction", "loss.policy.reduction", "token_mean", {}),
        ("loss", "loss.kl", "kl", {"estimator": "k2"}),
        ("reduction", "loss.kl.reduction", "constant_length", {"length": 9}),
    ]


def test_every_single_slot_of_a_recipe_is_a_slot():
    fields = schema.RecipeConfig.model_fields
    assert [name for name, field in fields.items() if field.annotation == schema.Method | None] == [
        *schema.ROLLOUT_SLOTS,
        *schema.SLOTS,
    ]


def test_sections_are_frozen():
    section = schema.TrainSection()
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        section.minibatches = 2


def test_other_keys_are_options_where_a_section_is_open_and_nowhere_else():
    data = schema.DataSection.model_validate({"source": "files", "path": "x.jsonl", "columns": {"a": "b"}})
    assert data.options == {"path": "x.jsonl", "columns": {"a": "b"}}
    with pytest.raises(pydantic.ValidationError, match="Extra"):
        schema.EvalSection.model_validate({"path": "x"})


@pytest.mark.parametrize(("key", "value"), [("prompts", 4.0), ("prompts", True), ("top_p", "1"), ("top_p", True)])
def test_types_are_exact(key, value):
    with pytest.raises(pydantic.ValidationError):
        schema.RolloutSection.model_validate({key: value})


def test_an_integer_is_a_number():
    assert schema.RolloutSection.model_validate({"temperature": 2}).temperature == 2.0


def test_every_key_has_its_meaning_written_down():
    sections = [s for s in vars(schema).values() if isinstance(s, type) and issubclass(s, schema.Section)]
    assert len(sections) > 15
    for section in sections:
        assert section.__doc__ and section.__doc__.endswith(".")
        for key, field in section.model_fields.items():
            is_section = isinstance(field.annotation, type) and issubclass(field.annotation, schema.Section)
            assert field.description or is_section, (section, key)


def test_configuration_is_read_without_jax():
    program = "import sys, jaxrl_tok.config.load, jaxrl_tok.config.derived; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
