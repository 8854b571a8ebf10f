"""`finetune export`: an adapter and its base model as one model in a folder."""

import sys
from pathlib import Path

from finetune_platform.commands.adapters import registered
from finetune_platform.commands.installation import find_task, open_database, open_lake, read_settings
from finetune_platform.commands.terminal import console, print_json
from finetune_platform.inference.base_models import resolve_base_model
from finetune_platform.manifests import AdapterManifest
from finetune_platform.registry.artifacts import read_manifest
from finetune_platform.training.export import RECORD_NAME, ExportRecord, Form, Wanted, export_adapter
from finetune_platform.training.gguf import find_converter
from finetune_platform.training.merge import WeightFormat


def export(name: str, adapter_id: str, to: Path, form: Form, dtype: WeightFormat | None, as_json: bool) -> None:
    """Writes the folder and says what is in it; progress goes to stderr.

    Raises:
        BadInput: No such task or adapter, no converter, or something stands at the folder.
        PermanentError: The parity test failed; nothing was written.
    """
    task, lake, place = find_task(name), open_lake(), read_settings()
    adapter = read_manifest(lake, "registered_adapter", task.name, registered(open_database(), task.name, adapter_id))
    assert isinstance(adapter, AdapterManifest)
    converter = find_converter(place.gguf_converter) if form == "gguf" else None
    base = resolve_base_model(task.base_model, task.folder, lake, place.cache_dir, _tell)
    bundle = lake.fetch(adapter.path, place.cache_dir / "adapters" / task.name / adapter_id)
    record = export_adapter(adapter, bundle, base, Wanted(to.absolute(), form, dtype, converter), _tell)
    if as_json:
        print_json({**record.model_dump(mode="json"), "folder": str(to.absolute())})
    else:
        _print(record, to.absolute())


def _print(record: ExportRecord, folder: Path) -> None:
    out = console()
    out.print(f"{record.adapter_id} is written to {folder}, weights in {record.dtype}", style="green", soft_wrap=True)
    out.print(
        f"{record.same} of {record.prompts} golden prompts are answered with the adapter's tokens, "
        f"{record.same_as_trained} with those recorded in training",
        soft_wrap=True,
    )
    if record.read_back is False:
        out.print("the GGUF file itself was not compared: transformers cannot read this architecture", style="yellow")
    out.print(f"what it is made from: {folder / RECORD_NAME}", style="dim", soft_wrap=True)
    out.print(f"open every conversation with the system prompt: {record.system_prompt!r}", style="dim", soft_wrap=True)


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")
