"""The gateway as a process, while it dies, and while what it stands on is away, slow or broken.

On a real PostgreSQL and a real S3 server, with a model server that misbehaves as told. What each part does in its own
faults stands in that part's tests.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import psycopg
import pytest
from adapter_bundles import publish_adapter
from gateway_process import Answer, GatewayProcess, Load, Proxy
from s3_server import BUCKET, S3Server
from sqlalchemy.engine import make_url
from vllm_stand_in import StandIn

from finetune_platform import audit
from finetune_platform.serving import rollouts, routes
from finetune_platform.serving.routes import edited
from finetune_platform.serving.traffic import told
from finetune_platform.task import Task
from finetune_platform.task_file import load_task

TASK = "topics"
BREAKING = ("failing", "unavailable", "reset", "malformed", "garbage", "hang", "slow", "break_off")
"""What a model server may do instead of answering."""

READING_S = 0.25
"""How long a client may need to read what the gateway sent before."""


class House(NamedTuple):
    """A gateway that runs, and what it stands on."""

    gateway: GatewayProcess
    upstream: StandIn
    lake_way: Proxy
    adapters: dict[str, str]
    key: str
    operator: str

    def canary(self, task: Task, weights: str = "canary") -> str:
        """Starts a rollout of a fresh adapter; its id."""
        adapter = publish_adapter(self.gateway.lake, task.name, weights)
        rollouts.ensure_started(self.gateway.database, task, adapter, actor="test", reason="a new adapter")
        return adapter

    def share(self, task: str, percent: int) -> None:
        """Gives the canary a share of the traffic."""
        routes.change(
            self.gateway.database,
            task,
            lambda plan: edited(plan, canary_share=percent / 100),
            actor="test",
            action="route.edit",
            reason="-",
        )

    def told(self, task: str) -> Counter[tuple[str, str]]:
        """Requests and errors by arm, as the database knows them."""
        found: Counter[tuple[str, str]] = Counter()
        with self.gateway.database.reading() as session:
            for row in told(session, task, datetime.now(UTC) - timedelta(hours=2), datetime.now(UTC)):
                found[row.key.arm, "n"] += row.counts.n
                found[row.key.arm, "errors"] += row.counts.errors
        return found

    def rows(self, task: str) -> dict[str, list[dict[str, Any]]]:
        """What the interactions table holds, by id; nothing before the first row came."""
        columns = ["interaction_id", "adapter_id", "response"]
        found: dict[str, list[dict[str, Any]]] = {}
        try:
            table = self.gateway.lake.table(f"{task}/interactions")
        except FileNotFoundError:
            return found
        for row in table.to_pyarrow_table(columns=columns).to_pylist():
            found.setdefault(row["interaction_id"], []).append(row)
        return found


@contextmanager
def house(folder: Path, s3: S3Server, postgres: Any, *tasks: str, **sections: Any) -> Iterator[House]:
    """A house with these tasks, each with a champion."""
    name = f"faults_{time.time_ns()}"
    with psycopg.connect(postgres.get_uri(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    way = Proxy(int(urlsplit(s3.endpoint).port or 0))
    environment = {**s3.environment, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{way.port}"}
    with pytest.MonkeyPatch.context() as patch, StandIn(folder) as upstream:
        for variable, value in environment.items():
            patch.setenv(variable, value)
        gateway = GatewayProcess(folder, f"s3://{BUCKET}/{name}", postgres.get_uri(database=name))
        adapters = {}
        for task in tasks:
            made = gateway.task(task, f"{upstream.url}/{task}/v1", **sections)
            adapters[task] = publish_adapter(gateway.lake, task, f"champion of {task}")
            routes.change(
                gateway.database,
                made.name,
                lambda plan: edited(plan, champion=adapters[task]),  # noqa: B023
                actor="test",
                action="route.edit",
                reason="-",
            )
        built = House(gateway, upstream, way, adapters, gateway.key("caller"), gateway.key("operator"))
        gateway.start()
        try:
            yield built
        finally:
            gateway.stop()
            gateway.database.close()


@pytest.fixture
def lived_in(tmp_path: Path, s3_server: S3Server, postgres_server: Any) -> Iterator[House]:
    """A house with one task."""
    with house(tmp_path, s3_server, postgres_server, TASK) as built:
        yield built


@contextmanager
def database_away(built: House, server: Any) -> Iterator[None]:
    """PostgreSQL lets nobody into the gateway's database."""
    name = make_url(built.gateway.place.database_url).database
    with psycopg.connect(server.get_uri(), autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        try:
            yield
        finally:
            admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


def until(true: Callable[[], bool], at_most_s: float, what: str) -> None:
    deadline = time.monotonic() + at_most_s
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def task_of(built: House) -> Task:
    return load_task(built.gateway.place.tasks_dir / f"{TASK}.yaml")


def assert_logged_once(built: House, answers: list[Answer], at_most_s: float) -> None:
    """Every answer is in the table, once, as the client saw it; and nothing else is there twice."""
    wanted = {answer.interaction_id: answer for answer in answers}
    assert len(wanted) == len(answers)
    until(lambda: wanted.keys() <= built.rows(TASK).keys(), at_most_s, "answers are missing in the table")
    rows = built.rows(TASK)
    assert [found for found in rows.values() if len(found) > 1] == []
    for interaction_id, answer in wanted.items():
        (row,) = rows[interaction_id]
        assert row["adapter_id"] == answer.adapter and answer.text.strip() in row["response"]


def assert_nothing_waits(built: House) -> None:
    """No write-ahead file is left with a row in it, nor anything that could not be read."""
    folder = built.gateway.place.finetune_home / "interactions"
    assert [file for file in folder.rglob("*") if file.is_file() and file.stat().st_size] == []


def killed_under_load(built: House, kills: int, seed: int) -> list[Answer]:
    """Kills the gateway at random moments while clients ask and a rollout is under way; what clients got."""
    gateway, task, dice = built.gateway, task_of(built), random.Random(seed)
    canary = built.canary(task)
    for adapter in (canary, built.adapters[TASK]):
        # Answers that take a while: a kill finds some of them half given.
        built.upstream.behave(adapter, pause_s=0.01, pieces=5, piece_s=0.02)
    until(lambda: gateway.ask(built.key, TASK).ok, 10, "no answer")
    with Load(gateway, built.key, [TASK]) as load:
        for number in range(kills):
            load.wait_for(dice.randrange(5, 400))
            if number == kills // 3:
                rollouts.by_hand(gateway.database, task, "step", actor="test", reason="on")
            if number == 2 * kills // 3:
                rollouts.by_hand(gateway.database, task, "hold", actor="test", reason="wait")
            gateway.kill()
            gateway.start()
        load.wait_for(50)
    with gateway.database.reading() as session:
        row = rollouts.latest(session, TASK)
        plan = routes.current(session, TASK).plan
        assert row is not None and rollouts.memory_of(row)
        assert (row.adapter_id, row.state) == (canary, "held")
    assert (plan.champion, plan.canary, plan.canary_share) == (built.adapters[TASK], canary, 0.25)
    assert audit.verify(gateway.database).broken == []
    assert {answer.adapter for answer in load.answers} == {built.adapters[TASK], canary}
    assert load.unreachable >= kills
    print(f"{kills} kills: {len(load.answers)} answers, {load.unreachable} times unreachable, {load.broken} cut")
    return load.answers


def test_a_killed_gateway_loses_and_doubles_no_answer(lived_in: House) -> None:
    answers = killed_under_load(lived_in, 1, seed=1)
    # An orderly end writes what waits, and this test need not wait for the log's own pace.
    lived_in.gateway.stop()
    assert_logged_once(lived_in, answers, at_most_s=30)
    assert_nothing_waits(lived_in)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_twenty_kills_lose_and_double_no_answer(lived_in: House) -> None:
    answers = killed_under_load(lived_in, 20, seed=20)
    assert_logged_once(lived_in, answers, at_most_s=60)
    counted = lived_in.told(TASK)
    assert sum(n for (_, what), n in counted.items() if what == "n") <= sum(map(len, lived_in.rows(TASK).values())) + 20
    lived_in.gateway.stop()
    assert_nothing_waits(lived_in)


@pytest.mark.slow
@pytest.mark.parametrize("away_s", [3, 60])
def test_without_a_database_answers_and_kills_go_on_and_all_is_written_afterwards(
    lived_in: House, postgres_server: Any, away_s: float
) -> None:
    gateway, champion = lived_in.gateway, lived_in.adapters[TASK]
    canary = lived_in.canary(task_of(lived_in))
    lived_in.share(TASK, 50)
    with Load(gateway, lived_in.key, [TASK]) as load:
        until(lambda: any(a.adapter == canary for a in load.answers), 10, "the canary never answered")
        with database_away(lived_in, postgres_server):
            away = time.monotonic()
            time.sleep(away_s)
            rested = [a.adapter for a in load.answers if a.began > away + 1.5]
            told = gateway.operate(lived_in.operator, TASK, "kill")
            killed = time.monotonic()
            assert told.json()["written"] is False
            load.wait_for(50)
        load.wait_for(50)
        until(lambda: _plan(lived_in).killed == "it does harm", 10, "the kill was not written")
    assert (load.statuses, load.unreachable) == ([], 0)
    assert set(rested) == {champion}
    assert {a.adapter for a in load.answers if a.began > killed} == {"base"}
    asked = Counter("base" if a.adapter == "base" else "adapter" for a in load.answers)
    until(lambda: _answered(lived_in) >= len(load.answers), 10, "counts do not catch up")
    time.sleep(1.5)
    # Streams that were cut by the kill are counted for nobody, whole answers once.
    assert _answered(lived_in) == len(load.answers), asked
    assert [e.action for e in audit.entries(gateway.database)][-1] == "route.kill"
    assert audit.verify(gateway.database).broken == []


def _plan(built: House) -> Any:
    with built.gateway.database.reading() as session:
        return routes.current(session, TASK).plan


def _answered(built: House) -> int:
    counted = built.told(TASK)
    return sum(n * (1 if what == "n" else -1) for (_, what), n in counted.items())


@pytest.mark.slow
def test_a_kill_that_could_not_be_written_is_in_force_in_the_next_gateway(
    lived_in: House, postgres_server: Any
) -> None:
    gateway = lived_in.gateway
    with database_away(lived_in, postgres_server):
        assert gateway.operate(lived_in.operator, TASK, "kill").json()["written"] is False
        gateway.kill()
    assert _plan(lived_in).killed is None
    gateway.start()
    assert gateway.ask(lived_in.key, TASK).headers["x-finetune-adapter"] == "base"
    assert _plan(lived_in).killed == "it does harm"


@pytest.mark.slow
def test_a_broken_model_server_costs_nobody_an_answer(
    tmp_path: Path, s3_server: S3Server, postgres_server: Any
) -> None:
    tasks = [f"t_{manner}" for manner in BREAKING] + ["t_stream"]
    quick = {"timeout_s": 1.0}
    with (
        house(tmp_path, s3_server, postgres_server, *tasks, serving=quick) as built,
        ThreadPoolExecutor(len(tasks)) as pool,
    ):
        checks = [pool.submit(_breaks_and_mends, built, manner) for manner in BREAKING]
        checks.append(pool.submit(_breaks_off, built))
        for check in checks:
            check.result()


def _breaks_and_mends(built: House, manner: str) -> None:
    """The base model stands in, failures are counted, the server is left alone, and comes back."""
    task = f"t_{manner}"
    gateway, adapter = built.gateway, built.adapters[task]
    by: Counter[str] = Counter()

    def ask() -> None:
        answer = gateway.ask(built.key, task)
        assert answer.status_code == 200, (manner, answer.text)
        who = answer.headers["x-finetune-adapter"]
        assert answer.json()["choices"][0]["message"]["content"] == f"card by {who}"
        by[who] += 1

    ask()
    assert by == {adapter: 1}
    built.upstream.behave(adapter, **({"pause_s": 30.0} if manner == "slow" else {"manner": manner}))
    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(ask) for _ in range(6)]:
            done.result()
    assert by == {adapter: 1, "base": 6}, manner
    before = built.upstream.asked()[adapter]
    for _ in range(10):
        ask()
    assert built.upstream.asked()[adapter] <= before + 2, f"{manner}: the server is not left alone"
    assert by == {adapter: 1, "base": 16}, manner
    built.upstream.behave(adapter)

    def mended() -> bool:
        ask()
        return by[adapter] > 1

    until(mended, 30, f"{manner}: the server is not asked again")
    for _ in range(3):
        ask()
    assert by[adapter] == 5, manner
    assert gateway.metric("finetune_fallbacks_total", task=task, adapter=adapter) == by["base"]
    until(lambda: built.told(task)["champion", "n"] == by.total(), 10, f"{manner}: requests are not counted")
    assert built.told(task)["champion", "errors"] == built.told(task)["fallback", "n"] == by["base"]


