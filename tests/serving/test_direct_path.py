"""The short way to the endpoints that answer, and the framework's, where requests are traced: both answer alike."""

from collections.abc import Iterator
from typing import Any

import pytest
import requests
from gateway_server import Running, running_gateway
from upper_engine import Upper

from finetune_platform.errors import TransientError
from finetune_platform.settings import Settings
from finetune_platform.task_file import load_task

CHAT = "/v1/chat/completions"
WAYS = ["short", "framework"]
NOWHERE = "http://127.0.0.1:9"


class Failing(Upper):
    """Raises what it is told to; as a bug would, not as an engine's failure."""

    raised: Exception | None = None

    async def complete(self, body: Any, adapter: str | None) -> dict[str, Any]:
        if self.raised is not None:
            raise self.raised
        return await super().complete(body, adapter)


@pytest.fixture
def engine() -> Failing:
    return Failing()


@pytest.fixture(params=WAYS)
def running(request: Any, settings_env: Settings, task_file: Any, engine: Failing) -> Iterator[Running]:
    task = load_task(task_file())
    place = settings_env.model_copy(update={"otlp_endpoint": None if request.param == "short" else NOWHERE})
    with running_gateway(place, [task], {task.name: engine}) as started:
        yield started


def ask(running: Running, path: str = CHAT, key: str | None = None, **changes: Any) -> requests.Response:
    body = {"model": "ticket_topics", "messages": [{"role": "user", "content": "one two"}], **changes}
    headers = {"authorization": f"Bearer {key or running.key()}"}
    return requests.post(f"{running.url}{path}", json=body, headers=headers, timeout=30)


def error_of(answer: requests.Response) -> str:
    assert answer.headers["content-type"] == "application/json"
    return str(answer.json()["error"]["message"])


def test_answers_whole_and_streamed(running: Running) -> None:
    whole, streamed = ask(running), ask(running, stream=True)
    assert whole.json()["choices"][0]["message"]["content"] == "ONE TWO"
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert [b"ONE" in streamed.content, b"TWO" in streamed.content, b"[DONE]" in streamed.content] == [True] * 3
    for answer in (whole, streamed):
        assert answer.headers["x-finetune-adapter"] == "base" and answer.headers["x-finetune-interaction"]


def test_refusals_have_their_status_and_are_counted(running: Running) -> None:
    refused = [
        ask(running, key="wrong"),
        ask(running, messages="no list"),
        ask(running, model="other"),
        ask(running, path=f"{CHAT}/"),
        requests.get(f"{running.url}{CHAT}", timeout=30),
    ]
    assert [answer.status_code for answer in refused] == [401, 400, 404, 404, 405]
    assert refused[0].headers["www-authenticate"] and refused[4].headers["allow"] == "POST"
    assert all(error_of(answer) for answer in refused)
    told = requests.get(
        f"{running.url}/metrics", headers={"authorization": f"Bearer {running.key('operator')}"}, timeout=30
    )
    for status in (401, 400, 404):
        assert f'refused_total{{status="{status}"}} 1.0' in told.text


def test_what_is_away_for_a_while_is_503_and_a_bug_500_that_tells_nothing(
    running: Running, engine: Failing, caplog: pytest.LogCaptureFixture
) -> None:
    engine.raised = TransientError("the database is away", "wait")
    away = ask(running)
    engine.raised = RuntimeError("/srv/secrets/of.txt")
    broken = ask(running)
    engine.raised = None
    assert (away.status_code, error_of(away)) == (503, "the database is away")
    assert (broken.status_code, error_of(broken)) == (500, "the gateway failed")
    assert "secrets" not in broken.text and "/srv/secrets/of.txt" in caplog.text
    assert ask(running).status_code == 200
