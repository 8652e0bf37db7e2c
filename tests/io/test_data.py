import collections
import json

import numpy as np
import pytest

from jaxrl_tok.errors import DataError
from jaxrl_tok.io.data import Batch, Data, join, question, question_hash, replaced
from jaxrl_tok.io.data_sources import open_source
from jaxrl_tok.io.tokenizer import characters
from jaxrl_tok.tasks.arithmetic import ALPHABET
from tests.helpers import need

CHARS = characters(ALPHABET)
TEXT = characters("".join(map(chr, range(32, 127))))


def arithmetic(**options):
    return Data(open_source("arithmetic", **options), CHARS, max_prompt=16)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def numbered(tmp_path, count, **options):
    rows = [{"prompt": f"{i}?", "level": i % 3} for i in range(count)]
    return Data(open_source("files", paths=write(tmp_path / "a.jsonl", rows)), TEXT, max_prompt=8, **options)


def flat(batches, count):
    return [i for _ in range(count) for i in next(batches).ids.tolist()]


def same(a: Batch, b: Batch):
    arrays = all(np.array_equal(getattr(a, k), getattr(b, k)) for k in ("ids", "tokens", "lengths"))
    return arrays and (a.prompts, a.answers, a.columns) == (b.prompts, b.answers, b.columns)


def test_batch_holds_what_its_questions_say():
    data = arithmetic(terms=4, min_terms=2)
    batch = next(data.batches(32, seed=0))
    assert batch.tokens.dtype == batch.ids.dtype == batch.lengths.dtype == np.int32
    assert batch.tokens.shape == (32, 16)
    for p in range(32):
        example = data.source[int(batch.ids[p])]
        assert (batch.prompts[p], batch.answers[p]) == (example.prompt, example.answer_text)
        assert {k: v[p] for k, v in batch.columns.items()} == example.columns
        ids = CHARS.encode(example.prompt)
        assert batch.lengths[p] == len(ids)
        assert batch.tokens[p].tolist() == [CHARS.pad_id] * (16 - len(ids)) + ids
    assert len(set(batch.lengths.tolist())) > 1


def test_columns_that_some_rows_lack_are_none(tmp_path):
    rows = [{"prompt": "a?", "x": 1}, {"prompt": "b?", "y": [2]}]
    data = Data(
        open_source("files", paths=write(tmp_path / "a.jsonl", rows)),
        TEXT,
        max_prompt=8,
        heldout_fraction=0.0,
    )
    batch = data.collate([data.source[0], data.source[1]])
    assert batch.columns == {"x": [1, None], "y": [None, [2]]}
    assert batch.answers == [None, None]


def test_batches_joined_and_rows_replaced_are_those_of_the_same_questions(tmp_path):
    rows = [{"prompt": f"{i}?", "x": i} if i % 2 else {"prompt": f"{i}!?", "y": i} for i in range(8)]
    source = open_source("files", paths=write(tmp_path / "a.jsonl", rows))
    data = Data(source, TEXT, max_prompt=8, heldout_fraction=0.0)
    batch = data.collate([data.source[i] for i in range(5)])
    assert same(join([data.collate([data.source[i]]) for i in range(5)]), batch)
    others = data.collate([data.source[i] for i in (5, 6)])
    marked = np.array([False, True, False, False, True])
    assert same(replaced(batch, marked, others), data.collate([data.source[i] for i in (0, 5, 2, 3, 6)]))
    # Columns that only the others have.
    few, more = (
        Batch(x.ids, x.prompts, x.answers, {k: x.columns[k]}, x.tokens, x.lengths)
        for x, k in ((batch, "x"), (others, "y"))
    )
    assert replaced(few, marked, more).columns == {"x": [None, None, None, 3, None], "y": [None, None, None, None, 6]}


def test_questions_drawn_one_by_one_are_those_of_batches_and_go_on_anywhere():
    data = arithmetic(terms=3)
    batches, singly = data.batches(4, seed=3), data.batches(1, seed=3, prefetch=8)
    assert same(join([next(singly) for _ in range(4)]), next(batches))
    for _ in range(3):
        next(singly)
    again = data.batches(1, seed=3, prefetch=8)
    again.restore(singly.state())
    assert flat(again, 6) == flat(singly, 6)


