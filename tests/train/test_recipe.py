import re

import pytest

from jaxrl_tok.config.load import known, load_recipe
from jaxrl_tok.config.schema import RecipeConfig
from jaxrl_tok.errors import ConfigError
from jaxrl_tok.train.recipe import REGISTRIES, build_recipe
from tests.train.cases import recipe

POLICY = {"method": "ppo_clip", "reduction": {"method": "token_mean"}}
GRPO = {
    "advantage": {"method": "grpo"},
    "ratio": {"method": "token"},
    "clip": {"method": "asymmetric"},
    "loss": {"policy": POLICY},
}


def build(**changes):
    return build_recipe(RecipeConfig.model_validate({"name": "mine"} | GRPO | changes))


@pytest.mark.parametrize(
    ("name", "updates", "old", "reference"),
    [
        ("grpo", 1, False, False),
        ("grpo", 2, True, False),
        ("grpo_kl", 1, False, True),
        ("beyond_80_20", 1, True, False),
        ("sft", 1, False, False),
        ("sft", 4, False, False),
    ],
)
def test_only_the_passes_that_are_read_run(name, updates, old, reference):
    wanted = {"old": old, "reference": reference, "distances": False, "prepare": False}
    assert recipe(name).passes(updates) == wanted


def test_a_recipes_terms_keep_their_weights():
    terms = {term.name: term for term in recipe("grpo_kl").terms}
    assert terms["policy"].weight == 1 and terms["kl"].weight == load_recipe("grpo_kl").loss["kl"].weight
    assert terms["kl"].loss.name == "kl"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"advantage": {"method": "gropo"}}, "recipe mine: advantage: no method 'gropo'; did you mean 'grpo'?"),
        ({"clip": {"method": "asymmetric", "hihg": 2.0}}, "did you mean 'high'?"),
        (
            {"advantage": {"method": "hicra"}},
            "advantage = 'hicra' reads 'planning', which nothing in this run supplies",
        ),
        (
            {"advantage": {"method": "entropy_shaping"}},
            "changes advantages that another method gives: put it into reshape",
        ),
        ({"reshape": {"method": "rloo"}}, "reshape = 'rloo' does not read advantages: put it into advantage"),
        ({"ratio": None}, "its losses read ['log_ratio'], but ratio is empty"),
        ({"advantage": None}, "its losses read ['advantages'], but advantage is empty"),
        (
            {"loss": {"imitate": {"method": "sft", "reduction": {"method": "token_mean"}}}},
            "is set, but no loss reads its result",
        ),
        ({"loss": {"policy": POLICY | {"reduction": {"method": "token_men"}}}}, "did you mean 'token_mean'?"),
    ],
)
def test_what_cannot_be_is_refused_at_load(changes, line):
    with pytest.raises(ConfigError) as error:
        build(**changes)
    assert line in str(error.value) and "\n" not in str(error.value)


def test_a_loss_does_without_what_it_only_may_read():
    """`kl` has a use for `log_ratio` when there is one; `gpg` leaves none."""
    mean = {"reduction": {"method": "token_mean"}}
    losses = {"policy": {"method": "gpg"} | mean, "kl": {"method": "kl"} | mean}
    assert [term.name for term in build(ratio=None, clip=None, loss=losses).terms] == ["policy", "kl"]


@pytest.mark.parametrize("slot", ["advantage", "filter"])
def test_only_a_token_weight_may_act_in_the_step(slot, monkeypatch):
    def eager(logprobs, mask):
        return logprobs

    monkeypatch.setitem(REGISTRIES, slot, {**REGISTRIES[slot], "eager": eager})
    with pytest.raises(ConfigError, match=f"{slot} = 'eager' reads 'logprobs', which nothing in this run supplies"):
        build(**{slot: {"method": "eager"}})


def test_what_a_sampler_measures_can_be_read_once_a_batch(monkeypatch):
    def weighed(sampler_entropy, mask):
        return sampler_entropy

    monkeypatch.setitem(REGISTRIES, "token_weight", {**REGISTRIES["token_weight"], "weighed": weighed})
    own = {"token_weight": {"method": "weighed"}}
    assert build(sampler={"method": "adaptive_temperature"}, **own).token_weight is not None
    with pytest.raises(ConfigError, match=r'it needs temperatures of its own .*sampler = "adaptive_temperature"'):
        build(**own)


@pytest.mark.parametrize("name", sorted(known("recipes")))
def test_every_recipe_binds_or_says_what_it_needs(name):
    """What this trainer cannot supply stands in the file's head, and in the one line of the refusal."""
    head = known("recipes")[name].read_text().split("\n\n")[0]
    if "# Needs: " not in head:
        assert build_recipe(load_recipe(name), vocab_size=16).terms
        return
    with pytest.raises(
        ConfigError, match=rf"^recipe {name}: .* reads .*, which nothing in this run supplies: it needs "
    ):
        build_recipe(load_recipe(name), vocab_size=16)
    # A critic alone is a setting away, which the refusal and the head have word for word.
    alone = re.search(r"# Needs: (a critic \(.*\))\.\n", head)
    if alone is not None:
        assert name in ("ma_rlhf", "ppo") and "--set critic.trunk=shared\n" in head
        with pytest.raises(ConfigError, match=rf": it needs {re.escape(alone.group(1))}$"):
            build_recipe(load_recipe(name), vocab_size=16)
        assert build_recipe(load_recipe(name), vocab_size=16, parts=frozenset({"critic"})).targets is not None


def test_a_method_that_wants_the_size_of_the_vocabulary_gets_it():
    assert build_recipe(load_recipe("ucas"), vocab_size=16).reshape.hyper == {"vocab_size": 16}
    assert build(reshape={"method": "ucas", "vocab_size": 9}).reshape.hyper == {"vocab_size": 9}
    with pytest.raises(ConfigError, match="ucas needs its hyperparameter 'vocab_size'"):
        build(reshape={"method": "ucas"})
