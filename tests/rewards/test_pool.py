"""Every outcome, with real worker processes."""

import datetime
import re
import signal

import numpy as np
import pytest

from jaxrl_tok.errors import RewardError
from jaxrl_tok.rewards.pool import RewardPool, RewardSpec

HERE = "tests.rewards.functions"
TIMEOUT = 0.4


def spec(function, name="r", weight=1.0, **options):
    return RewardSpec(name, f"{HERE}:{function}", weight, options)


@pytest.fixture(scope="module")
def pool():
    with RewardPool([spec("act")], workers=1, timeout=TIMEOUT) as pool:
        assert pool.score(["?"], ["1"], {"do": ["score"]}).rewards == [1.0]
        yield pool


@pytest.mark.parametrize(
    ("do", "outcome", "error"),
    [
        ("raise", "crashed", r"KeyError: '5' \(tests/rewards/functions.py:\d+\)"),
        ("interrupt", "crashed", "KeyboardInterrupt"),
        ("give up", "crashed", "GeneratorExit"),
        ("sys.exit", "crashed", "SystemExit: bye"),
        ("os._exit", "crashed", "its process exited with status 3"),
        ("segfault", "crashed", "its process exited with status 139 .SIGSEGV"),
        ("kill", "crashed", "its process exited with status 137 .SIGKILL"),
        ("close", "crashed", "its process exited with status"),
        ("nan", "crashed", "returned nan, expected a finite number"),
        ("infinite", "crashed", "returned -inf"),
        ("beyond float32", "crashed", "returned 1e\\+39"),
        ("string", "crashed", "returned '1'"),
        ("list", "crashed", "returned a list"),
        ("hang", "timed_out", "timed out after 0.4 s"),
        ("hang in C", "timed_out", "timed out after 0.4 s"),
        ("hang in re", "timed_out", "timed out after 0.4 s"),
    ],
)
def test_exactly_the_guilty_sample_fails(pool, do, outcome, error):
    batch = pool.score(["a", "b", "c"], ["1", "5", "3"], {"do": ["score", do, "score"]})
    np.testing.assert_array_equal(batch.rewards, [1, 0, 3])
    np.testing.assert_array_equal(batch.valid, [True, False, True])
    np.testing.assert_array_equal(batch.parts, [[1], [np.nan], [3]])
    assert batch.outcomes["r"] == {"scored": 2, "abstained": 0, "timed_out": 0, "crashed": 0} | {outcome: 1}
    assert batch.sample_outcomes == ["scored", outcome, "scored"]
    (line,) = batch.errors
    assert line.startswith(f"reward 'r' ({HERE}:act): ") and "\n" not in line
    assert line.endswith("; 1 of 3 samples, first prompt 'b'")
    assert re.search(error, line), line


def test_abstaining_is_neither_wrong_nor_a_failure(pool):
    batch = pool.score(["a"] * 4, ["0", "1", "1", "7"], {"do": ["score", "abstain", "true", "score"]})
    np.testing.assert_array_equal(batch.rewards, [0, 0, 1, 7])
    np.testing.assert_array_equal(batch.valid, [True, False, True, True])
    np.testing.assert_array_equal(batch.parts[:, 0], [0, np.nan, 1, 7])
    assert batch.outcomes["r"] == {"scored": 3, "abstained": 1, "timed_out": 0, "crashed": 0}
    assert batch.errors == []


def test_prints_and_reads_do_not_touch_the_protocol(pool):
    batch = pool.score(["a"] * 3, ["2", "1", "3"], {"do": ["score", "print", "read"]})
    np.testing.assert_array_equal(batch.rewards, [2, 1, 0])
    assert batch.valid.all()


def test_awkward_text_arrives_whole(pool):
    batch = pool.score(["a\n\x00\ud800é"], ["5"], {"do": ["raise"]})
    assert batch.errors[0].endswith(r"first prompt 'a\n\x00\ud800é'")


def test_an_empty_batch(pool):
    batch = pool.score([], [], {"do": []})
    assert batch.rewards.shape == batch.valid.shape == (0,) and batch.parts.shape == (0, 1)
    assert batch.warnings() == []


def test_more_than_a_pipe_holds(pool):
    batch = pool.score(["x" * 300_000] * 3, ["1", "2", "3"], {"do": ["score"] * 3})
    np.testing.assert_array_equal(batch.rewards, [1, 2, 3])


def test_an_interrupted_batch_leaves_the_pool_usable(pool):
    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(KeyboardInterrupt):
            pool.score(["?"], ["1"], {"do": ["hang"]})
    finally:
        signal.signal(signal.SIGALRM, before)
    batch = pool.score(["?"], ["4"], {"do": ["score"]})
    assert batch.rewards == [4] and batch.errors == []


