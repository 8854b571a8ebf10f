"""`finetune up` with the real servers: they answer, and nothing is left after Ctrl-C."""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

UP = [sys.executable, "-m", "finetune_platform.cli", "up"]
READY_S = 120.0


@pytest.mark.slow
def test_up_serves_dagster_and_mlflow_until_interrupted(tmp_path: Path) -> None:
    log = tmp_path / "up.log"
    here = {**os.environ, "FINETUNE_HOME": str(tmp_path / "home"), "TASKS_DIR": str(tmp_path / "tasks")}
    with log.open("wb") as sink:
        up = subprocess.Popen(UP, stdout=sink, stderr=subprocess.STDOUT, env=here, cwd=tmp_path)
    try:
        deadline = time.monotonic() + READY_S
        while "Ctrl-C stops all" not in log.read_text() and up.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        places = dict(re.findall(r"^(Dagster|MLflow) +(http://\S+)", log.read_text(), re.M))
        assert places.keys() == {"Dagster", "MLflow"}, log.read_text()
        for place in places.values():
            with urllib.request.urlopen(place, timeout=10) as response:
                assert response.status == 200
        family = psutil.Process(up.pid).children(recursive=True)
        assert len(family) >= 4
    finally:
        up.send_signal(signal.SIGINT)
        up.wait(timeout=60)
    assert up.returncode == 0
    _, alive = psutil.wait_procs(family, timeout=5)
    assert alive == []
    assert (tmp_path / "home" / "dagster" / "dagster.yaml").is_file()
