"""`finetune doctor`: the checks of `checkup.py` as a list with mends, or as JSON."""

from rich.text import Text

from finetune_platform.commands.checkup import check_all
from finetune_platform.commands.installation import read_settings
from finetune_platform.commands.terminal import console, print_json

MARKS = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "red")}


def show_doctor(as_json: bool) -> int:
    """Shows every check; returns the exit code: 1 where one fails."""
    settings = read_settings()
    out = console()
    checks = []
    for check in check_all(settings):
        checks.append(check)
        if as_json:
            continue
        mark, style = MARKS[check.state]
        out.print(Text.assemble((f"{mark} ", style), (f"{check.name:<9}", "bold"), check.message), soft_wrap=True)
        if check.mend and check.state != "ok":
            out.print(Text(f"  mend: {check.mend}", style), soft_wrap=True)
    failed = any(check.state == "fail" for check in checks)
    if as_json:
        print_json({"ok": not failed, "checks": checks})
    return 1 if failed else 0
