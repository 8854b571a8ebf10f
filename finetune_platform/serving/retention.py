"""Upkeep of the interactions log's tables: old rows deleted, small files made into few, what they hold in figures.

Callable from anywhere, at any time, also twice at once and while gateways write.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from finetune_platform.lake import Lake
from finetune_platform.serving.interactions import DAY

if TYPE_CHECKING:
    from deltalake import DeltaTable

T = TypeVar("T")

TIME = "timestamp"
SMALL_FILE_BYTES = 32 * 2**20
"""Smaller files of one day become one."""

SETTLED = timedelta(hours=1)
"""A day is made into few files this long after its end: gateways have flushed it by then."""

READERS_HOURS = 7 * 24
"""Files that the table needs no more stay this long: a reader that began before goes on undisturbed."""

ATTEMPTS = 5


class TableFigures(NamedTuple):
    """What a table holds now, told by its log alone."""

    rows: int
    files: int
    size_bytes: int
    newest: datetime | None
    oldest: datetime | None
    version: int


class Upkeep(NamedTuple):
    """What one upkeep did. `files_removed` were deleted for good."""

    before: TableFigures
    after: TableFigures
    rows_deleted: int
    days_compacted: int
    files_removed: int


def table_figures(lake: Lake, path: str) -> TableFigures | None:
    """Rows, files, size and span of a table of the log; None where there is no table yet."""
    try:
        table = lake.table(path)
    except FileNotFoundError:
        return None
    return _figures(table)


def upkeep(lake: Lake, path: str, retention_days: int, now: datetime | None = None) -> Upkeep | None:
    """Deletes rows older than `retention_days`, compacts finished days and removes files that nobody needs.

    A deleted row is gone for readers at once and from the store after another `READERS_HOURS`.

    Args:
        path: A table of the interactions log.

    Returns:
        None where there is no table yet.

    Raises:
        Unreachable: The lake does not answer, or others changed the same rows again and again.
    """
    now = now or datetime.now(UTC)
    before = table_figures(lake, path)
    if before is None:
        return None
    first_kept = now - timedelta(days=retention_days)
    with lake.table_failures(path):
        rows_deleted = _despite_conflicts(lake, path, partial(_delete_before, moment=first_kept))
        days = _days_of_small_files(lake.table(path), (now - SETTLED).date())
        for day in days:
            _despite_conflicts(lake, path, partial(_compact, day=day))
        # In full: what a killed writer left behind is in no version of the table.
        removed = lake.table(path).vacuum(retention_hours=READERS_HOURS, dry_run=False, full=True)
        after = _figures(lake.table(path))
    return Upkeep(before, after, rows_deleted, len(days), len(removed))


def _figures(table: "DeltaTable") -> TableFigures:
    files = _files(table)
    return TableFigures(
        rows=sum(file["num_records"] for file in files),
        files=len(files),
        size_bytes=sum(file["size_bytes"] for file in files),
        newest=max((file[f"max.{TIME}"] for file in files), default=None),
        oldest=min((file[f"min.{TIME}"] for file in files), default=None),
        version=table.version(),
    )


def _files(table: "DeltaTable") -> list[dict[str, Any]]:
    """The table's files with their statistics, from its log."""
    import pyarrow as pa

    return pa.table(table.get_add_actions(flatten=True)).to_pylist()


def _delete_before(table: "DeltaTable", moment: datetime) -> int:
    return int(table.delete(f"{TIME} < '{moment.isoformat()}'")["num_deleted_rows"])


def _days_of_small_files(table: "DeltaTable", before: date) -> list[date]:
    """Days that ended and lie in several small files, oldest first."""
    small = Counter(file[f"partition.{DAY}"] for file in _files(table) if file["size_bytes"] < SMALL_FILE_BYTES)
    return sorted(day for day, count in small.items() if count > 1 and day < before)


def _compact(table: "DeltaTable", day: date) -> None:
    """Writes a day's rows anew, in one commit that fails where anybody changed that day meanwhile.

    `optimize.compact()` would not do: in deltalake 1.6 two of them at the same time both commit, and every row is
    there twice.
    """
    import pyarrow.compute as pc
    from deltalake import write_deltalake

    rows = table.to_pyarrow_dataset().scanner(filter=pc.field(DAY) == day).to_reader()
    write_deltalake(table, rows, mode="overwrite", predicate=f"{DAY} = '{day.isoformat()}'")


def _despite_conflicts(lake: Lake, path: str, change: Callable[["DeltaTable"], T]) -> T:
    """Makes a change again, on the table as it is then, where somebody else's came in between."""
    from deltalake.exceptions import CommitFailedError

    for _ in range(ATTEMPTS - 1):
        with suppress(CommitFailedError):
            return change(lake.table(path))
    return change(lake.table(path))
