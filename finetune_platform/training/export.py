"""An adapter, or a model all of which was trained, as one model: merged safetensors, or one GGUF file.

The folder appears at once and only after the parity test: a merge can change answers without a word.
"""

import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Literal, NamedTuple

from finetune_platform.errors import BadInput
from finetune_platform.identity import folder_sha256
from finetune_platform.inference.base_models import ResolvedModel
from finetune_platform.manifests import WHOLE_CONFIG, WHOLE_WEIGHTS, AdapterManifest, Record, expect_same
from finetune_platform.progress import Report
from finetune_platform.storage_errors import disk_failures
from finetune_platform.training.gguf import read_back, write_gguf
from finetune_platform.training.merge import Parity, WeightFormat, compare, merge, stored_dtype
from finetune_platform.training.model import ADAPTER_CONFIG, ADAPTER_WEIGHTS

RECORD_NAME = "export.json"
Form = Literal["merged", "gguf"]


class ExportRecord(Record):
    """`export.json`: what an exported folder is made from, and how the golden prompts are answered by it.

    `prompts` of the parity test, `same` as by the adapter (all, or there would be no folder) and `same_as_trained` as
    by the trainer's model in its own number format. `read_back`: whether the GGUF file itself was tested too.
    """

    task: str
    adapter_id: str
    base_model: str
    base_model_revision: str
    system_prompt: str
    form: Form
    dtype: WeightFormat
    prompts: int
    same: int
    same_as_trained: int
    read_back: bool | None = None
    files: dict[str, str]
    versions: dict[str, str]


class Wanted(NamedTuple):
    """What to write.

    Attributes:
        target: The folder that appears; nothing may be there.
        form: `merged` or `gguf`.
        dtype: Of the weights; None: the base model's own, of a whole model its own.
        converter: The command of llama.cpp's, for `gguf`.
    """

    target: Path
    form: Form
    dtype: WeightFormat | None
    converter: list[str] | None


def export_adapter(
    adapter: AdapterManifest, bundle: Path, base: ResolvedModel, wanted: Wanted, report: Report
) -> ExportRecord:
    """Merges, compares, and writes the folder.

    Args:
        adapter: A registered one.
        bundle: A local copy of its files.
        base: The model it stands on.
        wanted: Where to and as what.
        report: Told of the steps.

    Raises:
        BadInput: Another base model, something stands at the target, or the adapter has no golden prompts.
        PermanentError: The result answers otherwise than the adapter, or the converter failed.
        StorageFailed: The disk does not take it.
    """
    place = f"{adapter.artifact_id}, a merge needs its own base model"
    expect_same("the base model", _full_name(base.name, adapter.base_model_revision), _full_name(*base[1:3]), place)
    target = wanted.target
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BadInput(f"{target}: something is there already", "name a folder that does not exist")
    with disk_failures(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target, so that it appears by one rename.
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".finetune-export-") as temporary:
            folder = Path(temporary) / "model"
            folder.mkdir()
            record = _write(adapter, bundle, base, wanted, folder, report)
            folder.rename(target)
    return record


def _write(
    adapter: AdapterManifest, bundle: Path, base: ResolvedModel, wanted: Wanted, folder: Path, report: Report
) -> ExportRecord:
    dtype = wanted.dtype or _named(str(stored_dtype(bundle if adapter.is_whole else base.path)))
    merged = folder if wanted.form == "merged" else folder.parent / "merged"
    if adapter.is_whole:
        report(f"export: {adapter.artifact_id} is a whole model; its weights are written in {dtype}")
    else:
        report(f"export: merging {adapter.artifact_id} into {base.name}@{base.revision}, weights in {dtype}")
    parity = merge(base.path, bundle, merged, adapter.golden, dtype)
    for name in sorted(set(adapter.files) - {ADAPTER_WEIGHTS, ADAPTER_CONFIG, WHOLE_WEIGHTS, WHOLE_CONFIG}):
        shutil.copyfile(bundle / name, merged / name)
    report(f"export: {parity.same} of {parity.prompts} golden prompts are answered with the adapter's tokens")
    known = None
    if wanted.form == "gguf":
        assert wanted.converter is not None  # the command found it before anything was loaded
        file = folder / f"{adapter.task}-{adapter.artifact_id}.gguf"
        report(f"export: llama.cpp's converter writes {file.name}")
        write_gguf(wanted.converter, merged, file, dtype)
        known = _read_back(adapter, base, file, parity, report)
    record = ExportRecord(
        task=adapter.task,
        adapter_id=adapter.artifact_id,
        base_model=adapter.base_model,
        base_model_revision=adapter.base_model_revision,
        system_prompt=adapter.system_prompt,
        form=wanted.form,
        dtype=dtype,
        prompts=parity.prompts,
        same=parity.same,
        same_as_trained=parity.same_as_trained,
        read_back=known,
        files=folder_sha256(folder),
        versions={name: version(name) for name in ("torch", "transformers", "peft")},
    )
    (folder / RECORD_NAME).write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return record


def _read_back(adapter: AdapterManifest, base: ResolvedModel, file: Path, parity: Parity, report: Report) -> bool:
    """Compares what the GGUF file answers; returns whether it could be read."""
    found = read_back(file, base.path, adapter.golden)
    if found is None:
        report("export: transformers cannot read GGUF files of this architecture, so this one is not compared")
        return False
    same = compare(parity.expected, found, adapter.golden, file.name).same
    report(f"export: read back, the file answers {same} of {parity.prompts} golden prompts with the same tokens")
    return True


def _full_name(name: str, revision: str) -> str:
    return f"{name}@{revision}"


def _named(dtype: str) -> WeightFormat:
    name = dtype.removeprefix("torch.")
    known: dict[str, WeightFormat] = {"bfloat16": "bfloat16", "float16": "float16"}
    return known.get(name, "float32")
