"""Ensembles: which task a text goes to, how that is learnt and judged, and one name of several over HTTP."""

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests
import yaml
from answering_engine import AnsweringEngine, Manner
from gateway_server import Running, running_gateway
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from finetune_platform.cli import app
from finetune_platform.commands.installation import open_database, open_lake
from finetune_platform.errors import BadInput
from finetune_platform.manifests import DatasetManifest
from finetune_platform.rows import Example, Message
from finetune_platform.serving.ensemble_build import held_out
from finetune_platform.serving.ensemble_file import find_ensembles
from finetune_platform.serving.ensemble_router import decided, probabilities
from finetune_platform.settings import Settings
from finetune_platform.task_file import load_task

SHOPS = [
    f"{first}{second}" for first in ("Al", "Be", "Co", "Du", "El", "Fa") for second in ("ma", "ni", "ro", "sta", "vo")
]
TEXTS = {
    "cards": "My credit card was declined when I wanted to pay at {}.",
    "logins": "The app locked me out and I forgot the password of {}.",
    "tickets": "When do you open on Sunday, and is there parking near {}?",
}
SPLITS = {"train": SHOPS[:20], "validation": SHOPS[20:25], "test": SHOPS[25:]}
TASKS = ["cards", "logins", "tickets"]
runner = CliRunner()


def put_dataset(task: str, splits: dict[str, Sequence[str]] = SPLITS) -> None:  # type: ignore[assignment]
    """A dataset of the task as curation leaves it, with one question a shop."""
    manifest = DatasetManifest(
        artifact_id=f"ds-{task}",
        task=task,
        code_version="1",
        splits={},
        rejected=0,
        funnel=[],
        strata={},
        tokens={},
        base_model="tiny",
    )
    lake = open_lake()
    for split, shops in splits.items():
        rows = []
        for row, shop in enumerate(shops):
            asked = Message(role="user", content=TEXTS[task].format(shop))
            messages = [asked, Message(role="assistant", content=task)]
            rows.append(Example(messages=messages, source_uri="x", source_row=row).record())
        # What a task learns from beside its conversations is no example of what people ask it.
        rows.append(Example(kind="text", messages=[], text="A guide.", source_uri="y", source_row=1).record())
        table = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), table)
        lake.put(f"{manifest.path}/{split}.parquet", table.getvalue())
    lake.put(f"{manifest.path}/manifest.json", manifest.to_bytes())
    open_database().record_artifact(manifest, "curated_dataset", "here", None)


@pytest.fixture
def write(settings_env: Settings, task_file: Any, tiny_model: Path) -> Any:
    """Writes the ensemble file `support` of three tasks; keywords replace keys."""
    for task in TASKS:
        task_file(name=task)

    def written(**changed: Any) -> Path:
        values = {
            "name": "support",
            "specialists": ["cards", "logins"],
            "general": "tickets",
            "embedding_model": str(tiny_model),
            **changed,
        }
        path = settings_env.tasks_dir / "ensembles" / "support.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump({k: v for k, v in values.items() if v is not None}, sort_keys=False))
        return path

    return written


def call(*arguments: str, expect: int = 0) -> str:
    result = runner.invoke(app, ["ensemble", *arguments])
    assert result.exit_code == expect, result.output + repr(result.exception)
    return " ".join(result.output.split())


@given(confidence=st.floats(0, 1), limit=st.floats(0.01, 0.99))
def test_a_specialist_answers_exactly_where_it_is_sure_enough(confidence: float, limit: float) -> None:
    chosen = decided("cards", confidence, "tickets", limit)
    assert chosen.task == ("cards" if confidence >= limit else "tickets")
    assert (chosen.likeliest, chosen.confidence) == ("cards", confidence)


