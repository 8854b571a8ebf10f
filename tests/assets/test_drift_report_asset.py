"""The drift report in Dagster, over a real log, with the real embedding model: gathered, quiet, alarm; then by CLI."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from dagster import AssetKey, DagsterInstance
from drifting_traffic import log, questions
from typer.testing import CliRunner

from finetune_platform.cli import app
from finetune_platform.database import Database
from finetune_platform.definitions import build_defs
from finetune_platform.labeling.labels import SCHEMA, labels_path
from finetune_platform.lake import Lake
from finetune_platform.notifications.outbox import newest
from finetune_platform.settings import Settings
from finetune_platform.task_file import load_task

KEY = AssetKey(["ticket_topics", "drift_report"])


def look(path: Path) -> dict[str, Any]:
    """The metadata of a run of the task's drift job."""
    job = build_defs(tasks=[load_task(path)]).resolve_job_def("ticket_topics_drift")
    with DagsterInstance.ephemeral() as instance:
        assert job.execute_in_process(instance=instance).success
        event = instance.get_latest_materialization_event(KEY)
        assert event is not None and event.asset_materialization is not None
        return {name: value.value for name, value in event.asset_materialization.metadata.items()}


def page_of(told: dict[str, Any]) -> str:
    return Path(told["report"].removeprefix("file://")).read_text(encoding="utf-8")


def command(*arguments: str, expect: int = 0) -> str:
    told = CliRunner().invoke(app, ["drift", *arguments])
    assert told.exit_code == expect, told.output + repr(told.exception)
    return told.stdout


@pytest.fixture
def path(settings_env: Settings, task_file: Any, embedding_model: Path) -> Path:
    drift = {"reference_rows": 120, "embedder": str(embedding_model), "settle_minutes": 0}
    return Path(task_file(drift=drift, serving={"log_share": 1.0}))


def test_traffic_that_changes_is_an_alarm_in_dagster_and_on_the_command_line(
    settings_env: Settings, path: Path
) -> None:
    lake, start = Lake(settings_env.lake_url), datetime.now(UTC) - timedelta(days=5)
    home = questions("home", 216)
    log(lake, home[:60], start)
    first = look(path)
    assert (first["verdict"], first["headline"]) == ("gathering", "gathering the reference of base: 60 of 120 rows")
    log(lake, home[60:180], start + timedelta(days=1))
    second = look(path)
    assert (second["verdict"], second["tick"]) == ("quiet", 1) and second["evidence"] < 10
    log(lake, home[180:] + questions("strange", 60), start + timedelta(days=2))
    third = look(path)
    assert (third["verdict"], third["tick"]) == ("alarm", 2) and third["evidence"] >= third["limit"]
    assert third["parent/drift_reference"] == second["parent/drift_reference"]
    loudest = {record.data["channel"] for record in third["channels"].records[:3]}
    assert loudest >= {"novelty of questions", "unknown words"}

    # Looked at again the alarm stands, and is told once.
    again = look(path)
    assert again["verdict"] == "alarm"
    database = Database(settings_env.database_url)
    [news] = newest(database, "ticket_topics", 9)
    database.close()
    assert news.key == f"alarm:ticket_topics:{third['parent/drift_reference']}" and news.what.startswith("drift since")

    assert third["suspected cause"].startswith("input shift: The questions changed")
    assert "Our flight to Lisbon" in page_of(third) and "Suspected: input shift" in page_of(third)
    assert third["report"].endswith(f"{third['id']}/report.html") and "Gathering" in page_of(first)

    shown = command("ticket_topics")
    assert "suspected: input shift" in shown and "report.html" in shown and "stranger than 98%" in shown
    assert "alarm" in shown and "novelty of questions" in shown and "█" in shown
    told = json.loads(command("ticket_topics", "--json"))
    assert (told["artifact_id"], told["status"]) == (again["id"], "alarm")
    assert [(tick["number"], tick["alarm"]) for tick in told["history"]] == [(1, False), (2, True)]
    assert told["changes"]["novel"]["rows"] >= 60
    status = CliRunner().invoke(app, ["status", "ticket_topics"])
    assert "traffic       alarm: drift since" in status.output, status.output
    assert "another is gathered from now on" in command("ticket_topics", "--anew")
    assert look(path)["headline"] == "gathering the reference of base: 0 of 120 rows"