def test_arrays_become_json_and_what_cannot_is_named(pool):
    today = datetime.date.today()
    batch = pool.score(["?"] * 2, ["1", "2"], {"do": np.array(["score"] * 2), "unused": [today] * 2})
    np.testing.assert_array_equal(batch.rewards, [1, 2])
    with pytest.raises(RewardError, match="column 'do' cannot be passed to rewards: date has no form"):
        pool.score(["?"], ["1"], {"do": [today]})


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, "the data has no column 'do'; it has none"),
        ({"doo": ["score"]}, "the data has no column 'do'; did you mean 'doo'"),
        ({"do": ["score"] * 2}, "'do' has 2 values for 1 prompts"),
        ({"do": ["score"], "prompts": ["?"]}, "has a column 'prompts', but rewards get that from the run"),
    ],
)
def test_columns_that_do_not_fit(pool, columns, message):
    with pytest.raises(RewardError, match=message):
        pool.score(["?"], ["1"], columns)


def test_several_rewards_weights_options_columns_and_async():
    specs = [
        spec("numbers", "a", 2.0),
        spec("answer_length", "b", 0.5, scale=np.float32(10.0)),
        spec("count_columns", "c", -1.0),
        spec("together", "d", 1.0),
        spec("act", "e", 4.0),
        spec("act", "logged", 0.0),
    ]
    columns = {"answer": ["x", "yy"], "bonus": np.array([1, 2]), "do": ["abstain", "raise"]}
    with RewardPool(specs, timeout=5.0) as pool:
        pool.ready(columns)
        good = pool.score(["?"] * 2, ["1", "2"], columns | {"do": ["abstain", "score"]})
        bad = pool.score(["?"] * 2, ["1", "bad"], columns)
    np.testing.assert_array_equal(good.parts[0], [1, 11, 3, 1, np.nan, np.nan])
    np.testing.assert_array_equal(good.parts[1], [2, 22, 3, 1, 2, 2])
    # 2 * 1 + 0.5 * 11 - 3 + 1;   2 * 2 + 0.5 * 22 - 3 + 1 + 4 * 2
    np.testing.assert_array_equal(good.rewards, [5.5, 21])
    np.testing.assert_array_equal(bad.valid, [True, False])
    np.testing.assert_array_equal(bad.rewards, [5.5, 0])
    crashed = {name: outcome["crashed"] for name, outcome in bad.outcomes.items()}
    assert crashed == {"a": 1, "b": 0, "c": 0, "d": 1, "e": 1, "logged": 1}
    assert len(bad.errors) == 4 and "ValueError: async (tests/rewards/functions.py:" in bad.errors[1]


def test_weight_zero_neither_validates_nor_spoils_a_sample():
    with RewardPool([spec("constant", "a"), spec("act", "b", 0.0)], workers=1) as pool:
        batch = pool.score(["?"] * 2, ["1", "5"], {"do": ["score", "raise"]})
        np.testing.assert_array_equal(batch.valid, [True, True])
    with RewardPool([spec("constant", "a", 0.0), spec("act", "b")], workers=1) as pool:
        batch = pool.score(["?"] * 2, ["1", "5"], {"do": ["score", "abstain"]})
        np.testing.assert_array_equal(batch.valid, [True, False])


def test_results_come_in_the_order_of_the_samples_for_any_number_of_workers():
    texts = [str(i) for i in range(12)]
    with RewardPool([spec("slow_first", seconds=0.3)], workers=3, chunk=2) as pool:
        np.testing.assert_array_equal(pool.score(texts, texts).rewards, np.arange(12))
        np.testing.assert_array_equal(pool.score(texts, texts).rewards, np.arange(12))


def test_failures_are_the_same_whatever_the_workers_and_chunks():
    do = ["raise", "score", "abstain", "os._exit", "nan", "score", "raise", "string", "score"]

    def score(workers, chunk):
        with RewardPool([spec("act", "a"), spec("act", "b")], workers=workers, chunk=chunk) as pool:
            return pool.score(list("abcdefghi"), ["1"] * 9, {"do": do})

    one, three = score(1, 9), score(3, 2)
    for field in ("rewards", "valid", "parts"):
        np.testing.assert_array_equal(getattr(one, field), getattr(three, field))
    assert one.outcomes == three.outcomes
    assert one.outcomes["a"] == {"scored": 3, "abstained": 1, "timed_out": 0, "crashed": 5}
    assert one.errors == three.errors
    # Two rewards with four kinds of failure each; five are told.
    assert len(one.errors) == 6 and one.errors[-1] == "and 3 more kinds of failure"
    assert one.errors[0].endswith("2 of 9 samples, first prompt 'a'")


def test_too_few_values_spoil_their_chunk():
    with RewardPool([spec("one_short_if_told")], workers=1, chunk=2) as pool:
        batch = pool.score(list("abcd"), [""] * 4, {"short": [False, False, True, False]})
    np.testing.assert_array_equal(batch.valid, [True, True, False, False])
    assert batch.errors[0].endswith("returned 1 values for 2 completions; 2 of 4 samples, first prompt 'c'")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("always_raises", r"ValueError: bad luck \(tests/rewards/functions.py:\d+\); .* failed on 8"),
        ("one_short", "returned 7 values for 8 completions; .* failed on 16"),
        ("one_float", "returned 1.0, expected a list of 8; .* failed on 16"),
        ("nothing", "returned None, expected a list of 8; .* failed on 16"),
    ],
)
def test_a_function_that_never_works_is_reported_at_its_first_batch(function, message):
    with (
        RewardPool([spec(function)], workers=1, chunk=8) as pool,
        pytest.raises(RewardError, match=message) as caught,
    ):
        pool.score(["?"] * 16, ["x"] * 16)
    assert "\n" not in str(caught.value)


