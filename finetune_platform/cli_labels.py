"""`finetune labels`: its name, options and help. What it does stands in `commands/labels.py`."""

from finetune_platform.cli_options import Json, TaskName


def labels(task: TaskName, json: Json = False) -> None:
    """Show a task's batches of rows for experts: how far they are, how far people agree, and who did what."""
    from finetune_platform.commands.labels import show

    show(task, json)
