"""What is built of a run with parts: whose the parameters are, who trains them, and what the gradient reaches."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.config.load import load_recipe, load_run
from jaxrl_tok.errors import CheckpointError, ConfigError, DataError
from jaxrl_tok.io import tokenizer as tokenizers
from jaxrl_tok.models import Critic, Lora, Transformer, params
from jaxrl_tok.train import parts
from jaxrl_tok.train.assemble import assemble
from jaxrl_tok.train.build import build, init_state
from jaxrl_tok.train.plan import Size
from jaxrl_tok.train.recipe import build_recipe
from jaxrl_tok.train.step import gradients
from jaxrl_tok.types import LeftOut
from tests import tiny
from tests.train import cases
from tests.train.processes import RUN

TOKENIZER = tokenizers.characters("0123456789+-=;")
CRITIC = ("recipe=ppo", "critic.trunk=detached")


def built(*sets):
    return build(load_run(RUN, ["mesh.preset=single", *sets]), TOKENIZER, None)


def size(tree):
    return sum(x.size for x in jax.tree.leaves(tree) if x.ndim)


def test_adapters_alone_have_optimizer_state_and_the_base_is_the_reference():
    """The run's recipe has a reference, of which a run of all parameters keeps a copy."""
    with_all, adapted = (built(f"lora.rank={rank}").main.template for rank in (0, 2))
    assert size(with_all.ref_params) == size(with_all.params) and with_all.frozen is None
    assert size(with_all.opt_state) == 2 * size(with_all.params)
    assert adapted.ref_params is None
    assert size(adapted.frozen) == size(with_all.params)
    # Rank 2: q and o 16 <-> 16, k and v 16 -> 8, gate, up and down 16 <-> 32.
    assert size(adapted.params) == 2 * (2 * 32 + 2 * 24 + 3 * 48)
    assert size(adapted.opt_state) == 2 * size(adapted.params)


def test_a_tokenizer_whose_bytes_are_not_known_is_refused_by_the_key(monkeypatch):
    def refuse(_):
        raise DataError("tokenizer: a token has no bytes of its own")

    monkeypatch.setattr(parts, "token_bytes", refuse)
    with pytest.raises(ConfigError, match=r"^rollout.stop: tokenizer: a token has no bytes"):
        parts.stops_of(load_run(RUN, ["rollout.stop=[';']"]), TOKENIZER)


def test_a_critic_is_around_adapters_around_the_decoder():
    made = built("lora.rank=2", *CRITIC)
    model = made.model
    assert isinstance(model, Critic) and isinstance(model.policy, Lora) and isinstance(model.policy.base, Transformer)
    assert (parts.policy_of(model), parts.reference_of(model), made.base) == (model.policy,) + (model.policy.base,) * 2
    state = init_state(made)
    whole = state.model_params
    assert parts.policy_params(model, whole) is whole["policy"]
    assert parts.reference_params(model, state) is state.frozen["policy"]["base"]
    assert jax.tree.structure(parts.plain_params(model, whole)) == jax.tree.structure(made.base.specs())
    # Adam's averages of the adapters and of the head, each in its group.
    groups = state.opt_state.inner_states
    assert size(groups["policy"]) == 2 * size(state.params["policy"]) and size(groups["critic"]) == 2 * 16
    assert parts.parts_of(made.run) == {"critic"}


def test_without_parts_the_model_is_the_decoder():
    made = built()
    assert made.model is made.base is parts.policy_of(made.model) is parts.reference_of(made.model)
    assert parts.parts_of(made.run) == frozenset()


def test_experts_are_a_part_that_supplies_their_balance():
    run = load_run(RUN, ["model.experts=4", "model.experts_per_token=2"])
    assert parts.parts_of(run) == {"experts"}


def test_what_is_never_drawn_is_named_by_text():
    made = built('rollout.bad_tokens=["=", "7", "="]', "rollout.min_tokens=3")
    assert made.left_out == LeftOut((TOKENIZER.encode("=")[0], TOKENIZER.encode("7")[0]), TOKENIZER.eos_ids, 3)
    assert made.evaluation is not made.rollout
    plain = built()
    assert plain.left_out is None and plain.evaluation is plain.rollout
    alone = built('rollout.bad_tokens=["="]')
    assert alone.evaluation is alone.rollout


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (('rollout.bad_tokens=["=="]',), "rollout.bad_tokens: '==': expected one token; it is 2: ['=', '=']"),
        (('rollout.bad_tokens=["a"]',), "rollout.bad_tokens: 'a': character 'a'"),
        (("recipe=latr", "rollout.min_tokens=2"), "rollout.min_tokens = 2: expected 0 with rollout = 'latr'"),
        (("recipe=latr", 'rollout.bad_tokens=["="]'), "rollout.bad_tokens = ['=']: expected [] with rollout = 'latr'"),
    ],
)
def test_what_cannot_be_left_out_is_refused(sets, words):
    with pytest.raises(ConfigError) as error:
        built(*sets)
    assert words in str(error.value) and "\n" not in str(error.value)


