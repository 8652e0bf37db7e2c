"""The numbers of a plan against hands, and what a layout must not do."""

import dataclasses

import jax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxrl_tok.train import flops
from jaxrl_tok.train import plan_numbers as numbers
from jaxrl_tok.train.chips import CHIPS
from jaxrl_tok.train.hlo import Collective
from tests.train.planned import built_for, program

# Of a layer of `tiny`, two operations a product: q, o; k, v; three of the feed-forward part.
A_TOKEN = 4 * 2 * (2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 512)


TREE = ("recipe=spo_tree", "recipe.rollout.branches=[2,1]", "recipe.rollout.segment_tokens=30")


@pytest.fixture(scope="module")
def built():
    return built_for()


def collective(kind="all-gather", result=(16, 128), size=1000.0, devices=4, times=1):
    return Collective(kind, ((1,),), (result,), size, devices, times)


@pytest.mark.parametrize("scan", ["true", "false"])
def test_keys_and_values_are_found_in_the_loop_that_carries_most(scan):
    built = built_for(f"rollout.scan_layers={scan}")
    one = [(32, 4 * 8 * 1 * 40 * 32, (4, 8, 1, 40, 32))] if scan == "true" else [(32, 8 * 40 * 32, (8, 40, 32))] * 4
    prompt = [(32, 4 * 4 * 24 * 32, (24, 4, 4, 32))] if scan == "true" else [(32, 4 * 24 * 32, (4, 1, 24, 32))] * 4
    loops = ([(32, 1, ()), *one], [(32, 1, ()), *one * 2, *prompt * 2, (32, 128 * 128, (128, 128))])
    found = numbers.cache_found(built, program("rollout", loops=loops))
    assert found == numbers.cache_bytes(built) == 2 * 4 * 4 * 32 * (8 * 40 + 4 * 24)
    assert numbers.cache_found(built, program("rollout")) == 0


def test_bytes_of_decoding(built):
    # A chip reads, in each of 40 steps, half of each matrix (by heads, ffw or rows), norms, and keys and values: those
    # of 8 completions and, for each of them, those of its prompt.
    weights = 4 * (128 * 128 * 2 + 128 * 64 * 2 + 3 * 128 * 512) / 2 + 16 * 128 / 2 + 4 * (2 * 128 + 2 * 32) + 128
    cache = 2 * 4 * 32 * 8 * (40 + 24)
    assert numbers.decoding_bytes(built) == 40 * 4 * (weights + cache)
    twice = built_for("rollout.slots=8")
    assert numbers.decoding_bytes(twice) == 2 * 40 * 4 * (weights + cache / 2)


def test_of_an_untied_embedding_a_step_of_decoding_reads_a_few_rows():
    tied, untied = built_for(), built_for("model.tied=false")
    assert numbers.decoding_bytes(tied) == numbers.decoding_bytes(untied)


