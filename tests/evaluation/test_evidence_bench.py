"""The bench script runs, and tells what it found in the agreed form."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_quick_run_ends_with_one_json_object() -> None:
    command = [sys.executable, "bench/evidence.py", "gates", "--quick", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert set(result) == {"name", "figures", "targets", "ok"}
    assert {name.partition(",")[0] for name in result["figures"]} >= set(result["targets"])
