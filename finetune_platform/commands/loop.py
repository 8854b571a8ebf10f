"""`finetune loop`: where a task's cycle stands, what it waits for, what it costs and returns."""

from collections.abc import Mapping
from urllib.parse import quote

from rich.text import Text

from finetune_platform.commands.installation import find_task, open_database, open_lake, read_settings
from finetune_platform.commands.operate import new_table
from finetune_platform.commands.serve import gateway_address
from finetune_platform.commands.terminal import console, print_json
from finetune_platform.loop.cycle import cycle_of
from finetune_platform.loop.money import Return, Side, Spent
from finetune_platform.loop.stations import MARKS, State

STYLES: Mapping[State, str] = {
    "idle": "dim",
    "quiet": "green",
    "done": "green",
    "waiting": "yellow",
    "running": "cyan",
    "alarm": "bold red",
    "failed": "red",
}


def show(name: str, as_json: bool) -> None:
    """Prints every station of a task's cycle, in the order of the flow.

    Raises:
        BadInput: No such task.
    """
    task, lake, database = find_task(name), open_lake(), open_database()
    cycle = cycle_of(task, lake, database)
    if as_json:
        print_json(
            {
                "task": task.name,
                "here": cycle.here.name,
                "stations": cycle.stations,
                "spent": cycle.spent,
                "return": cycle.gained,
            }
        )
        return
    out, now = console(), cycle.here
    waits = f", waits for {now.waits_for}" if now.waits_for else ""
    out.print(Text(task.name, "bold") + Text(f"  the cycle is at {now.name}: {now.state}{waits}"), soft_wrap=True)
    table = new_table("", "station", "state", "since (UTC)", "what", "waits for")
    for station in cycle.stations:
        style = STYLES[station.state]
        since = (station.since or "")[:16].replace("T", " ")
        mark, state = Text(MARKS[station.state], style), Text(station.state, style)
        table.add_row(mark, station.name, state, since, Text(station.what), station.waits_for)
    out.print(table)
    for line in (*_spent(cycle.spent), *(_gained(cycle.gained) if cycle.gained else [])):
        out.print(f"  {line}", soft_wrap=True)
    if address := gateway_address(read_settings()):
        out.print(Text(f"  page: {address}/loop/{quote(task.name)}", "dim"), soft_wrap=True)


def _spent(spent: Spent) -> list[str]:
    told = [
        f"thirty days: {spent.training_hours:g} h of training {spent.training:,.2f}, {spent.answers:,} answers of "
        f"experts {spent.labels:,.2f}, {spent.judge_calls:,} calls of the judge {spent.judging:,.2f}: "
        f"{spent.total:,.2f} {spent.currency}"
    ]
    if spent.monthly_budget is None or spent.left is None:
        return told
    return [*told, f"monthly budget: {spent.left:,.2f} left of {spent.monthly_budget:,.2f} {spent.currency}"]


def _gained(gained: Return) -> list[str]:
    sides = {"with the adapter": gained.adapter, "by prompting the base model": gained.baseline}
    told = [f"{gained.metric}: " + ", ".join(f"{_interval(side)} {words}" for words, side in sides.items())]
    if gained.adapter.cost_per_1000 is None:
        return told
    costs = ", ".join(f"{side.cost_per_1000:,.3f} {words}" for words, side in sides.items())
    return [*told, f"1,000 requests: {costs}, in {gained.currency}"]


def _interval(side: Side) -> str:
    if side.value is None:
        return "nothing"
    return f"{side.value:.3f} [{side.lower:.3f}, {side.upper:.3f}]"