def test_before_the_first_look_the_command_says_how(path: Path) -> None:
    told = CliRunner().invoke(app, ["drift", "ticket_topics"])
    assert told.exit_code == 2 and "nobody has looked at its traffic yet" in told.output
    assert "finetune drift ticket_topics --look" in " ".join(told.output.split())


def test_a_look_by_hand_shows_what_it_found(settings_env: Settings, path: Path) -> None:
    log(Lake(settings_env.lake_url), questions("home", 30), datetime.now(UTC) - timedelta(days=1))
    assert "gathering the reference of base: 30 of 120 rows" in command("ticket_topics", "--look")


def label(lake: Lake, first: int, scores: list[bool]) -> None:
    """What experts decided on rows of the random part: the answer is "card", and right or not."""
    said = [
        {
            "label_id": f"lb-{first + n}",
            "label_from": "expert",
            "trust": 1.0,
            "interaction_id": f"in-label-{first + n}",
            "batch_id": f"rb-{first}",
            "messages": '[{"role": "user", "content": "My card is blocked"}]',
            "answer": "card" if right else "login",
            "suggestion": "card",
            "adapter_id": "base",
            "selection": "random",
            "inclusion_probability": 0.5,
            "decided_at": datetime.now(UTC),
        }
        for n, right in enumerate(scores)
    ]
    lake.append(labels_path("ticket_topics"), pa.Table.from_pylist(said, schema=SCHEMA))


def test_quality_that_falls_is_an_alarm_with_its_figures_everywhere(
    settings_env: Settings, task_file: Any, embedding_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_judge.py").write_text("def short(question, answer):\n    return 0.9 if len(answer) < 6 else 0.2\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    drift = {"reference_rows": 120, "embedder": str(embedding_model), "settle_minutes": 0}
    judge = {"scorer": "my_judge:short", "max_rows": 30, "price_per_call": 0.5}
    path = Path(task_file(drift=drift, judge=judge, serving={"log_share": 1.0}))
    lake = Lake(settings_env.lake_url)
    log(lake, questions("home", 40), datetime.now(UTC) - timedelta(days=1))
    label(lake, 0, ([True] * 9 + [False]) * 20)
    first = look(path)
    assert first["verdict"] == "gathering" and first["judge"] == {
        "scored": 230, "unreadable": 0, "failed": 0, "problem": "", "cost_of_30_days": 115.0, "currency": "USD",
    }  # fmt: skip
    rows = {record.data["metric"]: record.data for record in first["performance"].records}
    assert (rows["exact_match"]["labels"], rows["exact_match"]["estimate"]) == (200, "0.900")
    assert (rows["exact_match"]["baseline"], rows["exact_match"]["degraded"]) == ("0.900", False)
    assert rows["judge"]["labels"] == 30

    label(lake, 200, [True, False] * 60)
    second = look(path)
    assert second["verdict"] == "alarm" and second["headline"].startswith("exact_match 0.75 (0.7")
    database = Database(settings_env.database_url)
    [news] = [one for one in newest(database, "ticket_topics", 9) if "exact_match" in one.key]
    database.close()
    assert news.key.startswith("alarm:ticket_topics:base exact_match 20") and "was 0.90" in news.what
    page = page_of(second)
    assert "Quality in production" in page and "degraded, " in page and page.count('class="interval"') >= 4
    shown = command("ticket_topics")
    assert "exact_match" in shown and "judge: 120 answers scored" in shown and "0.900" in shown
    told = json.loads(command("ticket_topics", "--json"))
    assert [one["metric"] for one in told["performance"] if one["degraded"]] == ["exact_match", "token_f1"]
    command("ticket_topics", "--anew")
    assert look(path)["verdict"] == "gathering"