def test_question_ignores_whitespace_composition_and_system_prompt():
    assert question("  what\tis\n\n1 ") == "what is 1"
    assert question("caf\u0065\u0301") == question("caf\u00e9")
    user = {"role": "user", "content": "what is  1"}
    assert question([{"role": "system", "content": "be brief"}, user]) == question("what is 1")
    assert question([{"role": "system", "content": "only this"}]) == "only this"
    assert question("A") != question("a")
    # The first 53 bits of SHA-256 of "abc", as printed in FIPS 180-2, appendix B.
    assert question_hash("abc") == (0xBA7816BF8F01CFEA >> 11) / 2**53


def test_arithmetic_holds_out_by_text():
    data = arithmetic(terms=3, max_operand=20)
    heldout = data.heldout(100)
    texts = {e.prompt for e in heldout}
    assert len(texts) == 100
    batches = data.batches(50, seed=1)
    drawn = [p for _ in range(30) for p in next(batches).prompts]
    assert not texts & set(drawn)
    assert not [p for p in drawn if question_hash(p) < 0.1]
    assert data.heldout(100) == heldout and data.heldout(50) == heldout[:50]
    assert [e.prompt for e in arithmetic(terms=3, max_operand=20).heldout(100)] == [e.prompt for e in heldout]
    # The training stream has the held-out questions in it, so it is the filter that keeps them out.
    assert texts & {data.source[i].prompt for i in range(4000)}


def test_heldout_share_is_the_fraction():
    source = open_source("arithmetic", terms=6, max_operand=99)
    share = np.mean([question_hash(source[i].prompt) < 0.1 for i in range(4000)])
    # Binomial standard deviation 0.0047; the seed is fixed.
    assert abs(share - 0.1) < 4 * 0.0047


def test_gym_holds_out_by_text_where_seeds_would_leak():
    need("reasoning_gym")
    from jaxrl_tok.tasks.gym import reasoning_gym

    parameters = dict(min_terms=2, max_terms=2, min_digits=1, max_digits=2)
    data = Data(open_source("gym", tasks={"chain_sum": parameters}), TEXT, max_prompt=80)
    heldout = {e.prompt for e in data.heldout(64)}
    assert len(heldout) == 64
    batches = data.batches(50, seed=0)
    drawn = {p for _ in range(60) for p in next(batches).prompts}
    assert not heldout & drawn

    def asked(seed):
        items = reasoning_gym().create_dataset("chain_sum", seed=seed, size=500, **parameters)
        return [items[i]["question"] for i in range(500)]

    train, evaluation = asked(0), asked(1)
    assert evaluation[:-1] == train[1:]
    # Even seeds far apart share questions, since the space is small.
    assert set(train) & set(asked(10**6))


