"""What `finetune doctor` looks at: this machine, the installed versions, the addresses. Each check has its mend.

Nothing is repaired here. How checks are shown belongs in `doctor.py`.
"""

import platform
import re
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Literal

from finetune_platform.commands.dagster_home import config_state, shipped_config
from finetune_platform.database import Database
from finetune_platform.errors import FinetuneError
from finetune_platform.lake import Lake
from finetune_platform.manifests import Record
from finetune_platform.settings import Settings

PYTHON_VERSIONS = ((3, 11), (3, 12))
MIN_DISK_GB, LOW_DISK_GB = 2.0, 10.0
LOW_MEMORY_GB = 4.0
MLFLOW_TIMEOUT_S = 5.0
CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"
KEY_PACKAGES = ("torch", "transformers", "peft", "dagster", "mlflow", "daft", "great-expectations", "obstore")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "firefox")


class Check(Record):
    """One thing looked at. `mend` is empty where there is nothing to do."""

    name: str
    state: Literal["ok", "warn", "fail"]
    message: str
    mend: str = ""


def check_all(settings: Settings) -> Iterator[Check]:
    """Every check, one by one; a failing one does not stop the next."""
    yield check_python()
    yield check_versions(CONSTRAINTS)
    yield check_disk(settings.finetune_home)
    yield check_memory()
    yield check_gpu()
    yield _reached("lake", lambda: check_lake(settings.lake_url))
    yield _reached("database", lambda: check_database(settings.database_url))
    yield _reached("mlflow", lambda: check_mlflow(settings.mlflow_tracking_uri))
    yield check_tasks(settings.tasks_dir)
    yield check_dagster_home(settings)
    yield _reached("notify", lambda: check_notify(settings.notify_urls.get_secret_value()))
    yield check_browser()


def check_python() -> Check:
    """Whether this Python is one the pins were made for."""
    version = sys.version_info[:2]
    if version in PYTHON_VERSIONS:
        return Check(name="python", state="ok", message=platform.python_version())
    known = " or ".join(".".join(map(str, v)) for v in PYTHON_VERSIONS)
    return Check(
        name="python",
        state="fail",
        message=f"{platform.python_version()} is not {known}",
        mend=f"make a new environment with Python {known}",
    )


def check_versions(constraints: Path) -> Check:
    """Whether the installed packages are those that were tested together."""
    installed = {name: v for name in KEY_PACKAGES if (v := _version(name))}
    told = ", ".join(f"{name} {version}" for name, version in installed.items())
    missing = [name for name in KEY_PACKAGES if name not in installed]
    if missing:
        mend = "install the package again: pip install -c constraints.txt ."
        return Check(name="versions", state="fail", message=f"not installed: {', '.join(missing)}", mend=mend)
    if not constraints.is_file():
        return Check(name="versions", state="ok", message=f"{told} (no constraints.txt here to compare with)")
    other = [
        f"{name} is {found}, pinned {pin}"
        for name, pin in _pins(constraints)
        if (found := _version(name)) and _public(found) != _public(pin)
    ]
    if other:
        mend = f"pip install -c {constraints} -e {constraints.parent}"
        return Check(name="versions", state="warn", message="; ".join(other), mend=mend)
    return Check(name="versions", state="ok", message=f"as pinned: {told}")


def check_disk(folder: Path) -> Check:
    """Whether there is room for models and checkpoints."""
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(existing).free / 1e9
    message = f"{free:.1f} GB free at {folder}"
    mend = "free some space, or set FINETUNE_HOME and LAKE_URL to another disk"
    if free < MIN_DISK_GB:
        return Check(name="disk", state="fail", message=message, mend=mend)
    return Check(name="disk", state="warn" if free < LOW_DISK_GB else "ok", message=message, mend=mend)


def check_memory() -> Check:
    """Whether a small model can be trained in this memory."""
    import psutil

    memory = psutil.virtual_memory()
    free, total = memory.available / 1e9, memory.total / 1e9
    message = f"{free:.1f} of {total:.1f} GB free, {psutil.cpu_count() or 1} processors"
    if free < LOW_MEMORY_GB:
        mend = "close other programs, or lower per_device_train_batch_size and max_length in the task file"
        return Check(name="memory", state="warn", message=message, mend=mend)
    return Check(name="memory", state="ok", message=message)


def check_gpu() -> Check:
    """Which accelerator torch sees; none is no fault."""
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Check(name="gpu", state="ok", message=", ".join(names))
    if torch.backends.mps.is_available():
        return Check(name="gpu", state="ok", message="Apple GPU")
    if shutil.which("nvidia-smi"):
        mend = "install the torch build that fits the driver (`nvidia-smi` shows its CUDA version)"
        return Check(name="gpu", state="warn", message="there is an NVIDIA driver, torch does not see it", mend=mend)
    return Check(name="gpu", state="ok", message="none; models train on the processors, which suits small ones")