def _breaks_off(built: House) -> None:
    """A stream that was begun cannot be taken over: its reader is told, and it counts as an error."""
    task = "t_stream"
    gateway, adapter = built.gateway, built.adapters[task]
    built.upstream.behave(adapter, manner="break_off")
    for _ in range(2):
        answer = gateway.ask(built.key, task, stream=True)
        assert answer.headers["x-finetune-adapter"] == adapter
        assert '"error"' in answer.text and "[DONE]" not in answer.text
    until(lambda: built.told(task)["champion", "errors"] == 2, 10, "errors are not counted")
    assert gateway.metric("finetune_requests_total", task=task, outcome="error") == 2


@pytest.mark.slow
def test_without_a_lake_answers_go_on_and_the_log_drains_afterwards(lived_in: House) -> None:
    gateway = lived_in.gateway
    with Load(gateway, lived_in.key, [TASK]) as load:
        load.wait_for(100)
        with lived_in.lake_way.cut():
            time.sleep(30)
            load.wait_for(50)
            assert gateway.metric("finetune_interactions_waiting_bytes") > 0
        load.wait_for(50)
    assert (load.statuses, load.unreachable, load.broken) == ([], 0, 0)
    assert_logged_once(lived_in, load.answers, at_most_s=120)
    until(lambda: gateway.metric("finetune_interactions_waiting_bytes") == 0, 60, "the log does not drain")
    assert gateway.metric("finetune_interactions_lost") == 0
    gateway.stop()
    assert_nothing_waits(lived_in)


