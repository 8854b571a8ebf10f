"""An exported model answers as the adapter does, or there is no folder."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from ticket_rows import TASK, examples
from typer.testing import CliRunner

from finetune_platform.cli import app
from finetune_platform.commands.installation import open_database, open_lake
from finetune_platform.errors import BadInput, PermanentError
from finetune_platform.identity import folder_sha256
from finetune_platform.inference.base_models import ResolvedModel, load_tokenizer, resolve_base_model
from finetune_platform.manifests import AdapterManifest
from finetune_platform.settings import settings
from finetune_platform.task_file import load_task
from finetune_platform.task_training import Lora
from finetune_platform.training.export import Wanted, export_adapter
from finetune_platform.training.gguf import find_converter
from finetune_platform.training.golden import first_tokens, golden_answers
from finetune_platform.training.model import ADAPTER_WEIGHTS, load_for_training, save_adapter

PROMPT = "Name the topic."


@pytest.fixture(scope="module")
def bundle(tiny_model, tmp_path_factory) -> tuple[AdapterManifest, Path]:
    """A registered adapter's files and manifest; its weights change what the model says."""
    import torch

    folder = tmp_path_factory.mktemp("bundle") / "ad-000000000001"
    model, _ = load_for_training(tiny_model, "tiny", Lora(r=4), dtype="float32", device="cpu", seed=0)
    generator = torch.Generator().manual_seed(1)
    plain = golden_answers(model, load_tokenizer(tiny_model), examples(5), PROMPT)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "lora_B" in name:
                weights.copy_(torch.randn(weights.shape, generator=generator) * 0.05)
    save_adapter(model, folder)
    golden = golden_answers(model, load_tokenizer(tiny_model), examples(5), PROMPT)
    assert golden != plain
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(tiny_model / name, folder / name)
    options = {"do_sample": False, "eos_token_id": 2, "max_new_tokens": 64, "pad_token_id": 2}
    (folder / "generation_config.json").write_text(json.dumps(options))
    manifest = AdapterManifest(
        artifact_id=folder.name, task=TASK, code_version="1", files=folder_sha256(folder), base_model="tiny",
        base_model_revision="1", system_prompt=PROMPT, chat_template_sha256="0", summary={}, mlflow_model=TASK,
        golden=golden,
    )  # fmt: skip
    (folder / "manifest.json").write_bytes(manifest.to_bytes())
    return manifest, folder


@pytest.fixture
def base(tiny_model) -> ResolvedModel:
    return ResolvedModel(tiny_model, "tiny", "1", "0")


def wanted(target: Path, **others) -> Wanted:
    return Wanted(target, **{"form": "merged", "dtype": "float32", "converter": None, **others})


def test_the_merged_folder_alone_says_what_adapter_and_base_say(bundle, base, tmp_path):
    from transformers import AutoModelForCausalLM

    manifest, files = bundle
    lines: list[str] = []
    record = export_adapter(manifest, files, base, wanted(tmp_path / "out"), lines.append)
    assert (record.prompts, record.same, record.same_as_trained) == (5, 5, 5)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.generation_config.max_new_tokens == 64
    tokenizer = load_tokenizer(tmp_path / "out")
    for prompt in manifest.golden:
        assert first_tokens(model, tokenizer, prompt["messages"]) == prompt["token_ids"]
    assert json.loads((tmp_path / "out" / "export.json").read_text())["adapter_id"] == manifest.artifact_id
    assert [p.name for p in tmp_path.iterdir()] == ["out"] and not list((tmp_path / "out").glob("adapter_*"))


