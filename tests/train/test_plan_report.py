"""What a plan says to a person: bar, verdict, and what to change."""

import io

import pytest
from rich.console import Console

from jaxrl_tok.train import plan_numbers as numbers
from jaxrl_tok.train import plan_report
from jaxrl_tok.train.chips import CHIPS, GIB
from jaxrl_tok.train.topology import Topology
from tests.train.planned import built_for, program

LITTLE = {"arguments": GIB, "temporary": 2 * GIB}


def planned(*programs, sets=()):
    """A plan for v5e: 15.75 GiB a chip."""
    built = built_for(*sets)
    return plan_report.Plan(built, Topology("v5e:2x2", CHIPS["v5e"], ()), [*programs], 12.0, 3 * GIB, 0.4)


def printed(found):
    file = io.StringIO()
    plan_report.show(found, Console(file=file, width=120, highlight=False, markup=False))
    return file.getvalue()


def test_a_run_that_fits_says_so_at_the_end():
    found = planned(program("rollout", **LITTLE, held=4 * GIB), program("update", **LITTLE))
    assert found.fits
    assert printed(found).splitlines()[-1] == "fits: 7.00 of 15.75 GiB at the peak, in rollout (44%)"


def test_what_lives_beside_a_program_counts():
    found = planned(program("rollout", **LITTLE, held=13 * GIB), program("update", **LITTLE))
    assert not found.fits
    assert "does not fit: 16.00 of 15.75 GiB at the peak, in rollout" in printed(found)


def test_what_the_compiler_refused_is_explained():
    error = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (42.54G) exceeds "
        "available HBM (15.75G)."
    )
    found = planned(program("rollout", **LITTLE), program("update", error=error, held=GIB))
    assert not found.fits and found.worst.name == "update"
    text = " ".join(printed(found).split())
    assert "does not fit: update: Ran out of memory on HBM, " in text
    assert "exceeds available HBM (15.75G); beside it the run holds 1.00 GiB" in text
    assert "checks: " not in text  # of a program that is not there
    assert "least seconds" not in text  # of a step that cannot be


@pytest.mark.parametrize(
    ("name", "sets", "first"),
    [
        ("rollout", (), "rollout.slots to 8: half as many keys and values at a time"),
        ("rollout", ("rollout.slots=2",), "rollout.max_tokens to less"),
        ("update", (), 'train.remat to "full"'),
        ("update", ("train.remat=full",), "train.microbatches to 2"),
        ("update", ("train.remat=full", "train.microbatches=2"), "train.microbatches to 4"),
        ("update", ("train.remat=full", "train.microbatches=4"), "mesh.sequence to 2"),
        ("reference", (), "mesh.fsdp to more"),
        ("reference", ("rollout.prompts=2",), "mesh.sequence to 2"),
        ("rollout", (), "rollout.slots to 8"),
        ("rollout", ("recipe=dapo_dynamic",), "rollout.slots to 8"),
    ],
)
def test_what_to_change_depends_on_where_it_is_too_much(name, sets, first):
    found = planned(program(name, temporary=16 * GIB), sets=sets)
    assert plan_report.advice(found)[0].startswith(first)


def test_a_state_that_is_too_large_needs_chips_or_a_smaller_state(monkeypatch):
    monkeypatch.setattr(numbers, "state_bytes", lambda _: {"parameters": 16 * GIB})
    found = plan_report.advice(planned(program("update", temporary=GIB)))
    assert "16.00 GiB a chip of 15.75" in found[0] and "they fill 5 chips" in found[0]
    assert [line.split(" ")[0] for line in found[1:]] == ["train.param_dtype", "lora.rank"]


def test_of_a_methods_rollouts_it_says_what_it_leaves_out():
    sets = ("recipe=spo_tree", "recipe.rollout.branches=[2]")
    found = planned(program("rollout", **LITTLE), program("update", **LITTLE), sets=sets)
    text = printed(found)
    assert 'rollout = "spo_tree": no time of it, and no count of keys and values' in text
    assert "step less rollout" in text and "sampled tokens/s/chip" not in text
    assert "keys and values, in rollout" not in text
    assert "sampled tokens/s/chip" in printed(planned(program("rollout", **LITTLE), program("update", **LITTLE)))
    assert plan_report.advice(planned(program("rollout", temporary=16 * GIB), sets=sets))[0].startswith(
        "rollout.prompts to fewer"
    )


def test_the_parts_of_the_bar_add_up_to_the_peak():
    found = planned(program("rollout", **LITTLE, held=4 * GIB, results=5, code=7))
    parts = plan_report.segments(found)
    assert sum(parts.values()) == found.worst.total
    assert parts["temporaries"] == 2 * GIB and parts["results, code"] == 12


@pytest.mark.parametrize(
    ("whole", "line"),
    [
        (60, f"|{'P' * 30}{'O' * 15}{'.' * 15}|"),
        (45, f"|{'P' * 40}{'O' * 20}|"),
        (30, f"|{'P' * 40}|{'O' * 20}"),
    ],
)
def test_the_bar_goes_on_behind_the_end_of_the_chip(whole, line):
    drawn, legend = plan_report.bar({"parameters": 30, "optimizer": 15}, whole)
    assert (drawn.plain, legend.plain.split()) == (line, ["P", "parameters", "O", "optimizer"])


def test_times_and_tokens_a_second():
    found = planned(program("rollout", **LITTLE), program("update", **LITTLE))
    work = numbers.work(found.built, found.compiled, CHIPS["v5e"])
    assert plan_report.step_seconds(work, 1.0) == sum(one.seconds() for one in work)
    assert plan_report.step_seconds(work, 0.4) > plan_report.step_seconds(work, 1.0)
