"""`finetune key …`: makes, lists, rotates and revokes API keys. What a key is stands in `serving/keys.py`."""

from datetime import UTC, datetime, timedelta

from rich.table import Table
from rich.text import Text

from finetune_platform.commands.installation import open_database, read_settings
from finetune_platform.commands.operate import actor
from finetune_platform.commands.terminal import console, print_json
from finetune_platform.errors import BadInput
from finetune_platform.serving.keys import ApiKey, create_key, list_keys, revoke_key, rotate_key
from finetune_platform.task_file import find_tasks

STYLES = {"active": "green", "expired": "yellow", "revoked": "dim"}
MOST_DAYS = 36_500


def create(
    name: str,
    roles: list[str],
    tasks: list[str],
    tenant: str,
    days: float | None,
    requests_per_minute: int | None,
    tokens_per_minute: int | None,
    as_json: bool,
) -> None:
    """Makes a key and shows it, this once."""
    key, made = create_key(
        open_database(),
        name=name,
        roles=roles,
        tasks=tasks,
        known_tasks=[task.name for task in find_tasks(read_settings().tasks_dir)],
        actor=actor(),
        tenant=tenant,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        expires_at=_in_days(days),
    )
    _show_once(key, made, as_json)


def show(as_json: bool) -> None:
    """Lists every key that was ever made, without the keys themselves."""
    keys, now = list_keys(open_database()), datetime.now(UTC)
    if as_json:
        print_json({"keys": [{**key.model_dump(mode="json"), "state": key.state(now)} for key in keys]})
        return
    if not keys:
        console().print("no key yet; `finetune key create NAME --task TASK` makes one")
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("key id", "state", "name", "roles", "tasks", "tenant", "a minute", "good"):
        table.add_column(heading)
    for key in keys:
        table.add_row(*_row(key, now))
    console().print(table)


def rotate(key_id: str, overlap_hours: float, as_json: bool) -> None:
    """Makes a key of the same scope in place of an old one, and shows it, this once."""
    key, made = rotate_key(open_database(), key_id, actor(), overlap_hours)
    _show_once(key, made, as_json)
    if not as_json:
        until = f"ends in {overlap_hours:g} hours" if overlap_hours else "is refused from now on"
        console().print(f"the old key {key_id} {until}")


def revoke(key_id: str, reason: str, as_json: bool) -> None:
    """Takes a key back for good."""
    ended = revoke_key(open_database(), key_id, actor(), reason)
    if as_json:
        print_json(ended)
    else:
        console().print(f"{ended.key_id} ({ended.name}) is revoked; every gateway refuses it within a second")


def _in_days(days: float | None) -> datetime | None:
    if days is None:
        return None
    if not 0 < days <= MOST_DAYS:
        raise BadInput(f"--expires-days: {days:g}", f"give more than 0 and at most {MOST_DAYS}")
    return datetime.now(UTC) + timedelta(days=days)


def _show_once(key: str, made: ApiKey, as_json: bool) -> None:
    if as_json:
        print_json({"key": key, **made.model_dump(mode="json")})
        return
    out = console()
    # Alone on its line and never folded: it is copied from here.
    out.print(Text(key, "bold"), soft_wrap=True)
    out.print(
        Text("It is shown this once and stored nowhere: keep it in a secret store, not in a file or chat.", "yellow")
    )
    scope = f"{made.name}: {', '.join(made.roles)} of {', '.join(made.tasks)}"
    out.print(f"{scope}{f', tenant {made.tenant}' if made.tenant else ''}; {_until(made)}", soft_wrap=True)


def _row(key: ApiKey, now: datetime) -> tuple[Text, ...]:
    state = key.state(now)
    limits = [
        f"{limit:,} {what}"
        for limit, what in ((key.requests_per_minute, "requests"), (key.tokens_per_minute, "tokens"))
        if limit is not None
    ]
    return (
        Text(key.key_id),
        Text(state, STYLES[state]),
        Text(key.name),
        Text(", ".join(key.roles)),
        Text(", ".join(key.tasks)),
        Text(key.tenant),
        Text(", ".join(limits)),
        Text(_until(key)),
    )


def _until(key: ApiKey) -> str:
    end = key.revoked_at or key.expires_at
    return f"until {end:%Y-%m-%d %H:%M} UTC" if end else "until revoked"