def test_a_function_that_always_hangs_is_reported_after_a_few_samples():
    with (
        RewardPool([spec("always_hangs")], workers=2, timeout=0.15, chunk=16) as pool,
        pytest.raises(RewardError, match=r"timed out after 0.15 s; .* failed on 8$"),
    ):
        pool.score(["?"] * 128, ["x"] * 128)


def test_a_function_that_worked_may_fail_on_two_batches_in_a_row():
    def score(fine):
        return pool.score(["?"], ["x"], {"fine": [fine]})

    with RewardPool([spec("raises_until_told")], workers=1) as pool:
        for fine in (True, False, False, True, False, False):
            assert score(fine).valid == [fine]
        with pytest.raises(RewardError, match=r"ConnectionError: the judge is down .* 3 batches in a row"):
            score(False)


def test_timeouts_above_five_percent_warn():
    with RewardPool([spec("act")], workers=1, timeout=TIMEOUT) as pool:
        batch = pool.score(["?"] * 19, ["1"] * 19, {"do": ["score"] * 18 + ["hang"]})
        assert batch.warnings() == [
            "reward 'r': 1 of 19 samples (5%) timed out and do not train; raise the timeout or make it faster"
        ]
        assert batch.warnings(most=1 / 19) == []


@pytest.mark.parametrize(("size", "zero"), [("workers", 0), ("timeout", 0.0), ("chunk", 0)])
def test_sizes_of_zero_are_refused(size, zero):
    with pytest.raises(RewardError, match=f"{size} is {zero}, expected more than 0"):
        RewardPool([spec("act")], **{size: zero})


def test_a_table_gives_function_weight_and_options():
    table = {"function": "exact_match", "weight": 2, "after": "####"}
    assert RewardSpec.from_table("r", table) == RewardSpec("r", "exact_match", 2.0, {"after": "####"})
    with pytest.raises(RewardError, match="reward 'r': weight is '2', expected a number"):
        RewardSpec.from_table("r", table | {"weight": "2"})
    with pytest.raises(RewardError, match="reward 'r' has no `function`; known: exact_match, format, verifier"):
        RewardSpec.from_table("r", {"weight": 1.0})


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ([], "no reward is given"),
        ([spec("act"), spec("numbers")], "reward 'r' is given twice"),
        ([RewardSpec("r", "fromat")], "did you mean 'format'"),
        ([RewardSpec("r", "exact_match", options={"aftr": "#"})], "no option 'aftr'; did you mean 'after'"),
        ([spec("act", weight=float("nan"))], "weight is nan, expected a finite number"),
        ([spec("constant", value=datetime.date.today())], "option cannot be passed to rewards: date"),
    ],
)
def test_specs_are_checked_before_any_worker_starts(specs, message):
    with pytest.raises(RewardError, match=message):
        RewardPool(specs)


def test_a_module_beside_the_run_file_is_found(tmp_path):
    (tmp_path / "my_rewards.py").write_text("def score(completions):\n    return [len(c) for c in completions]")
    with RewardPool([RewardSpec("r", "my_rewards:score")], workers=1, paths=[tmp_path]) as pool:
        assert pool.score(["?"], ["abc"]).rewards == [3]


def test_warming_up_comes_before_the_clock():
    with RewardPool([spec("warm")], workers=1, timeout=0.4, warm_up=[f"{HERE}:import_slowly"]) as pool:
        assert pool.score(["?"], ["x"]).rewards == [1]
    with (
        RewardPool([spec("warm")], workers=1, warm_up=[f"{HERE}:always_raises"]) as pool,
        pytest.raises(RewardError, match=r"warm-up .*:always_raises: TypeError: .*missing 2 required"),
    ):
        pool.ready()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import numpyy", "cannot import my_rewards: ModuleNotFoundError: .*'numpyy' .*my_rewards.py:1"),
        ("def scores(completions): ...", "my_rewards.py has no 'score'; did you mean 'scores'"),
        ("import os; os._exit(4)", "ended while it imported my_rewards:score: it exited with status 4"),
        ("import time; time.sleep(60)", "importing my_rewards:score took longer than 1 s"),
    ],
)
def test_what_is_wrong_with_the_users_module_is_told_at_start(source, message, tmp_path):
    (tmp_path / "my_rewards.py").write_text(source)
    specs = [RewardSpec("r", "my_rewards:score")]
    with RewardPool(specs, paths=[tmp_path], start_timeout=1.0) as pool:
        with pytest.raises(RewardError, match=message) as caught:
            pool.ready()
        with pytest.raises(RewardError, match="pool is closed"):
            pool.ready()
    assert "\n" not in str(caught.value)
