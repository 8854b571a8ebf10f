"""Training that begins at a registered adapter's weights."""

import pytest
from safetensors.numpy import load

from finetune_platform.errors import BadInput
from finetune_platform.manifests import MANIFEST_NAME, AdapterManifest
from finetune_platform.training.run import run_training

TRACKED = "sqlite:///{}/mlflow.db"


@pytest.fixture
def run(local_lake, publish_dataset, tmp_path):
    dataset = publish_dataset(local_lake)

    def start(task, warm_start=None):
        folder = tmp_path / "work"
        return run_training(
            task,
            dataset,
            local_lake,
            tmp_path / "cache",
            folder,
            TRACKED.format(tmp_path),
            print,
            warm_start=warm_start,
        )

    return start


def registered(lake, training) -> AdapterManifest:
    """The adapter of a run as the registry holds it: its PEFT files in a bundle."""
    adapter = AdapterManifest(
        artifact_id="ad-000000000001", task=training.task, code_version="1", files={}, summary={}, mlflow_model="",
        base_model=training.base_model, base_model_revision=training.base_model_revision, golden=[],
        system_prompt=training.system_prompt, chat_template_sha256=training.chat_template_sha256,
    )  # fmt: skip
    for info in lake.list(f"{training.path}/adapter"):
        lake.put(f"{adapter.path}/{info.path.rpartition('/')[2]}", lake.get(info.path))
    lake.put(f"{adapter.path}/{MANIFEST_NAME}", adapter.to_bytes())
    return adapter


def test_it_begins_where_the_adapter_stood_and_is_another_run(run, make_task, local_lake) -> None:
    cold = run(make_task())
    adapter = registered(local_lake, cold)
    warm = run(make_task(), adapter)
    assert warm.artifact_id != cold.artifact_id
    assert warm.parents["warm_start"] == adapter.artifact_id and "warm_start" not in cold.parents
    # With steps that move nothing the weights stay where they began.
    still = run(make_task(learning_rate=1e-12), adapter)
    began, ended = (
        load(local_lake.get(f"{path}/adapter_model.safetensors")) for path in (adapter.path, f"{still.path}/adapter")
    )
    for name, weights in began.items():
        assert float(abs(ended[name] - weights).max()) < 1e-6, name


def test_another_shape_or_another_base_is_refused_with_both_values(run, make_task, local_lake) -> None:
    adapter = registered(local_lake, run(make_task()))
    with pytest.raises(BadInput, match=r"its r is 4, that of training.stages\[0\].peft is 8"):
        run(make_task(peft={"r": 8, "lora_alpha": 8}), adapter)
    other = adapter.model_copy(update={"base_model_revision": "another"})
    with pytest.raises(BadInput, match=r"stands on .*@another, this run on"):
        run(make_task(), other)
