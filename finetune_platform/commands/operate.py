"""What an operator types: `finetune rollout …`, `kill`, `revive`, `history`; HTTP and the page do the same."""

import getpass
from typing import Any

from rich.table import Table
from rich.text import Text

from finetune_platform.commands.adapters import registered
from finetune_platform.commands.installation import find_task, open_database, some_tasks
from finetune_platform.commands.terminal import console, print_json
from finetune_platform.errors import BadInput
from finetune_platform.serving import rollouts, routes
from finetune_platform.serving.overview import history_of, overview_of
from finetune_platform.serving.rollouts import Operation, Tick
from finetune_platform.task import Task


def actor() -> str:
    """Who types, for the audit log."""
    return f"cli:{getpass.getuser()}"


def start_rollout(name: str, adapter: str | None, reason: str) -> None:
    """Starts a rollout of an adapter, by default of the task's candidate."""
    task, database = find_task(name), open_database()
    adapter_id = adapter or database.current(task.name, "candidate")
    if adapter_id is None:
        raise BadInput(f"{task.name}: it has no candidate", f"`finetune run {task.name}` makes one")
    registered(database, task.name, adapter_id)
    _tell(task, rollouts.start(database, task, adapter_id, actor=actor(), reason=reason))


def operate(name: str, operation: Operation, reason: str) -> None:
    """Steps, holds, resumes, aborts or rolls back the rollout under way; without one, a rollback takes the champion."""
    task, database = find_task(name), open_database()
    with database.reading() as session:
        under_way = rollouts.active(session, task.name) is not None
    if operation == "rollback" and not under_way:
        now = rollouts.demote(database, task.name, actor=actor(), reason=reason)
        console().print(f"{task.name}: the champion is taken back; {now or 'the base model'} answers now")
        return
    _tell(task, rollouts.by_hand(database, task, operation, actor=actor(), reason=reason))


def kill(name: str | None, everything: bool, reason: str) -> None:
    """Sends all traffic of a task, or of all, to the fallback, within a second on every gateway."""
    if (name is None) != everything:
        raise BadInput("kill: which task?", "name one, or give --all")
    database = open_database()
    for task in some_tasks(name):
        routes.kill(database, task.name, actor=actor(), reason=reason)
        console().print(
            Text(task.name, "bold") + Text(": all traffic goes to the base model; `finetune revive` ends it")
        )


def revive(name: str, reason: str) -> None:
    """Ends a kill."""
    task = find_task(name)
    plan = routes.revive(open_database(), task.name, actor=actor(), reason=reason).plan
    console().print(f"{task.name}: {_answers(plan.champion, plan.canary, plan.canary_share)}")


def show_rollout(name: str | None, as_json: bool) -> None:
    """Where the rollouts stand, with their evidence."""
    database = open_database()
    found = [overview_of(database, task) for task in some_tasks(name)]
    if as_json:
        print_json({"tasks": found})
        return
    for overview in found:
        _show_overview(overview)


def show_history(name: str, as_json: bool) -> None:
    """Which adapter served what share when."""
    task, database = find_task(name), open_database()
    spans = history_of(database, task.name)
    if as_json:
        print_json({"task": task.name, "history": spans})
        return
    table = new_table("since (UTC)", "until (UTC)", "adapter", "as", "share", "by", "why")
    for span in spans:
        until = _moment(span["until"]) if span["until"] else "now"
        share = f"{100 * span['share']:g}%"
        table.add_row(
            _moment(span["since"]), until, span["adapter_id"], span["arm"], share, span["actor"], Text(span["reason"])
        )
    console().print(table if spans else f"{task.name}: nothing was routed yet; the base model answers")


def _tell(task: Task, tick: Tick) -> None:
    out = console()
    out.print(Text(f"{tick.rollout_id}: ", "bold") + Text(tick.decision.message), soft_wrap=True)
    out.print(f"next: finetune rollout status {task.name}", style="dim")


def _show_overview(overview: dict[str, Any]) -> None:
    out, route, rollout = console(), overview["route"], overview["rollout"]
    state = f"killed: {route['killed']}" if route["killed"] else _answers(
        route["champion"], route["canary"], route["canary_share"]
    )  # fmt: skip
    out.print(Text(overview["task"], "bold") + Text(f"  {state}"), soft_wrap=True)
    if rollout is not None:
        out.print(f"  {rollout['rollout_id']} of {rollout['adapter_id']}: {rollout['state']}; {rollout['message']}")
        table = new_table("guardrail", "evidence", "limit", "canary", "champion")
        for rail in rollout["guardrails"]:
            canary, champion = (as_rate(rail[arm], rail[f"{arm}_n"]) for arm in ("canary", "champion"))
            table.add_row(rail["name"], f"{rail['e_value']:.3g}", f"{rail['limit']:.0f}", canary, champion)
        out.print(table)
    if overview["traffic"]:
        table = new_table("last hour", "adapter", "requests", "errors", "invalid", "p50 ms", "p95 ms")
        for arm in overview["traffic"]:
            table.add_row(
                arm["arm"],
                arm["adapter"],
                f"{arm['requests']:,}",
                _percent(arm["error_rate"]),
                _percent(arm["invalid_format_rate"]),
                _number(arm["latency_p50_ms"]),
                _number(arm["latency_p95_ms"]),
            )
        out.print(table)
    out.print()


def _answers(champion: str | None, canary: str | None, share: float) -> str:
    rest = f"{champion or 'the base model'} answers"
    return f"{rest}, the canary {canary} {100 * share:g}%" if canary else rest


def new_table(*columns: str) -> Table:
    """A table as all of an operator's commands print it."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column)
    return table


def _moment(iso: str) -> str:
    return iso.replace("T", " ").removesuffix("+00:00")


def as_rate(rate: float | None, n: int) -> str:
    """`4.8% of 1,204`."""
    return "nothing measured" if rate is None else f"{100 * rate:.1f}% of {n:,}"


def _percent(rate: float | None) -> str:
    return "" if rate is None else f"{100 * rate:.1f}%"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"