@given(
    logits=st.lists(st.lists(st.floats(-50, 50), min_size=3, max_size=3), min_size=1, max_size=5),
    temperature=st.floats(0.2, 5),
)
def test_probabilities_add_up_and_a_temperature_never_changes_who_is_likeliest(
    logits: list[list[float]], temperature: float
) -> None:
    odds = probabilities(np.array(logits), temperature)
    assert np.all(odds >= 0) and np.allclose(odds.sum(axis=1), 1)
    assert np.allclose(odds[np.arange(len(logits)), np.argmax(logits, axis=1)], odds.max(axis=1))
    warmer = probabilities(np.array(logits), 2 * temperature)
    assert np.all(warmer.max(axis=1) <= odds.max(axis=1) + 1e-9), "warmer is less sure"


@given(
    rows=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.floats(0.4, 0.99)), min_size=1, max_size=40),
    limit=st.floats(0.3, 0.99),
)
def test_the_figures_are_those_of_the_decisions(rows: list[tuple[int, int, float]], limit: float) -> None:
    labels = ["cards", "logins", "tickets"]
    odds = np.full((len(rows), 3), 0.0)
    for row, (_, best, confidence) in enumerate(rows):
        odds[row] = (1 - confidence) / 2
        odds[row, best] = confidence
    figures = held_out(odds, np.array([truth for truth, _, _ in rows]), labels, "tickets", limit)
    assert figures.n == len(rows) == sum(sum(row.values()) for row in figures.confusion.values())
    right = sum(truth == odds[row].argmax() for row, (truth, _, _) in enumerate(rows))
    assert figures.accuracy == pytest.approx(right / len(rows))
    covered = sum(figures.confusion[own][got] for own in ("cards", "logins") for got in ("cards", "logins"))
    well = sum(figures.confusion[own][own] for own in ("cards", "logins"))
    assert figures.covered_n == covered
    assert figures.covered_accuracy == (pytest.approx(well / covered) if covered else None)
    assert (
        0 <= figures.covered_lower <= (figures.covered_accuracy or 0.0) + 1e-6 and 0 <= figures.calibration_error <= 1
    )


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"specialist": ["cards"]}, 'support.yaml:7: specialist: unknown key; did you mean "specialists"'),
        ({"general": None}, "general: this key is missing"),
        ({"general": "cards"}, "general: cards is one of the specialists"),
        ({"specialists": ["cards", "cards"]}, "support.yaml:2: specialists: each task once"),
        ({"min_confidence": 1.5}, "support.yaml:7: min_confidence"),
        ({"specialists": ["cards", "login"]}, 'login: no such task; did you mean "logins"'),
        ({"name": "cards"}, "name: cards is taken by another ensemble or task"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line_and_the_mend(write: Any, changed: dict[str, Any], told: str) -> None:
    path = write(**changed)
    with pytest.raises(BadInput) as refused:
        find_ensembles(path.parent.parent, TASKS)
    assert told in refused.value.problem and refused.value.mend


def test_what_there_is_nothing_to_learn_from_is_told_before_anything_is_learnt(write: Any) -> None:
    write()
    assert "no such ensemble" in call("build", "suport", expect=2)
    assert "cards has no dataset yet to learn from" in call("build", "support", expect=2)
    assert "it was never built" in call("show", "support", expect=2)
    put_dataset("cards")
    put_dataset("logins", {"train": SHOPS[:3], "validation": SHOPS[20:25], "test": SHOPS[25:]})
    assert "3 rows, 20 are needed to tell logins from others" in call("build", "support", expect=2)


def test_a_router_is_built_from_the_tasks_own_datasets_and_judged_on_rows_it_has_not_seen(write: Any) -> None:
    write(min_confidence=0.5)
    for task in TASKS:
        put_dataset(task)
    told = call("build", "support")
    assert "train: cards 20, logins 20, tickets 20" in told and "texts that it had not seen" in told
    built = json.loads(runner.invoke(app, ["ensemble", "show", "support", "--json"]).stdout)
    assert built["parents"] == {f"curated_dataset/{task}": f"ds-{task}" for task in TASKS}
    assert built["held_out"]["n"] == 15 and built["held_out"]["accuracy"] == 1.0
    assert built["held_out"]["covered_lower"] < 1.0, "ten texts prove no perfection"
    again = json.loads(runner.invoke(app, ["ensemble", "build", "support", "--json"]).stdout)
    assert again["artifact_id"] == built["artifact_id"], "the same data makes the same router"
    write(min_confidence=0.999999)
    careful = json.loads(runner.invoke(app, ["ensemble", "build", "support", "--json"]).stdout)["held_out"]
    assert careful["coverage"] == 0.0 and careful["covered_accuracy"] is None, "who is not sure asks the general task"
    assert careful["confusion"]["cards"] == {"cards": 0, "logins": 0, "tickets": 5}
    result = runner.invoke(app, ["lineage", built["artifact_id"]])
    assert result.exit_code == 2 and "name an adapter" in result.output


@pytest.fixture
def running(write: Any, settings_env: Settings) -> Iterator[Running]:
    """A gateway in front of three tasks and a built ensemble; each task answers with its own name."""
    write(min_confidence=0.5)
    for task in TASKS:
        put_dataset(task)
    call("build", "support")
    tasks = [load_task(settings_env.tasks_dir / f"{task}.yaml") for task in TASKS]
    engines = {task: AnsweringEngine(manners={None: Manner([task])}) for task in TASKS}
    with running_gateway(settings_env, tasks, engines) as started:
        yield started


def ask(running: Running, key: str, *texts: str, **more: Any) -> requests.Response:
    messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]
    return requests.post(
        f"{running.url}/v1/chat/completions",
        json={"model": "support", "messages": messages, **more},
        headers={"authorization": f"Bearer {key}"},
        timeout=30,
    )


