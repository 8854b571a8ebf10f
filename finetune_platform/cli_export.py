"""`finetune export`: its name, options and help. What it does stands in `commands/export.py`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from finetune_platform.cli_options import Json, TaskName


class ExportForm(StrEnum):
    """What the folder holds."""

    merged = "merged"
    gguf = "gguf"


class ExportFormat(StrEnum):
    """The number format of the weights written."""

    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"


def export(
    task: TaskName,
    adapter: Annotated[str, typer.Argument(metavar="ADAPTER", help="A registered adapter: ad-…")],
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER", help="A folder that does not exist yet.")],
    form: Annotated[ExportForm, typer.Option("--as", help="Safetensors, or one GGUF file.")] = ExportForm.merged,
    dtype: Annotated[ExportFormat | None, typer.Option("--dtype", help="Of the weights; default: the base's.")] = None,
    json: Json = False,
) -> None:
    """Write an adapter and its base model as one model, if the golden prompts are answered as before."""
    from finetune_platform.commands.export import export as run

    run(task, adapter, to, form.value, dtype.value if dtype else None, json)
