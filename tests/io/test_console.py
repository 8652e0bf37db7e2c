import io

import pytest

from jaxrl_tok.io.console import RunConsole, shorten, step_line, visible
from jaxrl_tok.io.metrics import Completion

METRICS = {
    "reward": 0.43125,
    "eval/greedy": 0.52,
    "eval/avg@8": 0.4712,
    "frac_trainable": 0.75,
    "completions/clipped_ratio": 0.03,
    "loss": 0.01234,
    "entropy": 0.5,
    "kl": 0.00125,
    "clip_ratio/region_mean": 0.0042,
    "perf/tokens_per_second": 12345.6,
    "grad_norm": 1.0,
}


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


def test_a_step_is_one_line_with_its_fields_in_a_fixed_order():
    assert step_line("rl", 12, 200, METRICS) == (
        "rl  12/200 | reward 0.431 | trainable 75% | truncated 3% | loss 0.0123 | entropy 0.500 | "
        "kl 0.0013 | clipped 0.42% | tok/s 12,346 | held-out greedy 52.0% avg@8 47.1%"
    )


def test_a_step_without_a_metric_has_no_such_field():
    assert step_line("sft", 7, 9, {"loss": float("nan"), "time/step": 1.0}) == "sft 7/9 | loss nan"


def test_a_file_gets_whole_lines_without_bar_or_control_codes():
    file = io.StringIO()
    with RunConsole(file) as console:
        console.stage("rl", 200, done=10)
        console.step(11, METRICS)
        console.step(12, {"reward": 1.0})
        console.warn("truncated", "every completion was cut off; raise rollout.max_tokens")
    assert file.getvalue().splitlines() == [
        step_line("rl", 11, 200, METRICS),
        "rl  12/200 | reward 1.000",
        "warning: every completion was cut off; raise rollout.max_tokens",
    ]


def test_a_terminal_gets_a_bar_with_the_time_left_and_the_line_above_it():
    file = Terminal()
    with RunConsole(file) as console:
        console.stage("rl", 200, done=10)
        for step in (11, 12, 13):
            console.step(step, {"reward": 1.0})
        console.warn("kind", "careful")
    text = file.getvalue()
    assert "rl  13/200 | reward 1.000" in text
    assert " 13/200" in text.replace("rl  13/200", "")
    assert "it/s" in text
    assert "\x1b[33mwarning: careful" in text


def test_a_warning_of_a_kind_is_given_once():
    file = io.StringIO()
    console = RunConsole(file)
    for line in ("first", "second"):
        console.warn("a", line)
    console.warn("b", "third")
    assert file.getvalue().splitlines() == ["warning: first", "warning: third"]


def test_a_table_shows_completions_with_reward_and_advantage():
    file = io.StringIO()
    RunConsole(file).table(
        40,
        [
            Completion("3+4=", "3+4=7", 1.0, {}, 0.70714),
            Completion("[red]2+2=[/red]", "\x1b[31m5\n\u202e:smile:", 0.0, {}, -0.7, truncated=True),
            Completion("1+1=", "?", None, {}, None, outcome="timed_out"),
        ],
    )
    text = file.getvalue()
    lines = text.splitlines()
    assert lines[0].strip() == "step 40"
    assert max(map(len, lines)) <= 120

    def cells(word: str) -> list[str]:
        (line,) = (line for line in lines if word in line)
        return [cell.strip() for cell in line.strip("│|").split("│" if "│" in line else "|")]

    assert cells("3+4=7") == ["3+4=", "3+4=7", "1.00", "+0.71"]
    assert cells("2+2") == ["[red]2+2=[/red]", r"\x1b[31m5\n\u202e:smile: (cut off)", "0.00", "-0.70"]
    assert cells("1+1") == ["1+1=", "?", "timed_out", ""]
    assert "\x1b" not in text and "\u202e" not in text


def test_visible_keeps_what_prints_and_escapes_the_rest():
    assert visible("é 漢 [x] \\ ") == "é 漢 [x] \\ "
    assert visible("a\tb\r\n\x07\ud800") == r"a\tb\r\n\x07\ud800"


def test_shorten_leaves_out_the_middle():
    assert shorten("abcdef", 6) == "abcdef"
    assert shorten("0123456789", 6) == "01 [4 characters] 6789"