def check_lake(url: str) -> Check:
    """Whether the lake can be read and written, and keeps the first of two create-only writes."""
    lake = Lake(url)
    path = f".doctor/{uuid.uuid4().hex}"
    try:
        first, second = lake.put_new(path, b"first"), lake.put_new(path, b"second")
        kept = lake.get(path)
    finally:
        lake.delete(path)
    if (first, second, kept) != (True, False, b"first"):
        mend = "use a server with conditional writes (If-None-Match), or two writers may overwrite each other"
        return Check(name="lake", state="fail", message=f"{url}: create-only writes overwrite", mend=mend)
    return Check(name="lake", state="ok", message=f"{lake.url}: reads, writes, creates once")


def check_database(url: str) -> Check:
    """Whether the database answers, with its schema up to date."""
    database = Database(url)
    database.upgrade()
    return Check(name="database", state="ok", message=database.address)


def check_mlflow(uri: str) -> Check:
    """Whether MLflow's server answers, or its database can be used."""
    if uri.startswith(("http://", "https://")):
        return _mlflow_server(uri)
    from sqlalchemy import create_engine, inspect
    from sqlalchemy.exc import SQLAlchemyError

    address = re.sub(r"//[^@/]*@", "//", uri)
    try:
        engine = create_engine(uri)
        with engine.connect() as connection:
            made = inspect(connection).has_table("experiments")
        engine.dispose()
    except SQLAlchemyError as error:
        mend = "correct MLFLOW_TRACKING_URI, or unset it for the default beside DATABASE_URL"
        return Check(name="mlflow", state="fail", message=f"{address}: {str(error).splitlines()[0]}", mend=mend)
    return Check(name="mlflow", state="ok", message=address if made else f"{address} (made at the first run)")


def check_tasks(folder: Path) -> Check:
    """Whether the task files are right in themselves; what they point to is `finetune validate`'s to check."""
    from finetune_platform.task_file import find_tasks

    try:
        tasks = find_tasks(folder)
    except FinetuneError as error:
        return Check(name="tasks", state="fail", message=error.problem, mend=error.mend)
    if not tasks:
        mend = "`finetune init NAME` writes one; TASKS_DIR names the folder"
        return Check(name="tasks", state="warn", message=f"{folder}: no task file", mend=mend)
    return Check(name="tasks", state="ok", message=f"{folder}: {', '.join(task.name for task in tasks)}")


def check_dagster_home(settings: Settings) -> Check:
    """Whether DAGSTER_HOME carries the project's configuration."""
    home = settings.dagster_home.absolute()
    try:
        state = config_state(home, shipped_config())
    except FinetuneError as error:
        return Check(name="dagster", state="fail", message=error.problem, mend=error.mend)
    except OSError as error:
        mend = "give this user access, or set DAGSTER_HOME to another folder"
        return Check(name="dagster", state="fail", message=f"{home}: {error.strerror}", mend=mend)
    if state == "edited":
        mend = f"compare {home / 'dagster.yaml'} with {shipped_config()}; delete it to get the project's own again"
        return Check(name="dagster", state="warn", message=f"{home}: dagster.yaml is edited by hand", mend=mend)
    told = "made by the first `finetune run` or `finetune up`" if state == "absent" else "dagster.yaml in place"
    return Check(name="dagster", state="ok", message=f"{home}: {told}")


def check_notify(notify_urls: str) -> Check:
    """Whether anybody hears of alarms and rollbacks; nothing is sent."""
    from finetune_platform.notifications.targets import MEND, problem_of, targets_of

    targets = targets_of(notify_urls)
    if not targets:
        message = "NOTIFY_URLS is not set: alarms and rollbacks are kept, and nobody is told"
        return Check(name="notify", state="ok", message=message)
    if problems := [f"{target.name}: {problem}" for target in targets if (problem := problem_of(target))]:
        return Check(name="notify", state="fail", message=f"NOTIFY_URLS: {'; '.join(problems)}", mend=MEND)
    told = ", ".join(f"{target.name} ({target.schema})" for target in targets)
    return Check(name="notify", state="ok", message=f"{told}; `finetune notify test` sends a message")


def check_browser() -> Check:
    """Whether this machine can show a report; servers need not."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    return Check(
        name="browser", state="ok", message=found or "none found here; reports are single files, open them elsewhere"
    )


def _reached(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except FinetuneError as error:
        return Check(name=name, state="fail", message=error.problem, mend=error.mend)


def _mlflow_server(uri: str) -> Check:
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=MLFLOW_TIMEOUT_S):
            return Check(name="mlflow", state="ok", message=uri)
    except (urllib.error.URLError, OSError) as error:
        mend = "start the server, or unset MLFLOW_TRACKING_URI for the default beside DATABASE_URL"
        return Check(name="mlflow", state="fail", message=f"{uri}: does not answer: {error}", mend=mend)


def _pins(constraints: Path) -> Iterator[tuple[str, str]]:
    for line in constraints.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"^([A-Za-z0-9._-]+)==([^\s;#]+)", line):
            yield match[1], match[2]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _public(version: str) -> str:
    """Without the build's label: torch 2.13.0+cpu is torch 2.13.0."""
    return version.partition("+")[0]
