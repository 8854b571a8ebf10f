"""The OpenAPI document against the running gateway: generated requests of every kind, by everybody, over real HTTP."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import requests
import schemathesis
from gateway_server import Running, running_gateway
from schemathesis.engine import Status, events, from_schema
from upper_engine import Upper

from finetune_platform.serving import rollouts
from finetune_platform.serving.permissions import ROLES
from finetune_platform.settings import Settings
from finetune_platform.task_file import load_task

SEED = 20260418
TASK = "ticket_topics"
OPEN = {"GET /healthz", "GET /readyz", "GET /metrics"}


class Run(NamedTuple):
    """What many generated requests met: what was wrong, and the statuses that each operation answered."""

    problems: list[str]
    statuses: dict[str, set[int]]
    cases: int


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, task_file_in: Any) -> Iterator[Running]:
    """A gateway with a canary under way, so that every part of an operator's answer holds something."""
    home = tmp_path_factory.mktemp("home")
    place = Settings(
        finetune_home=home,
        lake_url=str(home / "lake"),
        database_url=f"sqlite:///{home / 'finetune.db'}",
        tasks_dir=home / "tasks",
    )
    task = load_task(task_file_in(place.tasks_dir))
    with running_gateway(place, [task], {TASK: Upper()}) as running:
        rollouts.start(running.gateway.database, task, "ad-ca2a57b0c2d2", actor="test", reason="try it")
        yield running


def document_of(served: Running) -> dict[str, Any]:
    """What the gateway serves, with the one model that it has: made-up names are nearly all 404."""
    document: dict[str, Any] = requests.get(f"{served.url}/openapi.json", timeout=10).json()
    for body in ("ChatRequest", "CompletionRequest"):
        document["components"]["schemas"][body]["properties"]["model"]["enum"] = [TASK]
    return document


def generated(served: Running, key: str | None, examples: int, phases: tuple[str, ...]) -> Run:
    """Sends requests that fit the document and ones that do not; all of schemathesis' checks look at the answers."""
    config: dict[str, Any] = {
        "seed": SEED,
        "base-url": served.url,
        "workers": 1,
        "continue-on-failure": True,
        "generation": {"max-examples": examples, "database": "none"},
        "phases": {name: {"enabled": name in phases} for name in ("examples", "coverage", "fuzzing", "stateful")},
    }
    if key is not None:
        config["auth"] = {"openapi": {"key": {"bearer": key}}}
    schema = schemathesis.openapi.from_dict(document_of(served), config=schemathesis.Config.from_dict(config))
    run, count = Run([], defaultdict(set), 0), 0
    for event in from_schema(schema).execute():
        if isinstance(event, events.NonFatalError | events.FatalError):
            run.problems.append(str(event))
        if not isinstance(event, events.ScenarioFinished):
            continue
        for case_id, node in event.recorder.cases.items():
            sent = event.recorder.interactions.get(case_id)
            if sent is None or sent.response is None:
                continue
            count += 1
            run.statuses[f"{node.value.method} {node.value.operation.path}"].add(sent.response.status_code)
            run.problems.extend(
                f"{node.value.as_curl_command()}\n{check.failure_info.failure}\n{sent.response.text[:500]}"
                for check in event.recorder.checks.get(case_id, [])
                if check.status is Status.FAILURE and check.failure_info is not None
            )
    return run._replace(cases=count)


def test_every_answer_is_documented_and_none_is_a_failure_of_the_gateway(served: Running) -> None:
    run = generated(served, served.key(*ROLES), examples=15, phases=("coverage", "fuzzing"))
    assert not run.problems, "\n\n".join(run.problems[:5])
    assert run.cases > 500
    operations = {f"{method.upper()} {path}" for path, of in document_of(served)["paths"].items() for method in of}
    assert operations <= run.statuses.keys()
    # Each of them was reached: an operation that only ever refuses shows nothing of its answers.
    assert [op for op in operations - {"POST /v1/feedback"} if 200 not in run.statuses[op]] == []
    assert max(max(statuses) for statuses in run.statuses.values()) < 500


@pytest.mark.parametrize("role", ROLES)
def test_with_one_role_the_rest_is_refused_as_documented(served: Running, role: str) -> None:
    run = generated(served, served.key(role), examples=3, phases=("fuzzing",))
    assert not run.problems, "\n\n".join(run.problems[:5])
    assert any(403 in statuses for statuses in run.statuses.values())


def test_without_a_key_nothing_but_the_open_operations_answers(served: Running) -> None:
    run = generated(served, None, examples=8, phases=("fuzzing",))
    assert not run.problems, "\n\n".join(run.problems[:5])
    for operation, statuses in run.statuses.items():
        assert operation in OPEN or not {status for status in statuses if status < 400}, operation


def test_every_operation_says_what_it_answers_and_how_it_fails(served: Running) -> None:
    for path, of in document_of(served)["paths"].items():
        for method, operation in of.items():
            assert f"{method.upper()} {path}" in OPEN or {"401", "403"} <= operation["responses"].keys()
            for status, response in operation["responses"].items():
                for kind, described in response["content"].items():
                    schema = described.get("schema") or described["itemSchema"]
                    assert schema, f"{method} {path}: {status} of {kind} has no schema"
