"""docs/add_a_reward.md does what it says."""

import re
import tomllib
from pathlib import Path

import numpy as np

from jaxrl_tok.rewards.pool import RewardPool, RewardSpec

PAGE = (Path(__file__).parents[2] / "docs" / "add_a_reward.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_function_and_the_table_work_together(tmp_path):
    (tmp_path / "my_rewards.py").write_text(blocks("python")[0])
    tables = tomllib.loads(blocks("toml")[0])["reward"]
    specs = [RewardSpec.from_table(name, table) for name, table in tables.items()]
    with RewardPool(specs, workers=1, paths=[tmp_path]) as pool:
        completions = ["it is 2", "2.009", "2.02", "two", "", "2"]
        batch = pool.score(["1 + 1 ="] * 6, completions, {"answer": [2, "2", 2, 2, 2, None]})
    np.testing.assert_array_equal(batch.rewards, [1, 1, 0, 0, 0, 0])
    assert batch.outcomes["correct"] == {"scored": 5, "abstained": 1, "timed_out": 0, "crashed": 0}


def test_the_program_prints_what_its_comment_says(capsys):
    exec(blocks("python")[1], {})
    assert capsys.readouterr().out.strip() == "[1. 0.] [ True  True] 2"
    assert "# [1. 0.] [ True  True] 2" in PAGE
