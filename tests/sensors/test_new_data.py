"""The new_data state machine on real instance state: one run for each state of the folder, whatever happens between."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import DagsterInstance, DagsterRunStatus, SensorResult
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_platform.lake import Lake
from finetune_platform.sensors.attempts import MAX_ATTEMPTS, PAUSE_S
from finetune_platform.sensors.chain import TASK_TAG
from finetune_platform.sensors.new_data import FINGERPRINT_TAG, Cursor, fingerprint, tick
from finetune_platform.task import Task
from finetune_platform.task_file import load_task

NOW = 1_800_000_000.0


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as opened:
        yield opened


@pytest.fixture
def task(task_file: object) -> Task:
    return load_task(task_file())  # type: ignore[operator]


class Daemon:
    """Ticks the sensor as Dagster's daemon does: keeps the cursor, launches a run once a run key."""

    def __init__(self, task: Task, lake: Lake, instance: DagsterInstance) -> None:
        self.task, self.lake, self.instance = task, lake, instance
        self.cursor: str | None = None
        self.run_keys: set[str] = set()
        self.now = NOW

    def tick(self) -> list[str]:
        result = tick(self.task, self.lake, self.instance, Cursor.read(self.cursor), self.now)
        self.cursor = result.cursor
        return [self._launch(result, key) for key in self._new_keys(result)]

    def _new_keys(self, result: SensorResult) -> list[str]:
        keys = [str(request.run_key) for request in result.run_requests or []]
        return [key for key in keys if key not in self.run_keys]

    def _launch(self, result: SensorResult, key: str) -> str:
        self.run_keys.add(key)
        [request] = result.run_requests or []
        tags = {**request.tags, TASK_TAG: self.task.name}
        run = self.instance.create_run(
            job_name=f"{self.task.name}_chain",
            run_id=None,
            run_config=None,
            status=DagsterRunStatus.STARTED,
            tags=tags,
            root_run_id=None,
            parent_run_id=None,
            step_keys_to_execute=None,
            execution_plan_snapshot=None,
            job_snapshot=None,
            parent_job_snapshot=None,
            asset_selection=None,
            asset_check_selection=None,
            resolved_op_selection=None,
            op_selection=None,
            remote_job_origin=None,
            job_code_origin=None,
            asset_graph=None,  # type: ignore[arg-type]
        )
        return run.run_id

    def end(self, run_id: str, success: bool) -> None:
        run = self.instance.get_run_by_id(run_id)
        assert run
        self.instance.report_run_failed(run) if not success else self.instance.handle_new_event(_succeeded(run_id, run))


def _succeeded(run_id: str, run: object) -> object:
    from dagster import DagsterEvent, DagsterEventType, EventLogEntry

    event = DagsterEvent(DagsterEventType.RUN_SUCCESS.value, job_name=run.job_name)  # type: ignore[attr-defined]
    return EventLogEntry(
        error_info=None, level=20, user_message="", run_id=run_id, timestamp=NOW, dagster_event=event, job_name="x"
    )


@pytest.fixture
def daemon(task: Task, local_lake: Lake, instance: DagsterInstance) -> Daemon:
    return Daemon(task, local_lake, instance)


def drop(daemon: Daemon, name: str, data: bytes = b"{}\n") -> None:
    daemon.lake.put(f"{daemon.task.name}/raw/{name}", data)


def test_an_empty_folder_starts_nothing(daemon: Daemon) -> None:
    assert daemon.tick() == []


def test_a_file_starts_one_run_after_the_folder_has_rested(daemon: Daemon) -> None:
    drop(daemon, "a.jsonl")
    assert daemon.tick() == []
    [run] = daemon.tick()
    assert daemon.tick() == []  # in flight
    found = daemon.instance.get_run_by_id(run)
    assert found and found.tags[FINGERPRINT_TAG] == fingerprint(daemon.task, daemon.lake)
    daemon.end(run, success=True)
    for _ in range(3):
        assert daemon.tick() == []


