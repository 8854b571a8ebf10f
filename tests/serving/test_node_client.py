"""OpenAI's official client for Node against the running gateway, installed as its lock file says."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from gateway_server import running_gateway
from upper_engine import Upper

from finetune_platform.settings import Settings
from finetune_platform.task_file import load_task

CLIENT = Path(__file__).parent / "node_client"
OLDEST_NODE = 18
UNREACHABLE = ("ENOTFOUND", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "EAI_AGAIN", "ENETUNREACH", "network")


@pytest.fixture(scope="module")
def installed(package_cache: Path) -> Path:
    """A folder outside the tree with the script and, once installed, what it imports."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True, timeout=30).stdout
    if int(version.removeprefix("v").split(".")[0]) < OLDEST_NODE:
        pytest.skip(f"Node {OLDEST_NODE} or newer is needed, this is {version.strip()}")
    folder = package_cache / "node_client"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        wanted = (CLIENT / "package-lock.json").read_bytes()
        done = folder / "installed-lock.json"
        for name in ("package.json", "package-lock.json", "session.mjs"):
            shutil.copy(CLIENT / name, folder / name)
        if not done.exists() or done.read_bytes() != wanted:
            command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=1"]
            ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
            if ended.returncode != 0 and any(word in ended.stderr for word in UNREACHABLE):
                pytest.skip("the npm registry cannot be reached")
            assert ended.returncode == 0, ended.stderr
            done.write_bytes(wanted)
    return folder


def test_an_application_in_node_lists_asks_streams_and_sends_feedback(
    installed: Path, settings_env: Settings, task_file: Any
) -> None:
    task = load_task(task_file())
    with running_gateway(settings_env, [task], {task.name: Upper()}) as running:
        given = {"BASE_URL": f"{running.url}/v1", "API_KEY": running.key(), "MODEL": task.name}
        ended = subprocess.run(
            ["node", "session.mjs"],
            cwd=installed,
            env={**os.environ, **given},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert ended.returncode == 0, ended.stderr
    seen = json.loads(ended.stdout)
    assert seen["models"] == ["ticket_topics"]
    assert seen["whole"]["id"].startswith("in-b-base-") and seen["adapter"] == "base"
    assert (seen["whole"]["text"], seen["whole"]["tokens"]) == ("ONE TWO THREE", 5)
    assert seen["streamed"] == {"pieces": ["ONE", "TWO", "THREE"], "finish": "stop", "tokens": 5}
    assert seen["feedback"] == {"status": "kept", "counted": True}
    assert seen["refused"] == {"authentication": True, "status": 401, "type": "authentication_error"}
    assert seen["missing"] == {"notFound": True, "code": "model_not_found", "param": "model"}