def test_files_hold_out_duplicates_together(tmp_path):
    rows = [{"prompt": f"{i % 40}?", "copy": i // 40} for i in range(120)]
    rows += [{"prompt": f" {i}?\n", "copy": 3} for i in range(40)]
    source = open_source("files", paths=write(tmp_path / "a.jsonl", rows))
    data = Data(source, characters("0123456789? \n"), max_prompt=8, heldout_fraction=0.3)
    count = sum(question_hash(f"{i}?") < 0.3 for i in range(40))
    heldout = {question(e.prompt) for e in data.heldout(count)}
    assert len(heldout) == count > 4
    batches = data.batches(10, seed=0)
    drawn = [question(p) for _ in range(40) for p in next(batches).prompts]
    assert not heldout & set(drawn)
    assert heldout | set(drawn) == {f"{i}?" for i in range(40)}
    with pytest.raises(DataError, match=f"{count} held-out questions found, {count + 1} asked for"):
        data.heldout(count + 1)


def test_heldout_of_a_file_is_not_its_beginning(tmp_path):
    data = numbered(tmp_path, 400, heldout_fraction=0.5)
    assert max(e.id for e in data.heldout(20)) > 200


def test_no_held_out_fraction_no_held_out_questions(tmp_path):
    for data in (numbered(tmp_path, 10, heldout_fraction=0.0), Data(
        open_source("arithmetic"), CHARS, max_prompt=16, heldout_fraction=0.0
    )):  # fmt: skip
        assert data.heldout(0) == []
        with pytest.raises(DataError, match=r"0 held-out questions found, 1 asked for: raise data.heldout_fraction"):
            data.heldout(1)


def test_small_endless_source_runs_out_of_held_out_questions():
    with pytest.raises(DataError, match=r"held-out questions found, 64 asked for"):
        arithmetic(terms=2, max_operand=3).heldout(64)


def test_epochs_are_permutations_in_new_orders(tmp_path):
    data = numbered(tmp_path, 30, heldout_fraction=0.2)
    rows = [i for i in range(30) if question_hash(f"{i}?") >= 0.2]
    n = len(rows)
    ids = flat(data.batches(7, seed=5), 3 * n // 7 + 1)
    epochs = [ids[k * n : (k + 1) * n] for k in range(3)]
    assert all(sorted(epoch) == rows for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0] and epochs[0] != rows
    assert flat(data.batches(7, seed=5), 4) == ids[:28]
    other = flat(data.batches(7, seed=6), 4)
    assert other != ids[:28]
    # grain's own seeds overlap: epoch 0 of seed 6 would be epoch 1 of seed 5.
    assert other[:n] != epochs[1][:28]
    assert flat(data.batches(n, seed=5, shuffle=False), 2) == rows * 2


@pytest.mark.parametrize("prefetch", [0, 2])
def test_resume_is_exact_at_every_position_and_over_epochs(tmp_path, prefetch):
    data = numbered(tmp_path, 23, heldout_fraction=0.2)
    batches = data.batches(4, seed=3, prefetch=prefetch)
    states, seen = [], []
    for _ in range(15):
        states.append(json.loads(json.dumps(batches.state())))
        seen.append(next(batches))
    for k in (0, 1, 4, 5, 6, 11, 14):
        fresh = numbered(tmp_path, 23, heldout_fraction=0.2).batches(4, seed=3, prefetch=prefetch)
        fresh.restore(states[k])
        assert fresh.state() == states[k]
        assert all(same(next(fresh), batch) for batch in seen[k:])
        fresh.close()
    batches.restore(states[2])
    assert same(next(batches), seen[2])
    batches.close()


def test_resume_is_exact_in_an_endless_source():
    batches = arithmetic().batches(8, seed=0)
    for _ in range(5):
        next(batches)
    state, after = batches.state(), [next(batches) for _ in range(3)]
    fresh = arithmetic().batches(8, seed=0)
    fresh.restore(state)
    assert all(same(next(fresh), batch) for batch in after)


def test_batches_of_another_size_go_on_from_the_same_place(tmp_path):
    data = numbered(tmp_path, 50, heldout_fraction=0.0)
    ids = flat(data.batches(1, seed=0), 40)
    small, large = data.batches(4, seed=0), data.batches(10, seed=0)
    first = flat(small, 3)
    large.restore(small.state())
    assert first + flat(large, 2) == ids[:32]


def test_position_in_other_data_is_refused(tmp_path):
    state = numbered(tmp_path, 20).batches(4, seed=0).state()
    with pytest.raises(DataError, match="the data has changed since its position was saved: source was"):
        numbered(tmp_path, 21).batches(4, seed=0).restore(state)
    with pytest.raises(DataError, match="seed was 0, is 1"):
        numbered(tmp_path, 20).batches(4, seed=1).restore(state)
    with pytest.raises(DataError, match=r"heldout_fraction was 0\.1, is 0\.2"):
        numbered(tmp_path, 20, heldout_fraction=0.2).batches(4, seed=0).restore(state)


def test_shards_split_the_items_between_them(tmp_path):
    data = numbered(tmp_path, 24, heldout_fraction=0.0)
    drawn = [flat(data.batches(4, seed=0, shard=(k, 3)), 2) for k in range(3)]
    assert sorted(i for ids in drawn for i in ids) == list(range(24))


def test_too_small_a_space_is_refused():
    data = arithmetic(terms=2)  # 9 * 9 sums and 9 * 10 / 2 differences
    data.batches(4, seed=0, items=12)
    with pytest.raises(DataError, match=r"terms=2.* has 126 questions; training draws 13, and at least 10 times"):
        data.batches(4, seed=0, items=13)


def test_overlong_prompt_is_an_error_before_the_run(tmp_path):
    rows = [{"prompt": "ok"}, {"prompt": "x" * 9}]
    source = open_source("files", paths=write(tmp_path / "a.jsonl", rows))
    with pytest.raises(DataError) as caught:
        Data(source, TEXT, max_prompt=8)
    assert str(caught.value) == (
        f"{tmp_path}/a.jsonl:2: the prompt has 9 tokens, more than rollout.max_prompt = 8; "
        "raise it, or set data.overlong = 'drop'"
    )
    data = Data(source, TEXT, max_prompt=8, heldout_fraction=0.0, overlong="drop")
    assert data.dropped == 1
    assert flat(data.batches(2, seed=0), 2) == [0, 0, 0, 0]
    with pytest.raises(DataError, match="no question is left to train on: 1 of 1 prompts are longer than 8 tokens"):
        path = write(tmp_path / "b.jsonl", rows[1:])
        Data(open_source("files", paths=path), TEXT, max_prompt=8, overlong="drop")


def test_overlong_prompt_of_an_endless_source():
    source = open_source("arithmetic", terms=4, max_operand=99)
    with pytest.raises(DataError, match=r"arithmetic question \d+: the prompt has 1\d tokens, more than"):
        Data(source, CHARS, max_prompt=9)
    data = Data(source, CHARS, max_prompt=10, overlong="drop")
    assert max(next(data.batches(64, seed=0)).lengths) == 10
    assert all(len(e.prompt) <= 10 for e in data.heldout(30))
    with pytest.raises(DataError, match="no question is left to train on: 64 of 64"):
        Data(source, CHARS, max_prompt=4, overlong="drop")


def test_overlong_prompt_met_later_stops_the_run():
    source = open_source("arithmetic", terms=3, min_terms=2, max_operand=20)
    longest = max(len(source[i].prompt) for i in range(64))
    data = Data(source, CHARS, max_prompt=longest)
    data.max_prompt = longest - 1
    with pytest.raises(DataError, match=r"more than rollout\.max_prompt"):
        flat(data.batches(50, seed=0), 20)


def test_characters_that_cannot_be_written_are_named(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"prompt": "1+1=", "worked": "2"}, {"prompt": "2x2=", "worked": "4"}])
    with pytest.raises(DataError, match=r"a\.jsonl:2: character 'x' \(U\+0078\) of '2x2='"):
        Data(open_source("files", paths=path), CHARS, max_prompt=8)
    path = write(tmp_path / "b.jsonl", [{"prompt": "1+1=", "worked": "two"}])
    with pytest.raises(DataError, match=r"b\.jsonl:1: worked answer: character 't'"):
        Data(open_source("files", paths=path, answer_column="worked"), CHARS, max_prompt=8)
    with pytest.raises(DataError, match=r"arithmetic question 0: character '=' "):
        Data(open_source("arithmetic"), characters("0123456789+-"), max_prompt=16)


def test_system_prompt_makes_chats():
    source = open_source("arithmetic", system_prompt="Add.")
    plain = open_source("arithmetic")
    assert source[3].prompt == [
        {"role": "system", "content": "Add."},
        {"role": "user", "content": plain[3].prompt},
    ]
    assert source[3].columns == plain[3].columns
    assert question_hash(source[3].prompt) == question_hash(plain[3].prompt)
    assert open_source("arithmetic", system_prompt="")[3].prompt == source[3].prompt[1:]
    assert source.fingerprint != plain.fingerprint
    with pytest.raises(DataError, match="arithmetic question 0: the character tokenizer has no chat template"):
        Data(source, CHARS, max_prompt=16)


def test_order_of_an_endless_source_is_by_seed():
    a, b = (flat(arithmetic().batches(20, seed=s), 3) for s in (0, 1))
    assert a != b and collections.Counter(a).most_common(1)[0][1] == 1
