"""Spans as a collector gets them, over OTLP/HTTP from the running gateway; and what a dead collector costs."""

import http.server
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests
from adapter_bundles import publish_adapter
from gateway_server import Running, running_gateway
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from vllm_stand_in import StandIn

from finetune_platform.database import Database
from finetune_platform.lake import Lake
from finetune_platform.serving import routes
from finetune_platform.serving.routes import edited
from finetune_platform.settings import Settings
from finetune_platform.task_file import load_task

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SECRET = "the borrower is Miller"
ERROR = 2
"""`STATUS_CODE_ERROR` of the protocol."""


class Span(NamedTuple):
    name: str
    trace: str
    id: str
    parent: str
    failed: bool
    took_s: float
    said: dict[str, Any]


class Collector:
    """Takes spans as any OTLP/HTTP collector does."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        self.raw: list[bytes] = []
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["content-length"]))
                assert self.path == "/v1/traces" and self.headers["content-type"] == "application/x-protobuf"
                collector.raw.append(raw)
                collector.requests.append(ExportTraceServiceRequest.FromString(raw))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None: ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def spans(self) -> list[Span]:
        found = [s for r in self.requests for one in r.resource_spans for scope in one.scope_spans for s in scope.spans]
        return [
            Span(
                s.name,
                s.trace_id.hex(),
                s.span_id.hex(),
                s.parent_span_id.hex(),
                s.status.code == ERROR,
                (s.end_time_unix_nano - s.start_time_unix_nano) / 1e9,
                {a.key: getattr(a.value, str(a.value.WhichOneof("value"))) for a in s.attributes},
            )
            for s in sorted(found, key=lambda s: s.start_time_unix_nano)
        ]

    def resource(self) -> dict[str, str]:
        return {a.key: a.value.string_value for a in self.requests[0].resource_spans[0].resource.attributes}


@pytest.fixture
def collector() -> Iterator[Collector]:
    running = Collector()
    yield running
    running.server.shutdown()


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[StandIn]:
    with StandIn(tmp_path) as server:
        yield server


@contextmanager
def gateway(
    place: Settings, task_file: Any, upstream: StandIn, endpoint: str, **serving: Any
) -> Iterator[tuple[Running, str]]:
    """A gateway whose champion runs on the upstream, which also answers for the base model; and the champion's id."""
    urls = [upstream.url]
    engines = {"engine": {"kind": "vllm", "urls": urls}, "base": {"kind": "openai", "urls": urls, "model": "base"}}
    path = task_file(serving={**engines, **serving})
    task = load_task(path)
    adapter = publish_adapter(Lake(place.lake_url), task.name, "champion")
    database = Database(place.database_url)
    routes.change(
        database, task.name, lambda plan: edited(plan, champion=adapter), actor="test", action="route.edit", reason="-"
    )
    database.close()
    with running_gateway(place.model_copy(update={"otlp_endpoint": endpoint}), [task], {}) as running:
        yield running, adapter


def ask(running: Running, key: str, **changes: Any) -> requests.Response:
    body = {"model": "ticket_topics", "messages": [{"role": "user", "content": SECRET}], **changes}
    headers = {"authorization": f"Bearer {key}", "traceparent": CALLER}
    return requests.post(f"{running.url}/v1/chat/completions?why={SECRET}", json=body, headers=headers, timeout=30)


def test_a_request_with_a_fallback_is_one_tree_from_caller_to_server(
    settings_env: Settings, task_file: Any, upstream: StandIn, collector: Collector
) -> None:
    with gateway(settings_env, task_file, upstream, collector.url) as (running, adapter):
        upstream.behave(adapter, manner="failing")
        answer = ask(running, running.key())
        assert answer.status_code == 200 and answer.json()["choices"][0]["message"]["content"] == "card by base"
        assert requests.get(f"{running.url}/healthz", timeout=5).ok
    request, failed, answered = collector.spans()
    assert request.name == "POST /v1/chat/completions"
    assert (request.trace, request.parent) == tuple(CALLER.split("-")[1:3])
    assert request.said["http.response.status_code"] == 200
    assert failed.parent == answered.parent == request.id and failed.trace == answered.trace == request.trace
    assert (failed.name, failed.failed, failed.said["error.type"]) == ("chat ticket_topics", True, "502")
    assert [failed.said[f"finetune.{k}"] for k in ("arm", "adapter", "outcome")] == ["champion", adapter, "error"]
    assert [answered.said[f"finetune.{k}"] for k in ("arm", "adapter", "outcome")] == ["fallback", "base", "stop"]
    assert answered.said["finetune.interaction_id"] == answer.json()["id"]
    assert (answered.said["gen_ai.usage.input_tokens"], answered.said["gen_ai.usage.output_tokens"]) == (5, 3)
    assert not answered.failed and not answered.said["gen_ai.request.stream"]
    asked = [(seen["x-model"], seen["traceparent"].split("-")[1:3]) for seen in upstream.headers()]
    assert asked == [(adapter, [failed.trace, failed.id]), ("base", [answered.trace, answered.id])]
    assert collector.resource()["service.name"] == "finetune-gateway"
    told = b"".join(collector.raw)
    assert b"Miller" not in told and b"card by" not in told


