"""Alarm to batch and batch to retraining over a thousand ticks with failures, lost cursors, several daemons and kills.

One alarm starts one cycle, whatever happens; nothing is lost and nothing is repeated.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from dagster import (
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    EventLogEntry,
    RunRequest,
    RunsFilter,
    SensorResult,
)
from dagster._core.storage.tags import RUN_KEY_TAG
from review_batches import item

from finetune_platform.announcements import Notification
from finetune_platform.database import Database
from finetune_platform.labeling.answering import Annotation, adjudicate, annotate
from finetune_platform.labeling.batches import ToReview, batches_of, open_batch, read_batch
from finetune_platform.labeling.retraining import begin_retraining, permit, retrainings_of
from finetune_platform.lake import Lake
from finetune_platform.manifests_drift import DriftManifest
from finetune_platform.sensors import drift_alarm, labels_ready
from finetune_platform.sensors.attempts import PAUSE_S
from finetune_platform.sensors.drift_alarm import CAUSE_TAG
from finetune_platform.task import Task
from finetune_platform.task_file import load_task
from finetune_platform.task_labeling import Retraining

NOW = 1_800_000_000.0
TICK_S = 30.0

Step = Callable[[Task, Lake, Database, DagsterInstance, str | None, float], SensorResult]


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as opened:
        yield opened


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'loop.db'}")
    yield database
    database.close()


class World:
    """A task's reports, batches and runs, and daemons that tick its sensors as Dagster's does."""

    def __init__(self, task: Task, lake: Lake, database: Database, instance: DagsterInstance, now: float = NOW) -> None:
        self.task, self.lake, self.database, self.instance, self.now = task, lake, database, instance, now
        self.alarms = 0

    def alarm(self) -> None:
        """A look finds drift beside a new reference."""
        self.alarms += 1
        self._report(f"dr-{self.alarms}", "alarm", f"rf-{self.alarms}")

    def look_again(self, number: int) -> None:
        """A later look carries the same alarm: it stands until somebody ends it."""
        self._report(f"dr-{self.alarms}-{number}", "alarm", f"rf-{self.alarms}")

    def _report(self, name: str, status: Any, reference: str) -> None:
        report = DriftManifest(
            artifact_id=name, task=self.task.name, parents={"drift_reference": reference}, code_version="1",
            status=status, headline="drift", champion="ad-1", tick=1, since="2026-01-01T00:00:00+00:00",
            until="2026-01-01T00:00:00+00:00", rows=1, counted=1, e_value=400.0, limit=365.0, channels=[],
        )  # fmt: skip
        self.lake.put(f"{report.path}/manifest.json", report.to_bytes())
        self.database.record_artifact(report, "drift_report", "", None)

    def open(self, cause: str) -> str:
        rows = [ToReview(f"in-{cause}-{i}", item(f"{cause} {i}")) for i in range(2)]
        return open_batch(self.database, self.task.name, f"rb-{cause.replace(' ', '-')}", cause, "drift", rows)

    def answer(self) -> None:
        """People finish every batch."""
        for batch_id in batches_of(self.database, self.task.name):
            for number in (1, 2):
                if not any(one.batch_id == batch_id for one in retrainings_of(self.database, self.task.name)):
                    annotate(self.database, batch_id, number, "ann", Annotation("answer", "greeting"))

    def tick(self, step: Step, cursor: str | None) -> SensorResult:
        return step(self.task, self.lake, self.database, self.instance, cursor, self.now)

    def new_of(self, result: SensorResult) -> list[RunRequest]:
        """As the daemon does: a run key that a run has starts no other."""
        keys = [(request, {RUN_KEY_TAG: str(request.run_key)}) for request in result.run_requests or []]
        return [request for request, key in keys if not self.instance.get_runs(RunsFilter(tags=key))]

    def launch(self, requests: Sequence[RunRequest]) -> None:
        for request in requests:
            tags = {**request.tags, RUN_KEY_TAG: str(request.run_key)}
            run = DagsterRun(job_name="loop", status=DagsterRunStatus.STARTED, tags=tags, run_config=request.run_config)
            self.instance.add_run(run)

    def runs(self) -> list[DagsterRun]:
        return list(self.instance.get_runs())

    def in_flight(self) -> list[DagsterRun]:
        return [run for run in self.runs() if run.status == DagsterRunStatus.STARTED]

    def end(self, run: DagsterRun, success: bool) -> None:
        kind = DagsterEventType.RUN_SUCCESS if success else DagsterEventType.RUN_FAILURE
        if success and run.tags[CAUSE_TAG].startswith("alarm"):
            self.open(run.tags[CAUSE_TAG])
        entry = EventLogEntry(
            error_info=None, level=20, user_message="", run_id=run.run_id, timestamp=self.now,
            dagster_event=DagsterEvent(kind.value, job_name="loop"), job_name="loop",
        )  # fmt: skip
        self.instance.handle_new_event(entry)

    def successes(self) -> Counter[str]:
        return Counter(run.tags[CAUSE_TAG] for run in self.runs() if run.status == DagsterRunStatus.SUCCESS)


@pytest.fixture
def world(task_file: Any, local_lake: Lake, opened: Database, instance: DagsterInstance) -> World:
    task = load_task(task_file(retraining={"cooldown_hours": 0.1, "most_per_month": 1000}))
    return World(task, local_lake, opened, instance)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_thousand_ticks_of_trouble_start_one_cycle_an_alarm(world: World, seed: int) -> None:
    chance = random.Random(seed)
    steps: list[Step] = [drift_alarm.step, labels_ready.step]
    # Two daemons, each with a cursor a sensor.
    cursors: list[list[str | None]] = [[None, None], [None, None]]
    for number in range(1000):
        world.now += TICK_S
        if chance.random() < 0.01 and not world.in_flight() and _is_quiet(world):
            world.alarm()
        elif world.alarms and chance.random() < 0.05:
            world.look_again(number)
        for which in (0, 1):
            # Both daemons look before either launches; one may be killed after looking, or after launching.
            seen = [world.tick(steps[which], cursor[which]) for cursor in cursors]
            new = [world.new_of(result) for result in seen]
            for daemon, result in enumerate(seen):
                if chance.random() < 0.05:
                    continue
                world.launch(new[daemon])
                if chance.random() >= 0.05:
                    cursors[daemon][which] = result.cursor
        if chance.random() < 0.03:
            cursors[chance.randrange(2)] = [None, None]
        flying = Counter(run.tags[CAUSE_TAG] for run in world.in_flight())
        assert all(count == 1 for count in flying.values()), flying
        for run in world.in_flight():
            if chance.random() < 0.2:
                world.end(run, success=chance.random() < 0.7)
        if chance.random() < 0.1:
            world.answer()
    _let_it_finish(world, steps, cursors)
    done = world.successes()
    failed = Counter(run.tags[CAUSE_TAG] for run in world.runs() if run.status == DagsterRunStatus.FAILURE)
    assert world.alarms >= 4 and failed.total() >= 3
    for number in range(1, world.alarms + 1):
        alarm = f"alarm rf-{number}"
        # Three failures end the work, and a person is told; else it is done exactly once.
        assert done[alarm] == (failed[alarm] < 3), (alarm, failed[alarm])
        if done[alarm]:
            batch = f"rb-alarm-rf-{number}"
            assert done[batch] == (failed[batch] < 3), (batch, failed[batch])
    states = {one.batch_id: one.state for one in retrainings_of(world.database, world.task.name)}
    assert len(states) == len(batches_of(world.database, world.task.name))
    assert all(state == ("done" if done[batch] else "failed") for batch, state in states.items())


def _is_quiet(world: World) -> bool:
    """The last cycle has ended: the next alarm is one of a new champion or reference."""
    started = retrainings_of(world.database, world.task.name)
    failed = Counter(run.tags[CAUSE_TAG] for run in world.runs() if run.status == DagsterRunStatus.FAILURE)
    given_up = failed[f"alarm rf-{world.alarms}"] >= 3
    return (
        world.alarms == 0
        or given_up
        or any(one.batch_id == f"rb-alarm-rf-{world.alarms}" and one.state != "started" for one in started)
    )


def _let_it_finish(world: World, steps: list[Step], cursors: list[list[str | None]]) -> None:
    for _ in range(60):
        world.now += PAUSE_S
        world.answer()
        for which in (0, 1):
            result = world.tick(steps[which], cursors[0][which])
            world.launch(world.new_of(result))
            cursors[0][which] = result.cursor
        for run in world.in_flight():
            world.end(run, success=True)


def test_a_lost_run_history_repeats_nothing(world: World) -> None:
    world.alarm()
    world.launch(world.tick(drift_alarm.step, None).run_requests or [])
    world.end(world.runs()[0], success=True)
    world.answer()
    world.launch(world.tick(labels_ready.step, None).run_requests or [])
    world.end(world.in_flight()[0], success=True)
    world.tick(labels_ready.step, None)
    with DagsterInstance.ephemeral() as fresh:
        world.instance = fresh
        for _ in range(5):
            world.now += 3600
            assert not world.tick(drift_alarm.step, None).run_requests
            assert not world.tick(labels_ready.step, None).run_requests


def test_labels_wait_for_the_cooldown(world: World) -> None:
    begin_retraining(world.database, world.task.name, "rb-earlier")
    world.now = datetime.now(UTC).timestamp()
    world.open("by hand")
    world.answer()
    waiting = world.tick(labels_ready.step, None)
    assert not waiting.run_requests and "less than 0.1 hours ago" in str(waiting.skip_reason)
    world.now += 361
    [request] = world.tick(labels_ready.step, None).run_requests or []
    assert request.run_config["ops"][f"{world.task.name}__expert_labels"]["config"]["cause"] == "labels of rb-by-hand"


def test_the_budget_of_the_month_holds_and_is_told(
    task_file: Any, local_lake: Lake, opened: Database, instance: Any
) -> None:
    task = load_task(task_file(retraining={"cooldown_hours": 0, "monthly_budget": 1.0}, cost={"label": 0.6}))
    world = World(task, local_lake, opened, instance, datetime.now(UTC).timestamp())
    world.open("by hand")
    world.answer()
    held = world.tick(labels_ready.step, None)
    assert not held.run_requests and "1.20 spent in thirty days of a monthly_budget of 1.00" in str(held.skip_reason)
    with opened.reading() as session:
        assert [row.kind for row in session.query(Notification)] == ["budget_reached"]
    # A month later those labels are paid for.
    world.now += timedelta(days=31).total_seconds()
    assert world.tick(labels_ready.step, None).run_requests


def test_people_who_disagree_hold_the_retraining_and_are_named(world: World) -> None:
    rows = [ToReview(f"in-{i}", item(f"q{i}", wanted=2)) for i in range(8)]
    open_batch(world.database, world.task.name, "rb-1", "by hand", "drift", rows)
    for number in range(1, 9):
        annotate(world.database, "rb-1", number, "ann", Annotation("answer", "greeting" if number % 2 else "farewell"))
        annotate(world.database, "rb-1", number, "bob", Annotation("answer", "greeting" if number > 2 else "farewell"))
    for row in read_batch(world.database, "rb-1").rows:
        if row.outcome.state == "disputed":
            adjudicate(world.database, "rb-1", row.number, "cy", Annotation("answer", "greeting"))
    held = world.tick(labels_ready.step, None)
    assert not held.run_requests and "people agree too little" in str(held.skip_reason)


@pytest.mark.parametrize(
    ("hours_ago", "spent", "state"),
    [([], 0.0, "start"), ([1.0], 0.0, "wait"), ([25.0], 0.0, "start"), ([25.0, 50.0], 0.0, "over_budget"),
     ([24 * 31.0, 24 * 32.0], 0.0, "start"), ([], 10.0, "over_budget")],
)  # fmt: skip
def test_when_a_retraining_may_start(hours_ago: list[float], spent: float, state: str) -> None:
    now = datetime(2026, 6, 1, tzinfo=UTC)
    rules = Retraining(cooldown_hours=24, most_per_month=2, monthly_budget=10.0)
    assert permit(rules, [now - timedelta(hours=h) for h in hours_ago], spent, now).state == state
