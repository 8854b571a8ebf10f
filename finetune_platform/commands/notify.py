"""`finetune notify`: a test message to every target, what was announced, and a round of sending by hand."""

from rich.text import Text

from finetune_platform.announcements import Notification
from finetune_platform.commands.installation import find_task, open_database, read_settings
from finetune_platform.commands.terminal import console, print_json
from finetune_platform.errors import BadInput
from finetune_platform.notifications.outbox import newest
from finetune_platform.notifications.sender import send_waiting
from finetune_platform.notifications.targets import Target, chosen, deliver, targets_of
from finetune_platform.task_file import find_tasks

STATES = {"waiting": "yellow", "sent": "green", "silent": "dim", "given_up": "red"}


def send_test(name: str | None, as_json: bool) -> int:
    """Sends a test message to the targets of a task, or to all; returns the exit code: 1 where one did not take it.

    Raises:
        BadInput: NOTIFY_URLS is not set or cannot be read, no such task, or it names a target that is not there.
    """
    targets = _targets()
    if name is not None:
        task = find_task(name)
        targets = chosen(targets, task.notifications.to, task.name)
    title = f"{name or 'finetune'}: a test message"
    body = "Somebody tried whether messages arrive here. They do.\nnext: nothing"
    problems = {target: deliver(target, title, body, "info") for target in targets}
    if as_json:
        told = [
            {"target": t.name, "kind": t.schema, "taken": not problem, "problem": problem}
            for t, problem in problems.items()
        ]
        print_json({"ok": not any(problems.values()), "targets": told})
    else:
        for target, problem in problems.items():
            mark = Text("✗ ", "red") if problem else Text("✓ ", "green")
            said = problem or "taken; see whether it arrived"
            console().print(mark + Text(target.name, "bold") + Text(f" ({target.schema}): {said}"), soft_wrap=True)
    return 1 if any(problems.values()) else 0


def show(name: str | None, count: int, as_json: bool) -> None:
    """Prints the newest events and who was told.

    Raises:
        BadInput: No such task.
    """
    found = newest(open_database(), None if name is None else find_task(name).name, count)
    if as_json:
        print_json({"notifications": [_plain(event) for event in found]})
        return
    out = console()
    for event in found:
        out.print(
            Text(f"{event.created_at:%Y-%m-%d %H:%M} ", "dim")
            + Text(f"{event.task} ", "bold")
            + Text(f"{event.kind}  ", "cyan")
            + Text(event.what),
            soft_wrap=True,
        )
        out.print(Text("  ") + Text(event.state.replace("_", " "), STATES.get(event.state, "")) + Text(_fate(event)))
    if not found:
        out.print("nothing was announced yet")


def send() -> int:
    """One round of sending; returns the exit code: 1 where a target did not take a message.

    Raises:
        BadInput: NOTIFY_URLS is not set or cannot be read.
    """
    _targets()
    place = read_settings()
    sent = send_waiting(open_database(), find_tasks(place.tasks_dir), place)
    console().print(sent.words, soft_wrap=True)
    return 1 if sent.problems else 0


def _targets() -> list[Target]:
    targets = targets_of(read_settings().notify_urls.get_secret_value())
    if not targets:
        raise BadInput(
            "NOTIFY_URLS is not set: nobody is told of anything", "set it, for example NOTIFY_URLS=ops=slack://…"
        )
    return targets


def _fate(event: Notification) -> str:
    taken = f" to {', '.join(event.delivered)}" if event.delivered else ""
    if event.state == "sent":
        return f"{taken} at {event.sent_at:%Y-%m-%d %H:%M} UTC"
    return f"{taken}; {event.error}; tried {event.attempts} times" if event.error else taken


def _plain(event: Notification) -> dict[str, object]:
    columns = [column.key for column in Notification.__table__.columns]
    return {column: getattr(event, column) for column in columns}
