"""What a program moves, read off HLO texts that are written by hand."""

import pytest

from jaxrl_tok.train import hlo

# A loop of 3 rounds whose body has a loop of 5; what goes round within is done 15 times.
NESTED = """
HloModule jit_run, is_scheduled=true, entry_computation_layout={(f32[8,4]{1,0})->f32[8,4]{1,0}}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%inner_body (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %p = (s32[], f32[8,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[8,4]{1,0:T(8,128)} get-tuple-element(%p), index=1
  %all-reduce.1 = f32[8,4]{1,0} all-reduce(%x), channel_id=1, replica_groups=[2,4]<=[8], to_apply=%add
  ROOT %t = (s32[], f32[8,4]{1,0}) tuple(%i, %all-reduce.1)
}

%inner_condition (p.1: (s32[], f32[8,4])) -> pred[] {
  %p.1 = (s32[], f32[8,4]{1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%p.1), index=0
  %bound = s32[] constant(5)
  ROOT %less = pred[] compare(%i.1, %bound), direction=LT
}

%outer_body (p.2: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %p.2 = (s32[], f32[8,4]{1,0}) parameter(0)
  ROOT %while.1 = (s32[], f32[8,4]{1,0}) while(%p.2), condition=%inner_condition, body=%inner_body
}

%outer_condition (p.3: (s32[], f32[8,4])) -> pred[] {
  %p.3 = (s32[], f32[8,4]{1,0}) parameter(0)
  ROOT %yes = pred[] constant(true)
}

ENTRY %main (x.1: f32[8,4]) -> f32[8,4] {
  %x.1 = f32[8,4]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %start = (s32[], f32[8,4]{1,0}) tuple(%zero, %x.1)
  %while.2 = (s32[], /*index=1*/f32[8,4]{1,0}) while(%start), condition=%outer_condition, body=%outer_body, TRIPS
  ROOT %out = f32[8,4]{1,0} get-tuple-element(%while.2), index=1
}
"""
KNOWN = 'backend_config={"known_trip_count":{"n":"3"}}'


def program(*lines):
    """A program of one computation, with an argument `x`."""
    body = "\n".join(f"  {line}" for line in lines)
    return (
        f"HloModule m\n\nENTRY %main (x: bf16[16,32]) -> f32[] {{\n  %x = bf16[16,32]{{1,0}} parameter(0)\n{body}\n}}\n"
    )


def test_what_stands_in_loops_counts_as_often_as_they_go_round():
    (found,) = hlo.collectives(NESTED.replace("TRIPS", KNOWN))
    assert (found.kind, found.shapes, found.bytes, found.devices) == ("all-reduce", ((8, 4),), 8 * 4 * 4, 4)
    assert found.times == 3 * 5  # the first noted by the compiler, the second by its condition


def test_a_loop_of_unknown_length_goes_round_as_often_as_is_said():
    (found,) = hlo.collectives(NESTED.replace(", TRIPS", ""), unknown=7)
    assert found.times == 7 * 5
    (once,) = hlo.collectives(NESTED.replace(", TRIPS", ""))
    assert once.times == 5


def test_what_loops_carry():
    assert hlo.carried(NESTED.replace("TRIPS", KNOWN)) == [[(32, 1, ()), (32, 32, (8, 4))]] * 2


def test_a_computation_that_two_places_call_counts_twice_and_every_branch_once():
    text = """
HloModule m

%branch_0 (p: f32[6]) -> f32[6] {
  %p = f32[6]{0} parameter(0)
  ROOT %permuted = f32[6]{0} collective-permute(%p), source_target_pairs={{0,1},{1,0}}
}

%branch_1 (q: f32[6]) -> f32[6] {
  %q = f32[6]{0} parameter(0)
  ROOT %gathered = f32[6]{0} all-to-all(%q), replica_groups={{0,1,2},{3,4,5}}
}

%shared (r: f32[6]) -> f32[6] {
  %r = f32[6]{0} parameter(0)
  %one = s32[] constant(1)
  ROOT %either = f32[6]{0} conditional(%one, %r, %r), branch_computations={%branch_0, %branch_1}
}

ENTRY %main (x: f32[6]) -> f32[6] {
  %x = f32[6]{0} parameter(0)
  %first = f32[6]{0} call(%x), to_apply=%shared
  ROOT %second = f32[6]{0} fusion(%first), kind=kCustom, calls=%shared
}
"""
    found = hlo.collectives(text)
    assert [one.kind for one in found] == ["collective-permute", "all-to-all"] * 2
    assert [one.devices for one in found] == [2, 3] * 2
    assert {one.bytes for one in found} == {24}