def test_a_merge_that_changes_answers_leaves_nothing(bundle, base, tmp_path):
    from safetensors.torch import load_file, save_file

    manifest, files = bundle
    huge = shutil.copytree(files, tmp_path / "huge")
    weights = load_file(huge / ADAPTER_WEIGHTS)
    larger = next(name for name in sorted(weights) if "v_proj.lora_B" in name)
    weights[larger] = weights[larger] * 1e8  # more than float16 holds, once merged
    save_file(weights, huge / ADAPTER_WEIGHTS)
    with pytest.raises(PermanentError, match=r"\d of 5 golden prompts are answered otherwise .*(?s:.*)--dtype float32"):
        export_adapter(manifest, huge, base, wanted(tmp_path / "out", dtype="float16"), print)
    assert [p.name for p in tmp_path.iterdir()] == ["huge"]


def test_what_cannot_be_exported_is_said_before_anything_is_loaded(bundle, base, tmp_path):
    manifest, files = bundle
    with pytest.raises(BadInput, match=r"the base model is tiny@2, but tiny@1 was expected"):
        export_adapter(manifest, files, base._replace(revision="2"), wanted(tmp_path / "out"), print)
    with pytest.raises(BadInput, match="no golden prompts"):
        export_adapter(manifest.model_copy(update={"golden": []}), files, base, wanted(tmp_path / "out"), print)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep me")
    with pytest.raises(BadInput, match="something is there already"):
        export_adapter(manifest, files, base, wanted(tmp_path / "full"), print)
    assert (tmp_path / "full" / "mine.txt").read_text() == "keep me"


def test_a_converter_that_fails_is_quoted_and_leaves_nothing(bundle, base, tmp_path, monkeypatch):
    manifest, files = bundle
    script = tmp_path / "convert_hf_to_gguf.py"
    script.write_text("import sys\nsys.exit('unknown architecture: ' + ' '.join(sys.argv[2:]))\n")
    script.chmod(0o755)
    converter = find_converter(f"{sys.executable} {script}")
    assert converter == find_converter(str(script)) == [sys.executable, str(script)]
    with pytest.raises(PermanentError, match=r"ended with 1: unknown architecture: --outfile .*\.gguf --outtype f32"):
        export_adapter(manifest, files, base, wanted(tmp_path / "out", form="gguf", converter=converter), print)
    assert not (tmp_path / "out").exists()
    with pytest.raises(BadInput, match=r"GGUF_CONVERTER: /nowhere/convert\.py: no such file"):
        find_converter("/nowhere/convert.py")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(BadInput, match=r"not on PATH(?s:.*)set GGUF_CONVERTER="):
        find_converter("")


@pytest.mark.slow
def test_a_gguf_file_of_llama_cpps_converter_answers_the_same(bundle, base, tmp_path):
    if not settings().gguf_converter:
        pytest.skip("GGUF_CONVERTER is not set")
    converter = find_converter(settings().gguf_converter)
    record = export_adapter(*bundle, base, wanted(tmp_path / "out", form="gguf", converter=converter), print)
    assert record.read_back and record.same == 5


def test_the_command_exports_a_registered_adapter_and_names_the_nearest(bundle, tiny_model, task_file, settings_env):
    manifest, files = bundle
    task_file(base_model={"uri": str(tiny_model)})
    task = load_task(settings_env.tasks_dir / f"{TASK}.yaml")
    found = resolve_base_model(task.base_model, task.folder, open_lake(), settings_env.cache_dir, print)
    ours = manifest.model_copy(update={"base_model": found.name, "base_model_revision": found.revision})
    copied = shutil.copytree(files, settings_env.finetune_home / "made")
    (copied / "manifest.json").write_bytes(ours.to_bytes())
    open_lake().publish(copied, ours.path)
    open_database().record_artifact(ours, "registered_adapter", "here", None)
    target = settings_env.finetune_home / "out"
    told = CliRunner().invoke(app, ["export", TASK, ours.artifact_id, "--to", str(target), "--dtype", "float32"])
    assert told.exit_code == 0, told.output
    assert "5 of 5 golden prompts" in " ".join(told.output.split()) and (target / "model.safetensors").exists()
    wrong = CliRunner().invoke(app, ["export", TASK, "ad-000000000002", "--to", str(target)])
    assert wrong.exit_code == 2 and "ad-000000000001" in wrong.output
