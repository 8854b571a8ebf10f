"""What `finetune validate` looks at: a task file, and what it points to. Every problem at once, nothing is changed.

How problems are shown belongs in `validate.py`; what a right file looks like is decided by `task.py` and the readers
in `curation/`.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

from finetune_platform.commands.cron import cron_problem
from finetune_platform.errors import BadInput, FinetuneError, Unreachable
from finetune_platform.lake import Lake
from finetune_platform.manifests import Record
from finetune_platform.task import Source, Task
from finetune_platform.task_file import load_task
from finetune_platform.task_launcher import Place
from finetune_platform.user_functions import user_function

FIRST_ROWS = 20
"""Rows read of each source file; the chain reads them all."""

HUB_TIMEOUT_S = 5.0
PACKAGE_URI = re.compile(r"^package://[\w.-]+==[\w.+!-]+/.+$")


class Problem(Record):
    """Something to change. A `warning` does not keep the chain from running."""

    severity: Literal["error", "warning"]
    problem: str
    mend: str


class Checked(Record):
    """One task file and what is wrong with it."""

    path: str
    task: str | None
    problems: list[Problem]

    @property
    def ok(self) -> bool:
        return not any(p.severity == "error" for p in self.problems)


def check_task_file(
    path: Path, lake_url: str, cache_dir: Path, notify_urls: str = "", launcher: Place = "local"
) -> Checked:
    """Reads a task file and checks what it points to.

    Args:
        path: The file.
        lake_url: For sources and base models in the lake.
        cache_dir: Where packages are kept.
        notify_urls: The setting that the names in `notifications.to` are looked up in.
        launcher: The setting that says where tasks are trained which do not say it themselves.
    """
    try:
        task = load_task(path)
    except FinetuneError as error:
        return Checked(path=str(path), task=None, problems=list(_problems(error)))
    checks: list[Callable[[], Iterator[Problem]]] = [
        *(partial(check_source, source, task, lake_url, cache_dir) for source in task.sources),
        partial(check_base_model, task, lake_url),
        partial(check_metrics, task),
        partial(check_schedule, task),
        partial(check_owners, task),
        partial(check_slices, task),
        partial(check_search, task, launcher),
        partial(check_notifications, task, notify_urls),
    ]
    return Checked(path=str(path), task=task.name, problems=[p for check in checks for p in _all_of(check)])


def check_source(source: Source, task: Task, lake_url: str, cache_dir: Path) -> Iterator[Problem]:
    """Whether a source is there and its first rows can be read.

    Raises:
        FinetuneError: As the chain would at that source.
    """
    from finetune_platform.curation.rejections import Rejected
    from finetune_platform.curation.sources import SourceReader
    from finetune_platform.locations import find_files

    if source.uri.startswith("package://") and not PACKAGE_URI.match(source.uri):
        raise BadInput(f"sources: {source.uri}: not package://NAME==VERSION/path", "pin the package's version")
    for file in find_files(source, task.folder, Lake(lake_url), cache_dir, _silent):
        rows = SourceReader(file, source, task.curation).read()
        refused = [row for row in islice(rows, FIRST_ROWS) if isinstance(row, Rejected)]
        for row in refused[:3]:
            yield Problem(severity="warning", problem=row.detail, mend="correct the row, or it will be set aside")


def check_base_model(task: Task, lake_url: str) -> Iterator[Problem]:
    """Whether the base model can be had, without fetching it.

    Raises:
        FinetuneError: It cannot.
    """
    yield from ()
    ref = task.base_model
    if ref.uri.startswith("package://"):
        if not (PACKAGE_URI.match(ref.uri) and ref.uri.endswith(".gguf")):
            raise BadInput(
                f"base_model.uri: {ref.uri}: not package://NAME==VERSION/path/of/model.gguf",
                "pin the package's version",
            )
    elif ref.uri.startswith("lake:"):
        _expect_in_lake(Lake(lake_url), ref.uri.removeprefix("lake:").strip("/"))
    elif "://" in ref.uri:
        parent, _, name = ref.uri.rstrip("/").rpartition("/")
        _expect_in_lake(Lake(parent), name)
    elif (folder := task.folder / Path(ref.uri).expanduser()).exists() or ref.uri.startswith((".", "/", "~")):
        if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
            raise BadInput(
                f"base_model.uri: {folder}: no model there (config.json and *.safetensors)",
                "save one there with save_pretrained, or correct the path",
            )
    else:
        _expect_on_hub(ref.uri, ref.revision or "main", Lake(lake_url))


def check_metrics(task: Task) -> Iterator[Problem]:
    """Whether the task's own metrics, and the function that judges, can be imported.

    Raises:
        BadInput: One cannot.
    """
    from finetune_platform.evaluation.metrics import build_metrics

    build_metrics(task.evaluation)
    if task.judge and task.judge.scorer:
        user_function(task.judge.scorer, "judge.scorer")
    yield from ()


def check_schedule(task: Task) -> Iterator[Problem]:
    """Whether the cron expression can be kept."""
    if task.schedule and (problem := cron_problem(task.schedule.cron)):
        text = f'schedule.cron: "{task.schedule.cron}": {problem}'
        yield Problem(severity="error", problem=text, mend='write five fields, such as "0 3 * * 1"')


def check_owners(task: Task) -> Iterator[Problem]:
    """Whether anybody owns the task."""
    if not task.owners:
        yield Problem(severity="warning", problem="owners: nobody", mend='name an e-mail address or "team:NAME"')


def check_slices(task: Task) -> Iterator[Problem]:
    """Whether gates name strata that rules can give."""
    named = {f"{rule.field}={rule.value}" for rule in task.curation.strata}
    for gate in task.evaluation.gates:
        if gate.slice != "all" and gate.slice not in named:
            text = f"evaluation.gates: slice {gate.slice} is named by no rule of curation.strata"
            yield Problem(severity="warning", problem=text, mend="add a rule, unless the rows bring this stratum")


def check_search(task: Task, launcher: Place) -> Iterator[Problem]:
    """Whether options can be searched for where the task is trained.

    Raises:
        BadInput: That is here, and what proposes them is not installed.
    """
    from finetune_platform.training.search.proposals import require_optuna

    if (search := task.training.search) is None:
        return
    place = task.launcher.place or launcher
    if reason := task.launcher.against_search(place, search.minutes):
        yield Problem(severity="error", problem=reason, mend="set launcher.place, or leave training.search out")
    if place == "local":
        require_optuna()


def check_notifications(task: Task, notify_urls: str) -> Iterator[Problem]:
    """Whether those who should hear of the task's events are known.

    Raises:
        BadInput: NOTIFY_URLS cannot be read, or has no target of a name that the task wants.
    """
    from finetune_platform.notifications.targets import MEND, chosen, problem_of, targets_of

    for target in chosen(targets_of(notify_urls), task.notifications.to, task.name):
        if problem := problem_of(target):
            text = f"notifications: NOTIFY_URLS: {target.name}: {problem}"
            yield Problem(severity="error", problem=text, mend=MEND)


def _all_of(check: Callable[[], Iterator[Problem]]) -> Iterator[Problem]:
    """The problems that a check tells, and the failure that ended it."""
    try:
        yield from check()
    except FinetuneError as error:
        yield from _problems(error)


def _problems(error: FinetuneError) -> Iterator[Problem]:
    for line in error.problem.splitlines():
        yield Problem(severity="error", problem=line, mend=error.mend)


def _expect_in_lake(lake: Lake, path: str) -> None:
    if not lake.exists(f"{path}/config.json"):
        raise BadInput(
            f"base_model.uri: {lake.url_of(path)}: no model there (config.json)", "copy the model's folder there"
        )


def _expect_on_hub(name: str, pin: str, lake: Lake) -> None:
    from httpx2 import HTTPError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    if lake.exists(f"base_models/hub/{name}@{pin}.json"):
        return
    try:
        HfApi().model_info(name, revision=pin, timeout=HUB_TIMEOUT_S)
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise BadInput(
            f"base_model.uri: {name}@{pin}: neither a local folder nor a model on the hub",
            "check the id and base_model.revision; a gated model needs HF_TOKEN",
        ) from error
    except (HfHubHTTPError, HTTPError, OSError) as error:
        raise Unreachable(
            f"base_model.uri: {name}: not in the lake, and the model hub does not answer",
            "reach the network once, or point base_model.uri at a local folder or lake:base_models/NAME",
        ) from error


def _silent(line: str) -> None:
    """Downloads are not told of: only what is wrong is."""