def test_the_span_of_a_streamed_answer_lasts_until_its_last_piece(
    settings_env: Settings, task_file: Any, upstream: StandIn, collector: Collector
) -> None:
    with gateway(settings_env, task_file, upstream, collector.url) as (running, adapter):
        upstream.behave(adapter, pieces=3, piece_s=0.1)
        whole = ask(running, running.key(), stream=True).text
        upstream.behave(adapter, manner="break_off", piece_s=0.05)
        broken = ask(running, running.key(), stream=True).text
    assert "[DONE]" in whole and "error" in broken
    spans = collector.spans()
    arms = [span for span in spans if span.name == "chat ticket_topics"]
    requests_ = {span.id: span for span in spans if span.name == "POST /v1/chat/completions"}
    assert [(a.said["finetune.outcome"], a.failed) for a in arms] == [("stop", False), ("error", True)]
    assert 0.3 <= arms[0].took_s <= requests_[arms[0].parent].took_s
    assert arms[0].said["gen_ai.request.stream"] and arms[0].said["gen_ai.usage.output_tokens"] == 3
    assert len(requests_) == 2 and set(requests_) == {arm.parent for arm in arms}


def test_an_answer_that_was_kept_ends_its_span_too(
    settings_env: Settings, task_file: Any, upstream: StandIn, collector: Collector
) -> None:
    with gateway(settings_env, task_file, upstream, collector.url, response_cache={}) as (running, _):
        key = running.key()
        assert [ask(running, key).headers.get("x-finetune-cache") for _ in range(2)] == [None, "hit"]
    outcomes = [span.said["finetune.outcome"] for span in collector.spans() if "finetune.outcome" in span.said]
    assert outcomes == ["stop", "cached"]


def test_a_reader_who_leaves_and_a_refused_request_end_their_spans(
    settings_env: Settings, task_file: Any, upstream: StandIn, collector: Collector
) -> None:
    with gateway(settings_env, task_file, upstream, collector.url) as (running, adapter):
        upstream.behave(adapter, manner="refusing")
        assert ask(running, running.key()).status_code == 400
        upstream.behave(adapter, pieces=1000, piece_s=0.02)
        body = {"model": "ticket_topics", "messages": [{"role": "user", "content": "x"}], "stream": True}
        headers = {"authorization": f"Bearer {running.key()}"}
        url = f"{running.url}/v1/chat/completions"
        with requests.post(url, json=body, headers=headers, stream=True, timeout=30) as answer:
            next(answer.iter_lines())
    arms = [span for span in collector.spans() if span.name == "chat ticket_topics"]
    assert [(arm.said["finetune.outcome"], arm.failed) for arm in arms] == [("refused", True), ("cancelled", False)]


@pytest.mark.parametrize("dead", ["refuses", "hangs"])
def test_a_dead_collector_slows_and_breaks_nothing(
    settings_env: Settings, task_file: Any, upstream: StandIn, collector: Collector, dead: str
) -> None:
    collector.server.shutdown()
    if dead == "refuses":
        collector.server.server_close()
    with gateway(settings_env, task_file, upstream, collector.url) as (running, adapter):
        key = running.key()
        assert ask(running, key).ok
        began = time.monotonic()
        for _ in range(50):
            assert ask(running, key).json()["choices"][0]["message"]["content"] == f"card by {adapter}"
        assert (time.monotonic() - began) / 50 < 0.25
        began = time.monotonic()
    assert time.monotonic() - began < 15, "the gateway did not stop"


def test_without_an_endpoint_nothing_is_told_and_nothing_passed_on(
    settings_env: Settings, task_file: Any, upstream: StandIn
) -> None:
    with gateway(settings_env, task_file, upstream, "") as (running, adapter):
        assert ask(running, running.key()).ok
        assert running.gateway.tracing.of_requests["tracing"] is False
    (seen,) = upstream.headers()
    assert seen["x-model"] == adapter and "traceparent" not in seen
