"""The loop's own installation below the home of the real one: its task file, its rows, its servers' environment.

Sensors of another installation never see it, and deleting its folder forgets it.
"""

import json
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np

from finetune_platform.curation.groups import normalised
from finetune_platform.database import Database
from finetune_platform.errors import PermanentError
from finetune_platform.lake import Lake
from finetune_platform.packages import package_file
from finetune_platform.progress import Report
from finetune_platform.settings import Settings
from finetune_platform.storage_errors import disk_failures
from finetune_platform.task import Task
from finetune_platform.task_file import load_task

TASK_NAME = "contract_loop"
ROWS_URI = "package://evals==3.0.1.post1/evals/registry/data/ner_finance/samples.jsonl"
ROWS_SHA256 = "0abcb2051303500784b1641a6e4f6b813ed43ad64f879a37d344a6774eb8eb78"

NEW_KIND = re.compile(r"\b(bank|lender|agent)", re.IGNORECASE)
"""Sentences about the parties of a loan are kept out of the first dataset: the traffic that nobody expected."""

SHORTEST, LONGEST_KNOWN = 25, 300
"""Characters: headings, and long sentences of the known kind, are in no part."""

FIRST_ROWS, QUIET_ROWS, SHIFTED_ROWS, MEASURED_ROWS = 395, 180, 190, 120


class Row(NamedTuple):
    """One sentence and its right answer."""

    question: str
    gold: str


class Rows(NamedTuple):
    """The demo's sentences, each in one part.

    Attributes:
        first: What the first dataset is made of.
        quiet: Traffic of the same kind.
        shifted: Traffic of the kind that the first dataset does not know.
        measured: More of that kind, which nobody labels: quality before and after is measured on it.
    """

    first: list[Row]
    quiet: list[Row]
    shifted: list[Row]
    measured: list[Row]


class Place(NamedTuple):
    """Where the loop lives."""

    settings: Settings
    task: Task
    lake: Lake
    database: Database
    rows: Rows

    @property
    def home(self) -> Path:
        return self.settings.finetune_home

    @property
    def notes(self) -> Path:
        """The file of what was asked and answered."""
        return self.home / "asked.jsonl"

    @property
    def environment(self) -> Mapping[str, str]:
        """What its servers are told instead of what this process was."""
        own = self.settings
        return {
            "FINETUNE_HOME": str(own.finetune_home),
            "LAKE_URL": own.lake_url,
            "DATABASE_URL": own.database_url,
            "MLFLOW_TRACKING_URI": own.mlflow_tracking_uri,
            "DAGSTER_HOME": str(own.dagster_home),
            "FINETUNE_CACHE_DIR": str(own.cache_dir),
            "TASKS_DIR": str(own.tasks_dir),
            "NOTIFY_URLS": "",
        }


def open_place(parent: Settings, report: Report) -> Place:
    """Makes the installation, or finds it.

    Args:
        parent: The real installation's: downloads are shared with it.
        report: Hears of downloads.
    """
    home = parent.finetune_home / "loop"
    own = Settings(
        finetune_home=home,
        lake_url=str(home / "lake"),
        database_url=f"sqlite:///{home / 'finetune.db'}",
        mlflow_tracking_uri=f"sqlite:///{home / 'mlflow.db'}",
        dagster_home=home / "dagster",
        FINETUNE_CACHE_DIR=parent.cache_dir,
        tasks_dir=home / "tasks",
    )
    file = own.tasks_dir / f"{TASK_NAME}.yaml"
    with disk_failures(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes((files("finetune_platform") / "templates" / "loop_task.yaml").read_bytes())
    rows = divide(read_rows(package_file(ROWS_URI, ROWS_SHA256, own.cache_dir, report)))
    return Place(own, load_task(file), Lake(own.lake_url), Database(own.database_url), rows)


def read_rows(file: Path) -> list[Row]:
    """The sentences of the package's file in their order, one of those that curation would group."""
    found: dict[str, Row] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        question = row["input"][-1]["content"]
        found.setdefault(normalised(question), Row(question, row["ideal"]))
    return list(found.values())


def divide(rows: list[Row]) -> Rows:
    """Puts the sentences into the four parts, always the same way.

    Raises:
        PermanentError: There are too few of a kind.
    """
    order = np.random.default_rng(0).permutation(len(rows))
    shuffled = [rows[i] for i in order if len(rows[i].question) >= SHORTEST]
    new = [row for row in shuffled if NEW_KIND.search(row.question)]
    known = [row for row in shuffled if not NEW_KIND.search(row.question) and len(row.question) < LONGEST_KNOWN]
    if len(known) < FIRST_ROWS + QUIET_ROWS or len(new) < SHIFTED_ROWS + MEASURED_ROWS:
        raise PermanentError(
            f"{ROWS_URI}: {len(known)} known and {len(new)} new rows are too few", "keep the pinned wheel"
        )
    return Rows(
        first=known[:FIRST_ROWS],
        quiet=known[FIRST_ROWS : FIRST_ROWS + QUIET_ROWS],
        shifted=new[:SHIFTED_ROWS],
        measured=new[SHIFTED_ROWS : SHIFTED_ROWS + MEASURED_ROWS],
    )