def test_a_folder_that_still_changes_is_left_alone(daemon: Daemon) -> None:
    for size in range(1, 5):
        drop(daemon, "a.jsonl", b"x" * size)
        assert daemon.tick() == []
    assert len(daemon.tick()) == 1


def test_a_lost_or_broken_cursor_repeats_no_work(daemon: Daemon) -> None:
    drop(daemon, "a.jsonl")
    daemon.tick()
    [run] = daemon.tick()
    daemon.end(run, success=True)
    for broken in (None, "", "not json", "[]", '{"settled": 3}'):
        daemon.cursor = broken
        assert daemon.tick() == []
        assert daemon.tick() == []


def test_a_failure_is_tried_again_after_a_pause_and_not_forever(daemon: Daemon) -> None:
    drop(daemon, "a.jsonl")
    daemon.tick()
    started = daemon.tick()
    for attempt in range(2, MAX_ATTEMPTS + 1):
        daemon.end(started[-1], success=False)
        record = daemon.instance.get_run_record_by_id(started[-1])
        assert record and record.end_time
        pause = PAUSE_S * 2 ** (attempt - 2)
        daemon.now = record.end_time + pause - 1
        assert daemon.tick() == []
        daemon.now = record.end_time + pause + 1
        started += daemon.tick()
        assert len(started) == attempt
    daemon.end(started[-1], success=False)
    daemon.now += 10**9
    assert daemon.tick() == []


def test_a_new_file_after_failures_starts_afresh(daemon: Daemon) -> None:
    drop(daemon, "a.jsonl")
    daemon.tick()
    [run] = daemon.tick()
    daemon.end(run, success=False)
    drop(daemon, "b.jsonl")
    daemon.tick()
    assert len(daemon.tick()) == 1


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moves=st.lists(st.sampled_from(["tick", "drop", "succeed", "fail", "lose cursor", "wait"]), max_size=25))
def test_never_two_runs_in_flight_and_never_one_after_success(
    moves: list[str], task_file: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder: Path = tmp_path_factory.mktemp("lake")
    with DagsterInstance.ephemeral() as instance:
        daemon = Daemon(load_task(task_file()), Lake(str(folder)), instance)  # type: ignore[operator]
        in_flight: dict[str, str] = {}
        succeeded: set[str] = set()
        attempts: dict[str, int] = {}
        for count, move in enumerate(moves):
            if move == "drop":
                drop(daemon, f"{count}.jsonl")
            elif move == "lose cursor":
                daemon.cursor = None
            elif move == "wait":
                daemon.now += 10**5
            elif move in ("succeed", "fail") and in_flight:
                run, state = in_flight.popitem()
                daemon.end(run, success=move == "succeed")
                if move == "succeed":
                    succeeded.add(state)
            elif move == "tick":
                state = fingerprint(daemon.task, daemon.lake) or ""
                for run in daemon.tick():
                    assert state not in in_flight.values()
                    assert state not in succeeded
                    in_flight[run] = state
                    attempts[state] = attempts.get(state, 0) + 1
                    assert attempts[state] <= MAX_ATTEMPTS


def test_a_permanent_failure_is_not_tried_again(daemon: Daemon) -> None:
    from dagster import Failure, job, op

    @op
    def refuse() -> None:
        raise Failure("a.jsonl:3: not JSON\n  mend: mend line 3", metadata={"type": "BadInput"}, allow_retries=False)

    @job
    def chain() -> None:
        refuse()

    drop(daemon, "a.jsonl")
    state = fingerprint(daemon.task, daemon.lake) or ""
    tags = {FINGERPRINT_TAG: state, TASK_TAG: daemon.task.name}
    chain.execute_in_process(instance=daemon.instance, tags=tags, raise_on_error=False)
    daemon.tick()
    daemon.now += 10**9
    assert daemon.tick() == []
    drop(daemon, "a.jsonl", b"mended")
    daemon.tick()
    assert len(daemon.tick()) == 1
