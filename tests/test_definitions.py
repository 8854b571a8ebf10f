"""The code location: what it serves, how fast and how light it loads, and that Dagster accepts it both ways."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from dagster import AssetKey
from syrupy.assertion import SnapshotAssertion

from finetune_platform.definitions import build_defs
from finetune_platform.errors import BadInput
from finetune_platform.settings import Settings, settings
from finetune_platform.task_file import load_task

REPOSITORY = Path(__file__).parent.parent
HEAVY = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "great_expectations",
    "mlflow",
    "ray",
    "daft",
    "matplotlib",
    "scipy",
    "apprise",
    "boto3",
)


def python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_the_demo_task_has_these_assets_checks_jobs_and_sensors(snapshot: SnapshotAssertion) -> None:
    defs = build_defs(tasks=[load_task(REPOSITORY / "tasks" / "contract_entities.yaml")])
    graph = defs.resolve_asset_graph()
    assets = {
        key.to_user_string(): {
            "group": graph.get(key).group_name,
            "parents": sorted(parent.to_user_string() for parent in graph.get(key).parent_keys),
            "owners": sorted(graph.get(key).owners),
            "kinds": sorted(graph.get(key).kinds),
            "pool": sorted(graph.get(key).pools),
            "code version": graph.get(key).code_version,
            "described": bool(graph.get(key).description),
            "checks": {
                check.name: "blocking" if graph.get_check_spec(check).blocking else "warning"
                for check in sorted(graph.get_check_keys_for_assets({key}))
            },
        }
        for key in sorted(graph.get_all_asset_keys())
    }
    repository = defs.get_repository_def()
    served = {
        "assets": assets,
        "jobs": sorted(name for name in repository.job_names if not name.startswith("__")),
        "schedules": {s.name: s.cron_schedule for s in repository.schedule_defs},
        "sensors": {s.name: s.default_status.value for s in repository.sensor_defs},
    }
    assert served == snapshot


def test_definitions_are_those_of_the_tasks_folder(settings_env: Settings, task_file: object) -> None:
    task_file(name="one")  # type: ignore[operator]
    task_file(name="two")  # type: ignore[operator]
    keys = build_defs().resolve_all_asset_keys()
    assert {key.path[0] for key in keys} == {"one", "two"}
    assert AssetKey(["two", "registered_adapter"]) in keys


def test_no_task_file_is_an_empty_location(settings_env: Settings) -> None:
    assert list(build_defs().resolve_all_asset_keys()) == []


def test_a_wrong_task_file_keeps_the_location_from_loading(settings_env: Settings, task_file: object) -> None:
    task_file(name="good")  # type: ignore[operator]
    task_file(name="bad", descripton="typo")  # type: ignore[operator]
    with pytest.raises(BadInput, match=r"bad\.yaml:\d+: descripton: unknown key; did you mean \"description\""):
        build_defs()


def test_no_password_stands_in_what_the_ui_shows(
    settings_env: Settings, task_file: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dagster._core.remote_representation.external_data import RepositorySnap
    from dagster._serdes import serialize_value

    monkeypatch.setenv("DATABASE_URL", "postgresql://user:hunter2@127.0.0.1/db")
    monkeypatch.setenv("NOTIFY_URLS", "ops=json://user:hunter2@127.0.0.1")
    settings.cache_clear()
    task_file(name="one")  # type: ignore[operator]
    shown = serialize_value(RepositorySnap.from_def(build_defs().get_repository_def()))
    assert "one_chain" in shown
    assert "hunter2" not in shown


def test_the_location_loads_nothing_heavy_in_under_three_seconds() -> None:
    code = f"""
import json, sys, time
started = time.process_time()
import finetune_platform.definitions as module
module.build_defs().get_repository_def()
print(json.dumps({{"seconds": time.process_time() - started, "heavy": [m for m in {HEAVY!r} if m in sys.modules]}}))
"""
    found = json.loads(python(code))
    assert found["heavy"] == []
    # Processor time: wall time on a busy machine says nothing of the code.
    assert found["seconds"] < 3


@pytest.mark.parametrize(
    "arguments", [["-w", "workspace.yaml"], ["-m", "finetune_platform.definitions"]], ids=["workspace", "module"]
)
def test_dagster_validates_the_location(arguments: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dagster", "definitions", "validate", *arguments],
        env={**os.environ, "DAGSTER_HOME": str(tmp_path), "FINETUNE_HOME": str(tmp_path / "home")},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Validation successful" in done.stdout + done.stderr
