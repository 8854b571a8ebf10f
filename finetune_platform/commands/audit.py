"""`finetune audit …`: what was done by whom and why, and whether the log is still what was written."""

import json
import sys

from rich.text import Text

from finetune_platform import audit
from finetune_platform.commands.installation import open_database
from finetune_platform.commands.terminal import console, print_json
from finetune_platform.errors import BadInput

DIGEST_DIGITS = 64


def show(subject: str | None, as_json: bool) -> None:
    """Lists the entries, oldest first; as JSON one object a line, for the log may be long."""
    out = console()
    found = False
    for entry in audit.entries(open_database(), subject):
        found = True
        if as_json:
            sys.stdout.write(json.dumps(_plain(entry), ensure_ascii=False) + "\n")
            continue
        out.print(
            Text(f"{entry.at:%Y-%m-%d %H:%M:%S} ", "dim")
            + Text(f"{one_line(entry.actor)}  ")
            + Text(f"{one_line(entry.action)} ", "cyan")
            + Text(one_line(entry.subject), "bold")
            + Text(f"  {one_line(entry.reason)}" if entry.reason else ""),
            soft_wrap=True,
        )
    if not found and not as_json:
        out.print(f"nothing was done{f' to {one_line(subject)}' if subject else ''} yet")


def verify(head: str | None, as_json: bool) -> int:
    """Follows the chain of the whole log; 1 where it is broken.

    Raises:
        BadInput: `head` is no digest.
    """
    noted = None if head is None else head.strip().lower()
    if noted is not None and (len(noted) != DIGEST_DIGITS or not set(noted) <= set("0123456789abcdef")):
        raise BadInput(
            f"--head: {head[:100] if head else head!r} is no digest", "give the 64 hex digits of an earlier verify"
        )
    found = audit.verify(open_database(), noted)
    if as_json:
        broken = [entry._asdict() for entry in found.broken]
        print_json({"ok": not broken, "entries": found.entries, "head": found.head, "broken": broken})
        return 1 if broken else 0
    out = console()
    for place in found.broken:
        where = f"entry {place.entry}: " if place.entry else ""
        out.print(Text(f"✗ {where}{place.problem}", "red"), soft_wrap=True)
    if found.broken:
        out.print("Somebody wrote to the table audit_log: compare it with a backup from before.")
        return 1
    out.print(
        Text(
            f"✓ {found.entries} {'entry' if found.entries == 1 else 'entries'}, none changed, removed or inserted",
            "green",
        )
    )
    out.print(f"head {found.head}", soft_wrap=True)
    out.print(Text("Note it where nobody who can write to the database can: `finetune audit verify --head …`", "dim"))
    return 0


def one_line(text: str) -> str:
    """Text of unknown origin for a terminal: what could pass for another line, or steer the terminal, is spelt out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _plain(entry: audit.AuditEntry) -> dict[str, object]:
    return {
        "id": entry.id,
        "at": entry.at.isoformat(),
        "actor": entry.actor,
        "action": entry.action,
        "subject": entry.subject,
        "reason": entry.reason,
        "details": entry.details,
        "digest": entry.digest,
    }
