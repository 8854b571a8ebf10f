"""`finetune loop`: where a task's cycle stands, what it waits for, what it costs and returns."""

from rich.text import Text

from finetune_platform.commands.installation import find_task, open_database, open_lake
from finetune_platform.commands.operate import new_table
from finetune_platform.commands.terminal import console, plain, print_json
from finetune_platform.loop.money import return_of, spent_of
from finetune_platform.loop.stations import here, stations_of

MARKS = {
    "idle": ("·", "dim"),
    "quiet": ("✓", "green"),
    "done": ("✓", "green"),
    "waiting": ("…", "yellow"),
    "running": ("▶", "cyan"),
    "alarm": ("!", "bold red"),
    "failed": ("✗", "red"),
}


def show(name: str, as_json: bool) -> None:
    """Prints every station of a task's cycle, in the order of the flow.

    Raises:
        BadInput: No such task.
    """
    task, lake, database = find_task(name), open_lake(), open_database()
    stations = stations_of(task, lake, database)
    spent, gained = spent_of(task, lake, database), return_of(task, lake, database)
    if as_json:
        print_json(
            {
                "task": task.name,
                "here": here(stations).name,
                "stations": stations,
                "spent": spent,
                "return": plain(gained),
            }
        )
        return
    out, now = console(), here(stations)
    waits = f", waits for {now.waits_for}" if now.waits_for else ""
    out.print(Text(task.name, "bold") + Text(f"  the cycle is at {now.name}: {now.state}{waits}"), soft_wrap=True)
    table = new_table("", "station", "state", "since (UTC)", "what", "waits for")
    for station in stations:
        mark, style = MARKS[station.state]
        since = (station.since or "")[:16].replace("T", " ")
        table.add_row(
            Text(mark, style), station.name, Text(station.state, style), since, Text(station.what), station.waits_for
        )
    out.print(table)
    out.print(
        f"  thirty days: {spent.training_hours:g} h of training, {spent.answers:,} answers of experts, "
        f"{spent.total:,.2f} {spent.currency}"
    )
    if gained is not None:
        told = f"{gained.adapter:.3f} with the adapter, {gained.baseline:.3f} by prompting the base model"
        out.print(f"  {gained.metric}: {told}")
