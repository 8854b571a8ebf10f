"""`finetune status`: a table a task; what is stale, why, and what to run."""

import itertools
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from finetune_platform.commands.installation import open_database, open_lake, read_settings, some_tasks
from finetune_platform.commands.terminal import console, print_json
from finetune_platform.errors import BadInput
from finetune_platform.identity import file_sha256
from finetune_platform.lake import Lake
from finetune_platform.registry.status import AssetStatus, TaskStatus, status
from finetune_platform.task import Task

DRIFT_STYLES = {"gathering": "yellow", "quiet": "green", "alarm": "bold red"}

MARKS = {"in place": ("✓", "green"), "stale": ("!", "yellow"), "missing": ("·", "dim")}


def show_status(name: str | None, as_json: bool) -> None:
    """Shows one task, or all."""
    lake, database = open_lake(), open_database()
    tasks = some_tasks(name)
    versions = code_versions()
    found = [status(task, lake, database, versions, source_hashes(task, lake)) for task in tasks]
    if as_json:
        print_json({"tasks": found})
        return
    for task_status in found:
        show(task_status, console())


def code_versions() -> dict[str, str]:
    """Versions of the code that makes each asset."""
    from finetune_platform.curation.collect import CURATION_VERSION
    from finetune_platform.evaluation.evaluate import EVALUATION_VERSION
    from finetune_platform.registry.register import CODE_VERSION
    from finetune_platform.training import TRAINING_VERSION

    return {
        "raw_examples": CURATION_VERSION,
        "curated_dataset": CURATION_VERSION,
        "trained_adapter": TRAINING_VERSION,
        "evaluation_report": EVALUATION_VERSION,
        "registered_adapter": CODE_VERSION,
    }


def source_hashes(task: Task, lake: Lake) -> Mapping[str, str | None]:
    """The files that a task's sources mean now, with the SHA-256 of local ones.

    A pinned package cannot change, so it is named and not fetched; a missing source is absent.
    """
    from finetune_platform.locations import find_files

    found: dict[str, str | None] = {}
    for source in task.sources:
        if source.uri.startswith("package://"):
            found[source.uri] = None
            continue
        try:
            files = find_files(source, task.folder, lake, read_settings().cache_dir, lambda line: None)
        except BadInput:
            continue
        for file in files:
            local = not file.uri.startswith("lake:") and "://" not in file.uri
            found[file.uri] = file_sha256(task.folder / file.uri) if local else None
    return found


def stages_in_place(task: Task, stages: Sequence[str]) -> list[str]:
    """The first of `stages` whose artifacts still hold, up to the first that does not."""
    lake = open_lake()
    found = status(task, lake, open_database(), code_versions(), source_hashes(task, lake))
    holds = {asset.asset for asset in found.assets if asset.state == "in place"}
    return list(itertools.takewhile(holds.__contains__, stages))


def show(found: TaskStatus, out: Console) -> None:
    """Prints one task's status."""
    out.print(Text(found.task, "bold") + Text(f"  {found.headline or 'not evaluated yet'}"), soft_wrap=True)
    table = Table.grid(padding=(0, 2))
    for asset in found.assets:
        table.add_row(*_row(asset))
    out.print(table)
    for asset in found.assets:
        for reason in asset.because:
            out.print(Text(f"  {asset.asset}: {reason}", "yellow"), soft_wrap=True)
    rows = ", ".join(f"{split} {count:,}" for split, count in found.dataset_rows.items())
    out.print(f"  dataset rows  {rows or 'none'}")
    out.print(f"  champion      {found.champion or 'none'}")
    out.print(f"  candidate     {found.candidate or 'none'}")
    drift = found.drift
    told = f"{drift.status}: {drift.headline}" if drift else "nobody has looked yet"
    out.print(Text("  traffic       ") + Text(told, DRIFT_STYLES[drift.status] if drift else "dim"), soft_wrap=True)
    first = found.first_to_make
    out.print(Text(f"  next: finetune run {found.task}" if first else "  everything is in place", "dim"))
    out.print()


def _row(asset: AssetStatus) -> tuple[Text, ...]:
    mark, style = MARKS[asset.state]
    when = (asset.created_at or "").replace("T", " ").removesuffix("+00:00")
    return (
        Text(f"  {mark}", style),
        Text(asset.asset),
        Text(asset.state, style),
        Text(asset.artifact_id or ""),
        Text(f"{when} UTC" if when else "", "dim"),
    )
