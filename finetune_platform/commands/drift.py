"""`finetune drift`: what the last look at a task's traffic found; a look by hand; a new beginning."""

import math
from datetime import UTC, datetime

from rich.text import Text

from finetune_platform.commands.dagster_home import prepare
from finetune_platform.commands.installation import find_task, open_database, open_lake, read_settings
from finetune_platform.commands.live import stage_view
from finetune_platform.commands.operate import new_table
from finetune_platform.commands.status import DRIFT_STYLES
from finetune_platform.commands.terminal import console, plain, print_json
from finetune_platform.drift.measured import measure_anew
from finetune_platform.drift.publication import PAGE_NAME, read_report
from finetune_platform.drift.report import Changes
from finetune_platform.drift.state import forget, ticks_of
from finetune_platform.drift.tables import DriftTick
from finetune_platform.errors import BadInput
from finetune_platform.manifests_drift import DriftManifest

ASSET = "drift_report"
BARS = "▁▂▃▄▅▆▇█"
SHOWN_TICKS = 30
SHOWN_CLUSTERS = 3


def drift(name: str, look_first: bool, anew: bool, as_json: bool) -> None:
    """Ends the alarm or looks, where that is asked, and prints the newest report unless only the former was.

    Raises:
        BadInput: No such task, or nobody ever looked.
        FinetuneError: Whatever ended the look.
    """
    if anew:
        begun = begin_anew(name)
        if not look_first:
            print_json({"anew": begun}) if as_json else console().print(
                f"{name}: the reference is forgotten, another is gathered from now on"
                if begun
                else f"{name}: there was no reference yet"
            )
            return
    if look_first:
        look(name)
    show(name, as_json)


def look(name: str) -> None:
    """Materializes the task's drift report.

    Raises:
        BadInput: No such task.
        FinetuneError: Whatever ended the run.
    """
    task = find_task(name)
    prepare(read_settings())
    from finetune_platform.definitions import build_defs
    from finetune_platform.sensors.by_hand import execute

    with stage_view((ASSET,)) as send:
        execute(build_defs().resolve_job_def(f"{task.name}_drift"), task.name, (ASSET,), send)


def begin_anew(name: str) -> bool:
    """Forgets the task's reference and evidence; False where there was none.

    Raises:
        BadInput: No such task.
    """
    task, now = find_task(name).name, datetime.now(UTC)
    measure_anew(open_lake(), task, now)
    return forget(open_database(), task, now)


def show(name: str, as_json: bool) -> None:
    """Prints the newest report.

    Raises:
        BadInput: No such task, or nobody ever looked.
    """
    task = find_task(name)
    database = open_database()
    made = database.latest_artifact(task.name, ASSET)
    if made is None:
        raise BadInput(f"{task.name}: nobody has looked at its traffic yet", f"`finetune drift {task.name} --look`")
    lake = open_lake()
    found = lake.manifest(DriftManifest, DriftManifest.path_of(task.name, made.artifact_id))
    report, page = read_report(lake, found), lake.url_of(f"{found.path}/{PAGE_NAME}")
    changes = report.changes if report else None
    reference = found.parents.get("drift_reference")
    ticks = ticks_of(database, task.name, reference) if reference else []
    if as_json:
        columns = ("number", "since", "until", "rows", "counted", "e_value", "channels", "alarm")
        history = [{column: plain(getattr(tick, column)) for column in columns} for tick in ticks]
        told = {"report": page if report else None, "changes": changes, "history": history}
        print_json({**found.model_dump(mode="json"), **told})
        return
    _print(found, ticks)
    if changes:
        _print_changes(changes)
    if report:
        console().print(f"report: {page}", soft_wrap=True)


def _print(found: DriftManifest, ticks: list[DriftTick]) -> None:
    out, until = console(), found.until[:16].replace("T", " ")
    out.print(Text.assemble((f" {found.status} ", DRIFT_STYLES[found.status]), f" {found.headline}"))
    out.print(f"{found.champion}, up to {until} UTC: {found.rows:,} rows, {found.counted:,} count")
    _print_quality(found)
    if not ticks:
        return
    table = new_table("channel", "evidence", f"last {min(len(ticks), SHOWN_TICKS)} looks")
    for channel in found.channels:
        past = [tick.channels.get(channel.name, 1.0) for tick in ticks[-SHOWN_TICKS:]]
        table.add_row(channel.name, f"{channel.e_value:.4g}", "".join(_bar(value, found.limit) for value in past))
    out.print(table)
    out.print(f"alarm where the mean of all channels reaches {found.limit:,.0f}", style="dim")


def _print_quality(found: DriftManifest) -> None:
    out = console()
    if found.performance:
        table = new_table("metric", "now", "95% interval", "was", "labels", "judged", "evidence")
        for record in found.performance:
            now = "–" if record.estimate is None else f"{record.estimate:.3f}"
            interval = "–" if record.lower is None else f"{record.lower:.3f} to {record.upper:.3f}"
            was = "–" if record.baseline is None else f"{record.baseline:.3f}"
            style = "bold red" if record.degraded else ""
            evidence = Text(f"{record.e_value:.4g} of {record.limit:,.0f}", style)
            counts = (f"{record.n_labels:,}", f"{record.n_judged:,}")
            table.add_row(Text(record.metric, style), now, interval, was, *counts, evidence)
        out.print(table)
    if judge := found.judge:
        said = f"judge: {judge.scored:,} answers scored, {judge.unreadable:,} unreadable, {judge.failed:,} failed"
        cost = f"; 30 days cost {judge.cost_of_30_days:,.2f} {judge.currency}" if judge.cost_of_30_days else ""
        out.print(Text(f"{said}{cost}" + (f" ({judge.problem})" if judge.problem else "")))


def _print_changes(changes: Changes) -> None:
    out = console()
    if changes.cause:
        out.print(f"suspected: {changes.cause.kind}. {changes.cause.because}", style="yellow")
    since = changes.since[:16].replace("T", " ")
    out.print(
        f"since {since} UTC: {changes.novel.rows:,} of {changes.compared:,} rows are stranger than "
        f"{1 - changes.novel.share_before:.0%} of the reference"
    )
    for cluster in changes.novel.clusters[:SHOWN_CLUSTERS]:
        words = ", ".join(gram.words for gram in cluster.words) or "no common words"
        out.print(Text(f"  {cluster.rows:,} rows: {words}; such as “{cluster.examples[0].text}”"))


def _bar(e_value: float, limit: float) -> str:
    """How far the logarithm of the evidence has come towards the limit."""
    share = math.log(max(e_value, 1.0)) / math.log(limit)
    return BARS[min(int(share * len(BARS)), len(BARS) - 1)]