def test_each_request_is_answered_by_the_task_that_it_belongs_to(running: Running) -> None:
    key = running.key()
    for task in TASKS:
        answer = ask(running, key, TEXTS[task].format(SHOPS[27]))
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-finetune-task"] == task and answer.json()["model"] == "support"
        assert answer.json()["choices"][0]["message"]["content"] == task
    streamed = ask(running, key, TEXTS["logins"].format(SHOPS[27]), stream=True)
    assert streamed.headers["x-finetune-task"] == "logins" and '"content":"logins"' in streamed.text
    later = ask(running, key, TEXTS["cards"].format(SHOPS[27]), "At the desk?", TEXTS["logins"].format("Zuma"))
    assert later.headers["x-finetune-task"] == "cards", "a conversation stays where it began"
    plain = requests.post(
        f"{running.url}/v1/completions",
        json={"model": "support", "prompt": TEXTS["cards"].format(SHOPS[27])},
        headers={"authorization": f"Bearer {key}"},
        timeout=30,
    )
    assert plain.headers["x-finetune-task"] == "cards" and plain.json()["choices"][0]["text"] == "cards"
    rated = requests.post(
        f"{running.url}/v1/feedback",
        json={"interaction_id": later.json()["id"], "rating": "up"},
        headers={"authorization": f"Bearer {key}"},
        timeout=30,
    )
    assert rated.json() == {"status": "kept", "counted": True}


def test_only_who_may_use_all_its_tasks_knows_of_an_ensemble(running: Running) -> None:
    def models(key: str) -> list[str]:
        told = requests.get(f"{running.url}/v1/models", headers={"authorization": f"Bearer {key}"}, timeout=30)
        return [model["id"] for model in told.json()["data"]]

    every, some = running.key(), running.key(tasks=["cards", "tickets"])
    assert models(every) == [*TASKS, "support"] and models(some) == ["cards", "tickets"]
    refused = ask(running, some, TEXTS["cards"].format(SHOPS[27]))
    assert refused.status_code == 404 and "does not exist" in refused.text
    for key, status in ((every, 200), (some, 404)):
        found = requests.get(f"{running.url}/v1/models/support", headers={"authorization": f"Bearer {key}"}, timeout=30)
        assert found.status_code == status


def test_an_ensemble_that_was_not_built_is_not_served_and_the_log_says_why(
    write: Any, settings_env: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    write()
    tasks = [load_task(settings_env.tasks_dir / f"{task}.yaml") for task in TASKS]
    with running_gateway(settings_env, tasks, {task: AnsweringEngine() for task in TASKS}) as started:
        assert ask(started, started.key(), "Hello").status_code == 404
    assert "support is not served: it was never built: `finetune ensemble build support`" in caplog.text
