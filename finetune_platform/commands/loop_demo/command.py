"""The command itself: servers up, the cycle, the last screen, servers down."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.table import Table
from rich.text import Text

from finetune_platform.commands.dagster_home import prepare
from finetune_platform.commands.installation import read_settings
from finetune_platform.commands.loop_demo.measuring import Change
from finetune_platform.commands.loop_demo.place import TASK_NAME, Place, open_place
from finetune_platform.commands.loop_demo.traffic import Callers
from finetune_platform.commands.operate import actor, new_table
from finetune_platform.commands.processes import Service, choose_port, stop, wait_until_ready
from finetune_platform.commands.terminal import console
from finetune_platform.commands.up import READY_S, planned_services
from finetune_platform.manifests import EvaluationManifest
from finetune_platform.serving.keys import create_key

MADE = ("drift_report", "review_batch", "expert_labels", "evaluation_report", "registered_adapter")

DAGSTER_PORT, GATEWAY_PORT = 3100, 8100
HOST = "127.0.0.1"


def demo_loop() -> None:
    """Runs a whole cycle, or the rest of one that was stopped, and shows what came of it.

    Raises:
        FinetuneError: Whatever ended a step; the same command goes on from there.
    """
    out = console()
    place = open_place(read_settings(), lambda line: out.print(line, style="dim"))
    prepare(place.settings)
    services = list(_services(place))
    from dagster import DagsterInstance

    from finetune_platform.commands.loop_demo.cycle import Cycle

    out.print(f"[bold]{TASK_NAME}[/bold]: {place.task.description}")
    out.print(
        f"One cycle, from a first adapter to a better one. Everything stands in {place.home}; delete it to begin anew.",
        soft_wrap=True,
    )
    try:
        for service in services:
            service.start()
        wait_until_ready(services, READY_S, lambda s: out.print(Text(f"{s.name:<8} {s.url}", "dim")))
        callers = Callers(services[1].url, _key(place), place.notes)
        with DagsterInstance.get() as instance:
            found = Cycle(place, instance, services, callers, out).run()
        _show(place, found)
    finally:
        stop(services)


def _services(place: Place) -> Sequence[Service]:
    """Dagster with its daemon, and the gateway, of the loop's installation."""
    dagster = replace(
        next(iter(planned_services(place.settings, choose_port(None, DAGSTER_PORT, HOST, "--port"), None, HOST))),
        environment=place.environment,
    )
    port = choose_port(None, GATEWAY_PORT, HOST, "--port")
    address = f"http://{HOST}:{port}"
    command = [sys.executable, "-m", "finetune_platform.cli", "serve", "--host", HOST, "--port", str(port)]
    log = place.home / "logs" / "gateway.log"
    return [dagster, Service("gateway", command, address, f"{address}/readyz", log, place.environment)]


def _key(place: Place) -> str:
    """A caller's key, made at the first run; only this user can read it."""
    path: Path = place.home / "key"
    if not path.is_file():
        key, _ = create_key(
            place.database, name="loop", roles=["caller"], tasks=[TASK_NAME], known_tasks=[TASK_NAME], actor=actor()
        )
        path.touch(mode=0o600)
        path.write_text(key, encoding="utf-8")
    return path.read_text(encoding="utf-8")


def _show(place: Place, found: Sequence[Change]) -> None:
    out = console()
    rows = found[0].rows if found else 0
    out.print(Text(f"\nQuality on {rows} sentences of the new kind that nobody labelled", "bold"))
    table: Table = new_table("metric", "first adapter", "second adapter", "difference", "95% interval")
    for change in found:
        table.add_row(
            change.metric,
            f"{change.before:.3f}",
            f"{change.after:.3f}",
            f"{change.difference:+.3f}",
            f"[{change.lower:+.3f}, {change.upper:+.3f}]",
        )
    out.print(table)
    primary = next(change for change in found if change.metric == place.task.evaluation.primary_metric)
    told, style = ("is better", "bold green") if primary.lower > 0 else ("is not shown to be better", "bold yellow")
    out.print(Text(f"The second adapter {told} on the traffic that had drifted.", style))
    _show_gate(place)
    made = {asset: row for asset in MADE if (row := place.database.latest_artifact(TASK_NAME, asset)) is not None}
    for asset, row in made.items():
        page = "/report.html" if asset.endswith("_report") else ""
        line = Text.assemble((f"  {asset:<20}", "cyan"), row.artifact_id, (f"  {row.uri}{page}", "dim"))
        out.print(line, soft_wrap=True)
    environment = " ".join(f"{name}={value}" for name, value in place.environment.items() if value)
    asked = next(answer for answer in Callers("", "", place.notes).answers if answer.phase == "shifted")
    out.print(Text("\nlook around", "bold"))
    out.print(Text(f"  export {environment}", "cyan"), soft_wrap=True)
    for command, told in (
        (f"finetune lineage {made['registered_adapter'].artifact_id}", "back to labels, batch, alarm and reference"),
        (f"finetune trace {asked.interaction_id}", "one request: its label, dataset and adapters, the share served"),
        (f"finetune history {TASK_NAME}", "who answered what share when, and why"),
        (f"finetune loop {TASK_NAME}", "where the cycle stands, what it costs and returns"),
        ("finetune up", "the lineage graph and every run in the browser"),
    ):
        out.print(Text.assemble((f"  {command}", "cyan"), (f"  {told}", "dim")), soft_wrap=True)


def _show_gate(place: Place) -> None:
    """The second adapter on what the first one knew."""
    made = place.database.latest_artifact(TASK_NAME, "evaluation_report")
    assert made is not None
    report = place.lake.manifest(EvaluationManifest, EvaluationManifest.path_of(TASK_NAME, made.artifact_id))
    for gate in report.gates:
        if gate.versus == "champion" and gate.observed is not None:
            line = (
                f"{gate.metric} on {gate.n} test rows of the known kind, against the first adapter: "
                f"{gate.observed:+.3f} [{gate.lower:+.3f}, {gate.upper:+.3f}], gate {gate.verdict}"
            )
            console().print(Text(line), soft_wrap=True)
