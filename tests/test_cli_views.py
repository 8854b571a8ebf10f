"""What a run, a lineage, a trace and a result look like: on a terminal, in a pipe, as JSON."""

import io
import json
import time
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from finetune_platform.cli import app
from finetune_platform.commands.installation import open_database, open_lake
from finetune_platform.commands.live import Screen, StageLine, stage_view
from finetune_platform.commands.run import stages_between
from finetune_platform.errors import BadInput
from finetune_platform.inference.base_models import ResolvedModel
from finetune_platform.progress import StageEvent
from finetune_platform.settings import Settings

STAGES = ("raw_examples", "curated_dataset", "trained_adapter")


def event(stage: str, kind: str, message: str = "", at: float = 0.0) -> StageEvent:
    return StageEvent(stage, kind, message, at or time.time())  # type: ignore[arg-type]


def drawn(screen: Screen) -> list[str]:
    console = Console(file=io.StringIO(), width=120, color_system=None)
    console.print(screen)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def test_a_line_a_stage_from_pending_to_done() -> None:
    screen = Screen(STAGES)
    assert [line.split()[-1] for line in drawn(screen)] == list(STAGES)
    now = time.time()
    screen.take(event("raw_examples", "skipped", "raw-1 is in place"))
    screen.take(event("curated_dataset", "started", "", now - 65))
    screen.take(event("curated_dataset", "succeeded", "ds-1", now))
    screen.take(event("trained_adapter", "started", "", now - 9))
    screen.take(event("trained_adapter", "log", "training 48/116 steps | 11.8 rows/s | 00:42 left | loss 0.731"))
    first, second, third = drawn(screen)
    assert "reused" in first and "raw-1 is in place" in first
    assert "01:05" in second and "done" in second
    assert "48/116 steps | 11.8 rows/s | 00:42 left | loss 0.731" in third and "━" in third


def test_a_failed_stage_shows_its_whole_message() -> None:
    screen = Screen(STAGES)
    screen.take(event("raw_examples", "started"))
    screen.take(event("raw_examples", "failed", "a.jsonl:3: not JSON\n  mend: correct the line"))
    lines = drawn(screen)
    assert "✗" in lines[0] and "failed" in lines[0]
    assert lines[-2:] == ["a.jsonl:3: not JSON", "  mend: correct the line"]


def test_a_log_line_does_not_hide_the_bar() -> None:
    line = StageLine("trained_adapter")
    line.take(event("trained_adapter", "started"))
    line.take(event("trained_adapter", "log", "training 1/2 steps | 1.0 rows/s | 00:01 left"))
    line.take(event("trained_adapter", "log", "checkpoint saved"))
    assert line.progress is not None and line.progress.done == 1


def test_in_a_pipe_every_event_is_a_line_and_progress_is_thinned() -> None:
    sink = io.StringIO()
    began = time.time()
    with stage_view(STAGES, console=Console(file=sink, width=60)) as send:
        send(event("raw_examples", "skipped", "raw-1 is in place", began))
        send(event("trained_adapter", "started", "", began + 1))
        for step in range(1, 101):
            line = f"training {step}/100 steps | 11.8 rows/s | 00:42 left | a long detail that must not be wrapped"
            send(event("trained_adapter", "log", line, began + 1 + step * 0.3))
        send(event("trained_adapter", "succeeded", "tr-1 [done]", began + 40))
    lines = sink.getvalue().splitlines()
    assert lines[0] == "[00:00] raw_examples: reused raw-1 is in place"
    assert lines[-1] == "[00:40] trained_adapter: succeeded tr-1 [done]"
    steps = [line for line in lines if "training" in line]
    assert 3 <= len(steps) <= 5 and "training 100/100" in steps[-1]


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with stage_view(STAGES, as_json=True) as send:
        send(event("raw_examples", "started", "", 1.5))
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {"stage": "raw_examples", "kind": "started", "message": "", "timestamp": 1.5}


def test_the_stages_of_a_run() -> None:
    assert stages_between(None, None)[0] == "raw_examples" and len(stages_between(None, None)) == 5
    assert stages_between("curated_dataset", "trained_adapter") == ("curated_dataset", "trained_adapter")
    with pytest.raises(BadInput, match="comes after"):
        stages_between("trained_adapter", "curated_dataset")


@pytest.fixture
def registered(settings_env: Settings, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A registered adapter in the installation; its id."""
    import hashlib

    monkeypatch.syspath_prepend(Path(__file__).parent / "registry")
    from made_chains import ChainFactory

    from finetune_platform.inference.base_models import load_tokenizer

    template = str(load_tokenizer(tiny_model).chat_template)
    model = ResolvedModel(tiny_model, "tiny", "r0", hashlib.sha256(template.encode()).hexdigest())
    chain = ChainFactory(open_lake(), open_database(), model)()
    return str(chain.register(settings_env.mlflow_tracking_uri).artifact_id)


def test_lineage_trace_and_result_of_a_registered_adapter(registered: str) -> None:
    """One test: making MLflow's tables takes seconds."""
    runner = CliRunner()
    tree = runner.invoke(app, ["lineage", registered])
    assert tree.exit_code == 0, tree.output
    places = [tree.output.index(told) for told in (registered, "ev-rome0", "tr-rome0", "ds-rome", "raw-rome")]
    assert places == sorted(places)
    assert "data/cities.jsonl" in tree.output and "a" * 64 in tree.output and "champion since" in tree.output

    rows = json.loads(runner.invoke(app, ["lineage", registered, "--rows", "--json"]).stdout)
    assert len(rows["rows"]) == 6 and rows["steps"][0]["artifact_id"] == registered
    listed = runner.invoke(app, ["lineage", "cities", "--rows"]).output.splitlines()[-6:]
    assert [line.split("\t")[0] for line in listed] == ["train"] * 4 + ["validation", "test"]

    forward = runner.invoke(app, ["trace", "cities.jsonl:2"]).output
    assert "in train" in forward and "learned from it" in forward and registered in forward
    tested = runner.invoke(app, ["trace", "cities.jsonl:6"]).output
    assert "in test" in tested and "did not learn from it" in tested
    duplicate = runner.invoke(app, ["trace", "cities.jsonl:7"]).output
    assert "rejected at exact_duplicates" in duplicate
    assert json.loads(runner.invoke(app, ["trace", "cities.jsonl:7", "--json"]).stdout)["row"] == "cities.jsonl:7"

    shown = result_screen()
    for told in ("exact match 0.80", "new adapter", "0.800 [0.700, 0.900]", "base, long prompt", registered):
        assert told in shown
    for told in ("report.html", "model cities at sqlite", f"finetune lineage {registered}", "finetune up"):
        assert told in shown


def result_screen() -> str:
    from made_chains import make_task

    from finetune_platform.commands.run import latest_manifest
    from finetune_platform.commands.summary import render_result

    lake, database, task = open_lake(), open_database(), make_task()
    evaluation = latest_manifest(lake, database, task, "evaluation_report")
    adapter = latest_manifest(lake, database, task, "registered_adapter")
    console = Console(file=io.StringIO(), width=300)
    console.print(render_result(task, evaluation, adapter))  # type: ignore[arg-type]
    return str(console.file.getvalue())  # type: ignore[attr-defined]