@functools.cache
def batch_of(trunk):
    """A policy with a critic, and a batch for PPO; the value head is not 0, so that its slope is seen."""
    model = Critic(tiny.model(layers=1), trunk)
    weights = tiny.weights(model)
    weights["value"]["kernel"] = jnp.linspace(-1, 1, 32)
    recipe = build_recipe(load_recipe("ppo"), vocab_size=37, parts=frozenset({"critic"}))
    have = cases.fields()
    have["values"] = jnp.where(have["mask"], jnp.asarray(np.random.default_rng(3).random((8, 4, 6)), jnp.float32), 0)
    have = {k: v for k, v in have.items() if k not in ("old_entropy", "ref_logprobs")}
    heat = jnp.ones((cases.PROMPTS, cases.GROUP))
    made = jax.jit(lambda have: assemble(recipe, {}, tiny.prompts(cases.PROMPTS, 5), have, heat, None)[0])(have)
    return model, weights, recipe, made


@pytest.mark.slow
@pytest.mark.parametrize("trunk", ["shared", "detached"])
def test_the_loss_of_values_changes_the_policys_gradient_only_if_the_trunk_is_shared(trunk):
    model, weights, recipe, batch = batch_of(trunk)
    without = dataclasses.replace(recipe, terms=tuple(term for term in recipe.terms if term.name == "policy"))
    both, alone = (
        jax.jit(functools.partial(gradients, recipe=r, model=model))(weights, batch)[0] for r in (recipe, without)
    )
    away = jax.tree.map(lambda x, y: float(jnp.linalg.norm(x - y) / jnp.linalg.norm(y)), *(
        grads["policy"]["layers"] for grads in (both, alone)
    ))  # fmt: skip
    assert min(jax.tree.leaves(away)) > 0.01 if trunk == "shared" else max(jax.tree.leaves(away)) < 1e-5
    assert np.linalg.norm(both["value"]["kernel"]) > 0 and not np.any(alone["value"]["kernel"])


@pytest.mark.slow
def test_the_step_reads_the_old_critic_and_its_targets_from_assembly():
    _, _, _, batch = batch_of("detached")
    fields, have = batch.fields, cases.fields()
    assert "values" not in fields and {"old_values", "returns", "advantages"} <= fields.keys()
    # GAE by hand on one completion: its outcome comes with the last token, lambda = 0.95.
    p, g = 2, 1
    values = np.asarray(fields["old_values"][p, g], np.float64)
    count, after = int(have["mask"][p, g].sum()), 0.0
    assert have["valid"][p, g] and count > 1
    for t in reversed(range(count)):
        reward = float(have["rewards"][p, g]) if t == count - 1 else 0.0
        follows = values[t + 1] if t < count - 1 else 0.0
        after = reward + follows - values[t] + 0.95 * after
        np.testing.assert_allclose(fields["returns"][p, g, t], after + values[t], rtol=1e-5)


def test_which_tokens_have_a_piece_of_text():
    """Ids beyond the tokenizer's, which the model may have, have none; nor have padding and the end."""
    characters = tokenizers.characters("ab;")
    found = parts.containing(characters, characters.size + 2, ";")
    assert [characters.decode([int(i)]) for i in np.flatnonzero(found)] == [";"] and found.shape == (
        characters.size + 2,
    )
    either = parts.containing(characters, characters.size, re.compile("[b;]"))
    assert [characters.decode([int(i)]) for i in np.flatnonzero(either)] == ["b", ";"]
    assert not parts.containing(characters, characters.size, "[b;]").any()


def test_of_a_vocabulary_without_texts_all_is_taken():
    """A plan's: every token may have any text, and a text has at most a token for each of its bytes."""
    size = Size(7)
    assert parts.containing(size, 9, ";").tolist() == [True] * 9
    assert parts._encoded(size, {"close": "é;", "other": (3, 4)}) == {"close": (0, 0, 0), "other": (3, 4)}


def test_a_checksum_tells_one_base_from_another():
    weights = {"norm": jnp.ones(4), "head": jnp.ones((2, 4))}
    parts.check_base(weights, params.digest(weights), "there", "here")
    other = weights | {"norm": jnp.array([1, 1, 1, 1 + 1e-6], jnp.float32)}
    with pytest.raises(CheckpointError, match=r"^there: its adapters were trained on other weights than those in here"):
        parts.check_base(other, params.digest(weights), "there", "here")


@pytest.mark.parametrize(
    ("sets", "line"),
    [
        (("critic.trunk=shared",), 'critic.trunk = "shared": recipe grpo_kl reads no values; expected "off"'),
        (("lora.rank=2", "lora.targets=['experts.up']"), "lora.targets = ['experts.up']: nothing in this model fits"),
    ],
)
def test_parts_without_a_use_are_refused(sets, line):
    with pytest.raises(ConfigError) as error:
        built(*sets)
    assert str(error.value) == line