@pytest.mark.parametrize("by_whom", ["this gateway", pytest.param("another process", marks=pytest.mark.slow)])
def test_after_a_rollback_nothing_comes_from_the_adapter(lived_in: House, by_whom: str) -> None:
    gateway, task = lived_in.gateway, task_of(lived_in)
    canary = lived_in.canary(task)
    lived_in.share(TASK, 50)
    lived_in.upstream.behave(canary, pieces=20, piece_s=0.05)
    with Load(gateway, lived_in.key, [TASK], clients=12, streamed=0.5) as load:
        until(lambda: sum(a.adapter == canary for a in load.answers) > 20, 20, "the canary hardly answered")
        if by_whom == "this gateway":
            assert gateway.operate(lived_in.operator, TASK, "rollback").json()["written"]
            in_force = time.monotonic()
        else:
            rollouts.by_hand(gateway.database, task, "rollback", actor="test", reason="it does harm")
            in_force = time.monotonic() + 1.0
        time.sleep(3.0)
        load.wait_for(50)
    assert [a for a in load.answers if a.adapter == canary and a.began > in_force] == []
    late = [a for a in load.answers if a.adapter == canary and a.ended > in_force + READING_S]
    assert late == []
    assert [p for p in load.pieces if p.adapter == canary and p.came > in_force + READING_S] == []
    assert load.broken > 0, "no stream was under way"
    assert load.statuses == []
