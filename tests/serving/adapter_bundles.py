"""Registered adapters for tests of the gateway: bundles as the registry writes them, with weights of a few bytes."""

from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory

from finetune_platform.identity import folder_sha256
from finetune_platform.lake import Lake
from finetune_platform.manifests import AdapterManifest
from finetune_platform.registry.bundle import adapter_id_of


def publish_adapter(lake: Lake, task: str, weights: str) -> str:
    """Puts a bundle into the lake; its id."""
    with TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "adapter_model.safetensors").write_text(weights)
        (folder / "adapter_config.json").write_text('{"r": 8}')
        return publish_folder(lake, task, folder, f"prompt of {weights}")


def publish_folder(lake: Lake, task: str, adapter: Path, system_prompt: str, note: str = "") -> str:
    """Puts a bundle of a PEFT folder into the lake; its id. Another `note` makes it another adapter."""
    with TemporaryDirectory() as made:
        folder = Path(made) / "bundle"
        copytree(adapter, folder)
        if note:
            (folder / "note.txt").write_text(note)
        files = folder_sha256(folder)
        manifest = AdapterManifest(
            artifact_id=adapter_id_of(files),
            task=task,
            code_version="1",
            files=files,
            base_model="tiny",
            base_model_revision="1",
            system_prompt=system_prompt,
            chat_template_sha256="0",
            summary={},
            mlflow_model=task,
            golden=[],
        )
        (folder / "card.md").write_text("# a card")
        (folder / "manifest.json").write_bytes(manifest.to_bytes())
        lake.publish(folder, manifest.path)
        return manifest.artifact_id
