"""`finetune labels`: a task's batches, how far people are with them and how far they agree."""

from collections.abc import Mapping
from typing import Any

from rich.text import Text

from finetune_platform.commands.installation import find_task, open_database, read_settings
from finetune_platform.commands.label_studio import plain_round, print_round, sync_by_hand
from finetune_platform.commands.operate import new_table
from finetune_platform.commands.serve import gateway_address
from finetune_platform.commands.terminal import console, print_json
from finetune_platform.labeling.batches import Batch, batches_of, read_batch
from finetune_platform.labeling.figures import Figures, figures_of
from finetune_platform.labeling.items import State
from finetune_platform.labeling.label_studio.sync import Synced
from finetune_platform.labeling.readiness import alpha_in_words, readiness_of
from finetune_platform.review.people import names_of
from finetune_platform.settings import Settings
from finetune_platform.task import Task

STATES: tuple[State, ...] = ("open", "disputed", "settled", "excluded")
COLOURS = {"waiting": "yellow", "low_agreement": "bold red", "ready": "green", "closed": "dim"}


def labels(name: str, sync: bool, anew: bool, as_json: bool) -> None:
    """Fetches from Label Studio where that is asked, and prints every batch, oldest first.

    Raises:
        BadInput: No such task.
        FinetuneError: Whatever ended the round with Label Studio.
    """
    done = sync_by_hand(name, anew) if sync else None
    if done is not None and not as_json:
        print_round(done)
    show(name, as_json, done)


def show(name: str, as_json: bool, synced: list[Synced] | None = None) -> None:
    """Prints every batch, oldest first, and of the newest the people.

    Args:
        synced: What a round with Label Studio did just before.

    Raises:
        BadInput: No such task.
    """
    task, database, place = find_task(name), open_database(), read_settings()
    batches = [read_batch(database, batch_id) for batch_id in batches_of(database, task.name)]
    figures = [figures_of(batch, task.cost.label) for batch in batches]
    where = review_address(place, task)
    names = names_of(database, {person.reviewer for found in figures for person in found.people})
    if as_json:
        told = [_plain(task, batch, found) for batch, found in zip(batches, figures, strict=True)]
        round_of = {} if synced is None else {"synced": plain_round(synced)}
        print_json({"task": task.name, "review": where, "batches": told, **round_of})
        return
    out = console()
    if not batches:
        out.print(f"{task.name}: nobody has been asked about its rows yet")
        return
    for batch, found in zip(batches, figures, strict=True):
        state, reason = state_of(task, batch, found)
        opened = f"{batch.created_at:%Y-%m-%d %H:%M} UTC"
        out.print(Text.assemble((batch.batch_id, "bold"), f"  {opened}  {batch.reason}"), soft_wrap=True)
        counts = ", ".join(f"{found.states.get(s, 0):,} {s}" for s in STATES)
        out.print(Text.assemble("  ", (state.replace("_", " "), COLOURS[state]), f"  {reason}"), soft_wrap=True)
        out.print(f"  rows: {counts}; agreement: {alpha_in_words(found.alpha)}")
    _show_people(figures[-1], names)
    studio = task.labeling.label_studio
    places = f"answer at {studio.url} and decide at {where}" if studio else f"answer and decide at {where}"
    out.print(Text(f"people {places}", "dim"), soft_wrap=True)


def state_of(task: Task, batch: Batch, figures: Figures) -> tuple[str, str]:
    """Whether a batch is closed or may be, in a word and in a sentence."""
    readiness = readiness_of(batch, figures, task.labeling.min_agreement)
    return (readiness.state if batch.is_open else "closed"), readiness.reason


def review_address(place: Settings, task: Task) -> str:
    """The review page of a task's rows; where no gateway is known to run, what to start."""
    base = gateway_address(place)
    return f"{base}/review/rows?task={task.name}" if base else "/review of the gateway: `finetune serve`"


def _show_people(figures: Figures, names: Mapping[str, str]) -> None:
    if not figures.people:
        return
    table = new_table("who", "answered", "skipped", "flagged", "gold right", "overruled", "seconds a row")
    for person in figures.people:
        gold = f"{person.gold_right} of {person.gold_answered}" if person.gold_answered else ""
        pace = "" if person.seconds is None else f"{person.seconds:.0f}"
        counts = (person.answered, person.skipped, person.flagged)
        table.add_row(Text(names[person.reviewer]), *map(str, counts), gold, str(person.overruled), pace)
    console().print(table)


def _plain(task: Task, batch: Batch, figures: Figures) -> dict[str, Any]:
    state, reason = state_of(task, batch, figures)
    return {
        "batch_id": batch.batch_id,
        "created_at": batch.created_at.isoformat(),
        "closed_at": batch.closed_at.isoformat() if batch.closed_at else None,
        "cause": batch.cause,
        "reason": batch.reason,
        "state": state,
        "readiness": reason,
        "rows": len(batch.rows),
        "states": {s: figures.states.get(s, 0) for s in STATES},
        "alpha": figures.alpha._asdict(),
        "kappas": [kappa._asdict() for kappa in figures.kappas],
        "confusions": [pair._asdict() for pair in figures.confusions],
        "people": [person._asdict() for person in figures.people],
        "anchoring": figures.anchoring._asdict(),
        "hours": figures.hours,
        "cost": figures.cost,
    }