@pytest.mark.parametrize(
    ("line", "kind", "size", "moved"),
    [
        # A ring of n: what a device puts in, and what it sends on.
        ("all-gather(%x), replica_groups=[2,4]<=[8], dimensions={0}", "all-gather", 1024, 3 * 1024),
        ("all-gather-start(%x), replica_groups=[1,8]<=[8], dimensions={0}", "all-gather", 1024, 7 * 1024),
        ("reduce-scatter(%x), replica_groups=[2,4]<=[2,4]T(1,0), to_apply=%add", "reduce-scatter", 1024, 3 / 4 * 1024),
        ("all-reduce(%x), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add", "all-reduce", 1024, 6 / 4 * 1024),
        ("all-reduce(%x, %x), replica_groups=[4,2]<=[8], to_apply=%add", "all-reduce", 2048, 2048),
        (
            "all-gather(%x), replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}, dimensions={1}",
            *("all-gather", 1024, 3 * 1024),
        ),
        (
            "all-gather(%x), replica_groups=mesh['a'=4,'b'=2], device_ids=([4,2]T(1,0)) {'a','b'}, dimensions={1}",
            *("all-gather", 1024, 7 * 1024),
        ),
        (
            "all-gather(%x), replica_groups=mesh['a'=4,'b'=8] {'a','b':(2)4}, dimensions={1}",
            *("all-gather", 1024, 15 * 1024),
        ),
        ("all-to-all(%x), replica_groups=[2,4]<=[8], dimensions={0}", "all-to-all", 1024, 3 / 4 * 1024),
        ("collective-permute(%x), source_target_pairs={{0,1},{1,0}}", "collective-permute", 1024, 1024),
    ],
)
def test_bytes_that_a_collective_moves(line, kind, size, moved):
    (found,) = hlo.collectives(program(f"ROOT %y = bf16[64,32]{{1,0}} {line}"))
    assert (found.kind, found.bytes, found.moved) == (kind, size, moved)


def test_a_reduction_of_which_each_device_keeps_its_part_is_a_scatter():
    text = """
HloModule m

%all-reduce-scatter.7 (p: f32[8,4]) -> f32[2,4] {
  %p = f32[8,4]{1,0} parameter(0)
  %reduced = f32[8,4]{1,0} all-reduce(%p), replica_groups=[1,4]<=[4], to_apply=%add
  %id = u32[] partition-id()
  ROOT %part = f32[2,4]{1,0} dynamic-slice(%reduced, %id), dynamic_slice_sizes={2,4}
}

ENTRY %main (x: f32[8,4]) -> f32[2,4] {
  %x = f32[8,4]{1,0} parameter(0)
  ROOT %y = f32[2,4]{1,0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.7
}
"""
    (found,) = hlo.collectives(text)
    assert (found.kind, found.bytes, found.moved) == ("reduce-scatter", 128, 96)


def test_a_collective_that_is_done_beside_several_products_counts_once():
    text = """
HloModule m

%start (p: f32[8]) -> f32[32] {
  %p = f32[8]{0} parameter(0)
  ROOT %gathered.1 = f32[32]{0} all-gather(%p), channel_id=CHANNEL, replica_groups=[1,4]<=[4], dimensions={0}
}

%done (q: f32[8]) -> f32[32] {
  %q = f32[8]{0} parameter(0)
  ROOT %gathered.2 = f32[32]{0} all-gather(%q), channel_id=9, replica_groups=[1,4]<=[4], dimensions={0}
}

ENTRY %main (x: f32[8]) -> f32[32] {
  %x = f32[8]{0} parameter(0)
  %first = f32[32]{0} fusion(%x), kind=kCustom, calls=%start
  ROOT %second = f32[32]{0} fusion(%x), kind=kCustom, calls=%done
}
"""
    assert len(hlo.collectives(text.replace("CHANNEL", "9"))) == 1
    assert len(hlo.collectives(text.replace("CHANNEL", "8"))) == 2


def test_the_end_of_an_asynchronous_collective_is_no_other_one():
    text = program(
        "%started = (bf16[16,32]{1,0}, bf16[64,32]{1,0}) all-gather-start(%x), replica_groups=[1,4]<=[4]",
        "ROOT %y = bf16[64,32]{1,0} all-gather-done(%started)",
    )
    (found,) = hlo.collectives(text)
    assert found.results == ((64, 32),)


def test_arrays_of_a_type():
    type_ = "(bf16[8,4]{1,0:T(8,128)(2,1)}, token[], pred[], f8e4m3fn[3,5]{1,0}, s4[6]{0})"
    assert hlo.arrays(type_) == [(16, 32, (8, 4)), (8, 1, ()), (8, 15, (3, 5)), (4, 6, (6,))]


def test_an_operand_may_stand_with_its_type():
    text = program("ROOT %y = bf16[64,32]{1,0} all-gather(bf16[16,32]{1,0} %x), replica_groups=[1,4]<=[4]")
    assert [one.bytes for one in hlo.collectives(text)] == [1024]
