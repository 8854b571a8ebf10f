"""The commands as a person types them: what they say, what they write, how they fail, what scripts read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from finetune_platform.cli import app
from finetune_platform.settings import Settings

TaskFile = Callable[..., Path]
runner = CliRunner()


def call(*arguments: str, expect: int = 0) -> str:
    result = runner.invoke(app, list(arguments))
    assert result.exit_code == expect, result.output + repr(result.exception)
    return result.output


def call_json(*arguments: str, expect: int = 0) -> Any:
    result = runner.invoke(app, [*arguments, "--json"])
    assert result.exit_code == expect, result.output + repr(result.exception)
    return json.loads(result.stdout)


@pytest.fixture
def tiny_task(task_file: TaskFile, settings_env: Settings, tiny_model: Path) -> Path:
    """A task all of whose parts are there."""
    return task_file(base_model={"uri": str(tiny_model)})


def test_every_command_has_help() -> None:
    told = call("--help")
    for command in ("init", "validate", "run", "demo", "up", "status", "lineage", "trace", "doctor"):
        assert command in told
        assert "Usage" in call(command, "--help")


def test_init_writes_a_file_that_only_lacks_the_data(settings_env: Settings) -> None:
    told = call("init", "cities")
    path = settings_env.tasks_dir / "cities.yaml"
    assert str(path) in told.replace("\n", "") and "finetune validate cities" in told
    (checked,) = call_json("validate", "cities", expect=2)["tasks"]
    (problem,) = checked["problems"]
    assert problem["problem"].startswith("../data/cities.jsonl: no such file")
    data = settings_env.tasks_dir.parent / "data" / "cities.jsonl"
    data.parent.mkdir()
    turn = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    data.write_text(json.dumps(turn) + "\n")
    assert call_json("validate", "cities")["ok"] is True


def test_init_never_overwrites(settings_env: Settings) -> None:
    call("init", "cities")
    path = settings_env.tasks_dir / "cities.yaml"
    path.write_text("mine")
    assert "exists; nothing was changed" in call("init", "cities", expect=2)
    assert path.read_text() == "mine"
    assert [p.name for p in settings_env.tasks_dir.iterdir()] == ["cities.yaml"]


@pytest.mark.parametrize("name", ["Support Tickets", "9lives", "a-b", "../evil", ""])
def test_init_refuses_a_name_that_no_task_may_have(settings_env: Settings, name: str) -> None:
    assert "not a task's name" in call("init", name, expect=2)
    assert not settings_env.tasks_dir.exists()


def test_validate_a_right_task(tiny_task: Path) -> None:
    assert f"finetune run {tiny_task.stem}" in call("validate")
    assert call_json("validate", tiny_task.stem) == call_json("validate", str(tiny_task))


@pytest.mark.parametrize(
    ("overrides", "severity", "told"),
    [
        ({"sources": [{"uri": "data/ticket.jsonl", "format": "messages"}]}, "error", 'did you mean "tickets.jsonl"?'),
        ({"sources": [{"uri": "data/tickets.jsonl", "format": "messages"}]}, "warning", "data/tickets.jsonl:1: "),
        ({"sources": [{"uri": "lake:x/raw/", "format": "messages"}]}, "error", "lake:x/raw/: no such file"),
        ({"base_model": {"uri": "./absent"}}, "error", "base_model.uri"),
        ({"base_model": {"uri": "lake:base_models/absent"}}, "error", "base_models/absent: no model there"),
        ({"base_model": {"uri": "package://x/y.gguf", "sha256": "0" * 64}}, "error", "not package://NAME==VERSION"),
        ({"evaluation": {"metrics": ["no.such:score"], "primary_metric": "no.such:score"}}, "error", "no.such:score"),
        ({"schedule": {"cron": "0 25 * * 1"}}, "error", 'hour "25" is not within 0-23'),
        ({"owners": []}, "warning", "owners: nobody"),
        (
            {"evaluation": {"gates": [{"metric": "exact_match", "threshold": 0.5, "slice": "difficulty=hard"}]}},
            "warning",
            "slice difficulty=hard",
        ),
        ({"curation": {"sed": 1}}, "error", 'did you mean "seed"?'),
    ],
)
def test_validate_tells_what_is_wrong(
    task_file: TaskFile, settings_env: Settings, tiny_model: Path, overrides: dict[str, Any], severity: str, told: str
) -> None:
    path = task_file(**{"base_model": {"uri": str(tiny_model)}, **overrides})
    (checked,) = call_json("validate", path.stem, expect=2 if severity == "error" else 0)["tasks"]
    found = [problem for problem in checked["problems"] if told in problem["problem"]]
    assert found, checked
    assert {problem["severity"] for problem in found} == {severity}
    assert all(problem["mend"] for problem in found)
    assert checked["ok"] is (severity == "warning")


def test_validate_tells_everything_at_once(task_file: TaskFile, settings_env: Settings) -> None:
    task_file(sources=[{"uri": "a.jsonl", "format": "messages"}, {"uri": "b.jsonl", "format": "messages"}], owners=[])
    told = call("validate", expect=2)
    for place in ("a.jsonl", "b.jsonl", "no-such-model", "owners: nobody"):
        assert place in told


def test_validate_finds_two_files_of_one_name(tiny_task: Path) -> None:
    tiny_task.with_name("copy.yaml").write_text(tiny_task.read_text())
    checked = call_json("validate", expect=2)["tasks"]
    assert [task["ok"] for task in checked] == [True, False]
    assert "ticket_topics is taken by" in checked[1]["problems"][0]["problem"]


def test_one_broken_file_does_not_hide_another_task(tiny_task: Path) -> None:
    tiny_task.with_name("broken.yaml").write_text("name: [")
    assert call_json("validate", tiny_task.stem)["ok"] is True
    assert call_json("status", tiny_task.stem)["tasks"][0]["task"] == tiny_task.stem


def test_an_unknown_task_suggests_the_nearest(tiny_task: Path) -> None:
    for command in ("status", "validate", "run"):
        assert 'did you mean "ticket_topics"?' in call(command, "ticket_topic", expect=2)


def test_no_task_says_how_to_begin(settings_env: Settings) -> None:
    for command in ("status", "validate"):
        assert "finetune init NAME" in call(command, expect=2)


def test_run_refuses_stages_that_are_not(tiny_task: Path) -> None:
    assert 'did you mean "trained_adapter"?' in call("run", tiny_task.stem, "--from", "trained_adaptr", expect=2)
    told = call("run", tiny_task.stem, "--from", "registered_adapter", "--to", "raw_examples", expect=2)
    assert "comes after" in told


def test_status_before_the_first_run(tiny_task: Path) -> None:
    (task,) = call_json("status")["tasks"]
    assert [asset["state"] for asset in task["assets"]] == ["missing"] * 5
    assert "finetune run ticket_topics" in call("status")


def test_lineage_and_trace_of_what_is_not_there(tiny_task: Path) -> None:
    assert "no artifact has this id" in call("lineage", "ad-0", expect=2)
    assert "no recorded reading" in call("trace", "tickets.jsonl:1", expect=2)


def test_a_setting_that_cannot_be(settings_env: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from finetune_platform.settings import settings

    monkeypatch.setenv("LAUNCHER", "rocket")
    settings.cache_clear()
    told = call("status", expect=2)
    assert "LAUNCHER" in told and "rocket" in told


def test_debug_shows_the_traceback(settings_env: Settings) -> None:
    result = runner.invoke(app, ["--debug", "status"])
    assert type(result.exception).__name__ == "BadInput"


def test_doctor_of_a_healthy_installation(tiny_task: Path) -> None:
    found = call_json("doctor")
    states = {check["name"]: check["state"] for check in found["checks"]}
    assert found["ok"] is True
    assert {"lake", "database", "mlflow", "tasks", "disk", "memory", "gpu", "versions", "python"} <= states.keys()
    assert "fail" not in states.values()
    assert list(Path(Settings().lake_url).rglob("*")) == [], "the write check leaves nothing behind"


def test_doctor_tells_what_fails_and_goes_on(tiny_task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from finetune_platform.settings import settings

    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LAKE_URL", str(tmp_path / "file" / "lake"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    tiny_task.write_text("name: [")
    settings.cache_clear()
    found = call_json("doctor", expect=1)
    failed = {check["name"]: check for check in found["checks"] if check["state"] == "fail"}
    assert failed.keys() == {"lake", "mlflow", "tasks"}
    assert all(check["mend"] for check in failed.values())
    assert "✗ lake" in call("doctor", expect=1)