def test_operations_of_a_step(built):
    tokens = 8 * (24 + 2 * 40)
    seen = 8 * (24 * 25 // 2 + 2 * (24 * 40 + 40 * 41 // 2))
    passed = flops.Flops(tokens * A_TOKEN, seen * 4 * 4 * 4 * 32, 2 * 8 * 2 * 40 * 128 * 16)
    found = numbers.step_flops(built)
    assert found["rollout"] == found["reference"] == passed.total
    assert found["update"] == 3 * passed.total + passed.head
    twice = built_for("train.epochs=2", "train.minibatches=2", "train.remat=full")
    assert numbers.step_flops(twice)["update"] == 2 * (4 * passed.total)


def test_operations_of_a_step_whose_groups_share_less_or_more():
    """8 groups: rows with prompts of their own; 2-1 trees of segments of 30, the last one of 10; stars, as `prompt`."""
    head, token = 2 * 128 * 16, A_TOKEN

    def seen(start, count):
        return 4 * 4 * 4 * 32 * sum(range(start + 1, start + count + 1))

    rows = built_for("train.share_prefix=none")
    expected = 16 * (64 * token + seen(0, 64) + 40 * head)
    assert numbers.step_flops(rows)["reference"] == expected
    assert numbers.step_flops(rows)["rollout"] == numbers.step_flops(built_for())["rollout"]
    budgets = ("recipe=anytime_reasoner", "recipe.rollout.budgets=[4,8]", "recipe.rollout.summary_tokens=4")
    thinking = built_for(*budgets, "train.share_prefix=none")
    assert numbers.step_flops(thinking)["reference"] == 16 * (32 * token + seen(0, 32) + 8 * head)
    star = numbers.step_flops(built_for("train.share_prefix=tree"))
    assert star["reference"] == numbers.step_flops(built_for())["reference"]
    tree = built_for(*TREE, "recipe.rollout.branches=[1,2]", "train.share_prefix=tree")
    expected = 8 * ((24 + 30 + 20) * token + seen(0, 54) + 2 * seen(54, 10) + 50 * head)
    assert numbers.step_flops(tree)["reference"] == expected


def test_what_a_plan_takes_of_rollouts_is_said(built):
    assert numbers.assumptions(built) == []
    (tries,) = numbers.assumptions(built_for("train.share_prefix=tree"))
    # On each of two shards four prompts of 24 and 80 tokens, which are 416; a row has a multiple of 32 over 256.
    assert tries == "tries: 2 rows of 416 tokens, completions taken to be long and to share no more than their prompt"
    tries, method = numbers.assumptions(built_for(*TREE, "train.share_prefix=tree"))
    assert tries.startswith("tries: 2 rows of 416 tokens") and tries.endswith("the nodes of their tree")
    assert method.startswith('rollout = "spo_tree": no time of it') and "loops of 40 tokens" in method
    assert numbers.assumptions(built_for("rollout.chunk=8")) == [
        "rollout.chunk: planned is the program that decodes all in one call"
    ]
    rounds, _ = numbers.assumptions(built_for("recipe=dapo_dynamic"))
    assert rounds.startswith('rollout = "dynamic": planned is one round')


def test_of_a_methods_rollouts_there_is_no_time_and_no_count():
    built = built_for(*TREE)
    parts = [program("rollout", loops=([(32, 10**6, (4, 8, 40, 32))],)), program("update")]
    assert [one.name for one in numbers.work(built, parts, CHIPS["v5e"])] == ["update"]
    assert numbers.cache_found(built, parts[0]) == 0
    assert not [line for line in numbers.checks(built, parts) if "keys and values" in line]


def test_work_of_a_step(built):
    sent = collective("all-to-all", size=4e9, times=3)  # 3 of 4 parts
    parts = [program("rollout", sent), program("update", sent, calls=2)]
    rollout, update = numbers.work(built, parts, CHIPS["v5e"])
    assert rollout.flops == numbers.step_flops(built)["rollout"] / 4
    assert rollout.compute == rollout.flops / 197e12
    assert rollout.memory == numbers.decoding_bytes(built) / 819e9 and update.memory == 0
    assert rollout.links == pytest.approx(9e9 / 200e9) and update.links == pytest.approx(18e9 / 200e9)
    assert dataclasses.replace(update, compute=1.0).seconds(0.4) == 2.5
    assert update.seconds() == update.links


def test_sums_by_kind_start_with_what_is_sent_most():
    some = program("rollout", collective(times=2), collective("all-to-all", size=100.0))
    found = numbers.sums([some, program("update", collective("all-to-all", size=1e6), calls=3)])
    assert found == {"all-to-all": (4, 100 + 3e6, 0.75 * (100 + 3e6)), "all-gather": (2, 2000, 6000)}
    assert [*found] == ["all-to-all", "all-gather"]


@pytest.mark.parametrize(
    ("result", "whole"),
    [((16, 128), True), ((128, 1, 16), True), ((8, 128), False), ((16, 64), False), ((4, 16, 128), False)],
)
def test_a_head_that_is_gathered_is_named(built, result, whole):
    some = program("update", collective(result=result), collective("all-to-all"))
    assert numbers.gathered(built, some) == (["embedding"] if whole else [])
    assert numbers.gathered(built, program("update", collective("all-reduce", result=result))) == []


def test_rollouts_gather_along_the_width_where_nothing_splits_the_vocabulary():
    alone = built_for("mesh.fsdp=4", "mesh.tensor=1")
    assert numbers.gathered(alone, program("rollout", collective())) == []
    assert numbers.gathered(alone, program("update", collective())) == ["embedding"]


def test_a_parameter_that_is_whole_is_named(built):
    assert not numbers.whole_parameters(built)
    state = built.main.template
    whole = NamedSharding(built.mesh, PartitionSpec())
    layers = state.params["layers"]
    down = jax.ShapeDtypeStruct(layers["down"].shape, "float32", sharding=whole)
    params = state.params | {"layers": layers | {"down": down}}
    main = dataclasses.replace(built.main, template=dataclasses.replace(state, params=params))
    assert numbers.whole_parameters(dataclasses.replace(built, main=main)) == [
        "['layers']['down']: ffw of 512 is not split over 2 (512 on every chip)",
        "['layers']['down']: embed of 128 is not split over 2 (128 on every chip)",
    ]


def test_a_vocabulary_that_does_not_divide_is_whole():
    built = built_for("model.vocab=17")
    assert numbers.whole_parameters(built) == ["['embed']: vocab of 17 is not split over 2 (17 on every chip)"]
    assert numbers.gathered(built, program("rollout", collective(result=(17, 128)))) == []


def test_arguments_and_caches_that_are_off_are_named(built):
    right = numbers.arguments_bytes(built, program("update", batch=1000))
    loops = ([(32, numbers.cache_bytes(built) // 4, (4, 8, 40, 32))],)
    good = [program("rollout", loops=loops), program("update", batch=1000, arguments=right)]
    assert numbers.checks(built, good) == []
    bad = [program("rollout"), program("update", batch=1000, arguments=int(1.03 * right))]
    assert [line.split(":")[0] for line in numbers.checks(built, bad)] == [
        "arguments of update",
        "keys and values in rollout",
    ]


@pytest.mark.parametrize(
    ("sets", "a_parameter"),
    [
        ((), 4 + 4 + 4),
        (("recipe=grpo_kl",), 4 + 4 + 4 + 4),
        (("optimizer.state_dtype=bfloat16", "train.param_dtype=bfloat16"), 2 + 2 + 4),
    ],
)
def test_arguments_by_hand(sets, a_parameter):
    built = built_for(*sets)
    split = 4 * (128 * 128 * 2 + 128 * 64 * 2 + 3 * 128 * 512) + 16 * 128
    norms = 4 * (2 * 128 + 2 * 32) + 128
    assert numbers.arguments_bytes(built, program("update", batch=7)) == 7 + a_parameter * (split // 4 + norms)
    assert sum(numbers.state_bytes(built.main.template).values()) == a_parameter * (split // 4 + norms) + 3 * 4
