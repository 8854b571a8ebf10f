"""Who hears of events: the setting NOTIFY_URLS as targets with names, and one message handed to one of them.

Apprise (BSD-2) knows how to talk to each kind of service; it is loaded when the first message is sent. An address may
hold a password: nothing here tells more of it than its name and its kind.
"""

import logging
import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from finetune_platform.errors import BadInput
from finetune_platform.strict import nearest

if TYPE_CHECKING:
    from apprise import NotifyBase

TIMEOUT_S = 15.0
"""What a target may take for one message; then it counts as not delivered, though it may still arrive."""

MEND = "write NOTIFY_URLS as NAME=URL, NAME=URL with URLs that Apprise knows: docs/notifications.md"

_SPLIT = re.compile(r"[\s,]+(?=(?:[A-Za-z][A-Za-z0-9_-]*=)?[A-Za-z][A-Za-z0-9]*://)")
_ENTRY = re.compile(r"(?:(?P<name>[^=:/]*)=)?(?P<url>(?P<schema>[A-Za-z][A-Za-z0-9]*)://\S+)")
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")

SECRET_CHARACTERS = 6
"""Shorter parts of an address are words such as `to`, ports, countries."""

Tone = Literal["info", "success", "warning", "failure"]
"""How a service may mark a message: by its colour or icon."""


class Target(NamedTuple):
    """One address; `name` is what people and the database call it."""

    name: str
    schema: str
    url: str


def targets_of(notify_urls: str) -> list[Target]:
    """The targets that the setting names; one without a name is called by its kind: `slack`, `slack-2`.

    Raises:
        BadInput: An entry is no address, or two have the same name. What it says holds no address.
    """
    found: list[Target] = []
    for number, text in enumerate((part for part in _SPLIT.split(notify_urls.strip()) if part), 1):
        entry = _ENTRY.fullmatch(text)
        if entry is None:
            raise BadInput(f"NOTIFY_URLS: entry {number} is no address of a service", MEND)
        schema, given = entry["schema"].lower(), entry["name"]
        if given is not None and not _NAME.fullmatch(given):
            raise BadInput(
                f"NOTIFY_URLS: entry {number}: a name is small letters, digits, - and _, and begins with a letter",
                MEND,
            )
        taken = {target.name for target in found}
        if given in taken:
            raise BadInput(f"NOTIFY_URLS: two entries are named {given}", "name one of them differently")
        found.append(Target(given or _free_name(schema, taken), schema, entry["url"]))
    return found


def chosen(targets: Sequence[Target], to: Sequence[str], task: str) -> list[Target]:
    """The targets that a task's `notifications.to` names, or all.

    Raises:
        BadInput: NOTIFY_URLS has no target of that name.
    """
    known = [target.name for target in targets]
    for name in to:
        if name not in known:
            raise BadInput(
                f"{task}: notifications.to: NOTIFY_URLS has no target {name}{nearest(name, known)}",
                f"known: {', '.join(known) or 'none, for NOTIFY_URLS is not set'}",
            )
    return [target for target in targets if not to or target.name in to]


def problem_of(target: Target) -> str:
    """Why a target cannot be sent to at all; "" where nothing speaks against it. Nothing is sent."""
    return "" if _service(target) is not None else f"{target.schema}:// is not an address that Apprise understands"


def deliver(target: Target, title: str, body: str, tone: Tone) -> str:
    """Sends one message to one target.

    Args:
        title: One line.
        body: Plain text.
        tone: How the service may mark it.

    Returns:
        "" where the target took it, else why not, in words without the address.
    """
    from apprise import Apprise, NotifyFormat

    service = _service(target)
    if service is None:
        return problem_of(target)
    result = Apprise(service).notify(
        body=body, title=title, notify_type=tone, body_format=NotifyFormat.TEXT, timeout=TIMEOUT_S
    )
    if result:
        return ""
    said = [entry.message for service_result in result.results for entry in service_result.logs()]
    return without_secrets(said[-1], target) if said else f"no answer within {TIMEOUT_S:.0f} s"


def without_secrets(text: str, target: Target) -> str:
    """A service's own words, shortened, without any part of its address: some have a key where others have a host."""
    parts = {part for part in re.split(r"[/:?&=@,]+", target.url.partition("://")[2]) if len(part) >= SECRET_CHARACTERS}
    for part in sorted(parts, key=len, reverse=True):
        text = text.replace(part, "****")
    return " ".join(text.split())[:300]


def _service(target: Target) -> "NotifyBase | None":
    from apprise import Apprise

    logger = logging.getLogger("apprise")
    if logger.propagate:
        # Its own lines tell parts of addresses; what came of a message is told here, by names.
        logger.propagate = False
        logger.addHandler(logging.NullHandler())
    return Apprise.instantiate(target.url)


def _free_name(schema: str, taken: Collection[str]) -> str:
    name, number = schema, 1
    while name in taken:
        number += 1
        name = f"{schema}-{number}"
    return name
