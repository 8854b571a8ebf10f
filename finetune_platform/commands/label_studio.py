"""A whole round with Label Studio by hand, for `finetune labels --sync`."""

from typing import Any

from finetune_platform.commands.installation import find_task, open_database, read_settings
from finetune_platform.commands.terminal import console
from finetune_platform.labeling.label_studio.sync import Synced, sync


def sync_by_hand(name: str, anew: bool) -> list[Synced]:
    """Sends and fetches, looking at everything, not only at what has changed.

    Raises:
        FinetuneError: No such task, the server refuses or does not answer, or a project is lost.
    """
    task, token = find_task(name), read_settings().label_studio_token
    return sync(open_database(), task.name, task.labeling, token, whole=True, anew=anew)


def print_round(done: list[Synced]) -> None:
    """Prints what a round did, and what was not taken over."""
    out = console()
    if not done:
        out.print("no open batch: nothing to send to Label Studio or to fetch")
    for one in done:
        out.print(one.words, highlight=False, markup=False, soft_wrap=True)
        for refused in one.pulled.refused:
            out.print(f"  {refused}", style="yellow", highlight=False, markup=False, soft_wrap=True)


def plain_round(done: list[Synced]) -> list[dict[str, Any]]:
    """A round for `--json`."""
    return [{"batch_id": one.batch_id, "url": one.url, **one.pulled._asdict()} for one in done]
