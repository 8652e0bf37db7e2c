import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "bench_step.py"


@pytest.mark.slow
def test_it_takes_steps_and_reports_every_phase(tmp_path):
    """Nothing else calls the programs of a run in the tool's order: it must follow them."""
    out = tmp_path / "out.json"
    subprocess.run([sys.executable, TOOL, "--steps", "2", "--json", out], check=True, timeout=300)
    found = json.loads(out.read_text())
    assert found["steps"] == 2
    assert all(found[name] > 0 for name in ("step_s_median", "rollout_s", "ref_s", "train_s", "rollout_tok_s"))
