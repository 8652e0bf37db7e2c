from pathlib import Path

from jaxrl_tok.io.metric_names import METRICS, page, undocumented


def test_the_page_in_the_docs_is_the_table():
    written = Path(__file__).parents[2] / "docs" / "metrics.md"
    assert written.read_text() == page(), "run: python -m jaxrl_tok.io.metric_names > docs/metrics.md"


def test_every_row_of_the_page_has_three_cells():
    rows = [line for line in page().splitlines() if line.startswith("| `")]
    assert len(rows) == len(METRICS)
    assert all(row.replace("\\|", "").count("|") == 4 for row in rows)


def test_names_with_a_part_of_their_own_are_documented_by_their_pattern():
    known = [
        "reward",
        "rewards/arithmetic/mean",
        "rewards/my.module:score/timed_out",
        "loss/kl",
        "eval/avg@8",
    ]
    assert undocumented(known) == []
    assert undocumented(["reward", "rewards/a/b/mean", "eval/avg@", "loss/", "clip_ratio"]) == [
        "clip_ratio",
        "eval/avg@",
        "loss/",
        "rewards/a/b/mean",
    ]
