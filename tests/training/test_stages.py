"""Training that begins at trained weights, of an adapter or the stage before: where, on what, how."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load
from ticket_rows import examples

from finetune_platform.errors import BadInput
from finetune_platform.manifests import MANIFEST_NAME, AdapterManifest
from finetune_platform.manifests_training import TrainingManifest
from finetune_platform.rows import Example, Message
from finetune_platform.task import Task
from finetune_platform.task_labeling import WarmStart
from finetune_platform.task_training import Lora, Stage, Training
from finetune_platform.training.chain import run_training
from finetune_platform.training.loop import StepLog
from finetune_platform.training.replay import Earlier, mix
from finetune_platform.training.surroundings import Surroundings

TRACKED = "sqlite:///{}/mlflow.db"


@pytest.fixture
def run(local_lake, publish_dataset, tmp_path):
    first = publish_dataset(local_lake)

    def start(task, warm_start=None, dataset=first):
        surroundings = Surroundings(tmp_path / "work", TRACKED.format(tmp_path), print)
        return run_training(task, dataset, local_lake, tmp_path / "cache", surroundings, warm_start=warm_start)

    return start


def registered(lake, training, adapter_id="ad-000000000001") -> AdapterManifest:
    """The adapter of a run as the registry holds it: its files in a bundle."""
    adapter = AdapterManifest(
        artifact_id=adapter_id, task=training.task, code_version="1", files={}, summary={}, mlflow_model="",
        base_model=training.base_model, base_model_revision=training.base_model_revision, golden=[],
        system_prompt=training.system_prompt, chat_template_sha256=training.chat_template_sha256,
        parents={"curated_dataset": training.parents["curated_dataset"]},
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


def test_it_trains_on_new_rows_and_a_sample_of_the_old_with_options_of_its_own(
    run, make_task, local_lake, publish_dataset
) -> None:
    cold = run(make_task())
    adapter = registered(local_lake, cold)
    grown = publish_dataset(local_lake, examples(50), "ds-000000000002")  # Rows 32 to 39 are new to the adapter.
    task = make_task()
    own = WarmStart(replay_share=0.6, num_train_epochs=1, learning_rate=0.001)
    task = task.model_copy(update={"retraining": task.retraining.model_copy(update={"warm_start": own})})
    warm = run(task, adapter, grown)
    assert (cold.train_rows, cold.replayed_rows) == (32, None)
    assert (warm.train_rows, warm.replayed_rows) == (20, 12)
    same = {"num_train_epochs": 2.0, "learning_rate": 0.01, "training_run": cold.artifact_id}
    assert warm.stages[0] | same == cold.stages[0]
    assert (warm.stages[0]["num_train_epochs"], warm.stages[0]["learning_rate"]) == (1, 0.001)
    # Without an adapter to begin at, those options say nothing.
    assert run(task).artifact_id == cold.artifact_id


def test_without_the_adapters_dataset_it_says_what_is_missing(run, make_task, local_lake) -> None:
    adapter = registered(local_lake, run(make_task()))
    gone = adapter.model_copy(update={"parents": {"curated_dataset": "ds-00000000dead"}})
    with pytest.raises(BadInput, match="its dataset ds-00000000dead is not in the lake"):
        run(make_task(), gone)


def rows(count: int, stratum: str = "") -> list[Example]:
    return [
        Example(
            messages=[Message(role="user", content=f"{stratum}{i}"), Message(role="assistant", content="a")],
            task_type=stratum,
            source_uri="x",
            source_row=i,
        )
        for i in range(count)
    ]


@given(
    new=st.integers(0, 30), old=st.integers(0, 60), share=st.floats(0, 0.95), seed=st.integers(0, 5), order=st.randoms()
)
def test_a_mix_holds_every_new_row_once_and_the_old_in_their_share(new, old, share, seed, order) -> None:
    train, seen = rows(new, "new"), rows(old, "old")
    both = [*train, *seen]
    order.shuffle(both)
    mixed = mix(both, Earlier(frozenset(row.example_id for row in seen), share), seed)
    ids = [row.example_id for row in mixed.rows]
    assert len(set(ids)) == len(ids)
    assert ids == [row.example_id for row in both if row.example_id in set(ids)], "in the dataset's order"
    assert mixed.replayed == len(ids) - new
    assert {row.example_id for row in train} <= set(ids)
    wanted = round(new * share / (1 - share)) if new else old
    assert mixed.replayed == min(wanted, old)


def test_replayed_rows_stand_for_every_slice_in_its_share() -> None:
    seen = [*rows(60, "a"), *rows(30, "b"), *rows(10, "c")]
    for seed in range(20):
        mixed = mix([*rows(20, "n"), *seen], Earlier(frozenset(row.example_id for row in seen), 0.5), seed)
        counts = Counter(row.task_type for row in mixed.rows)
        assert (counts["a"], counts["b"], counts["c"]) == (12, 6, 2)
    samples = {tuple(row.example_id for row in mix([*rows(20, "n"), *seen], Earlier(frozenset(
        row.example_id for row in seen), 0.5), seed).rows) for seed in range(5)}  # fmt: skip
    assert len(samples) == 5


def every_kind(count: int) -> list[Example]:
    """Documents, answers and preferences in turn, so that each split has all."""
    found: list[Example] = []
    for n, row in enumerate(examples(count)):
        found.append(row)
        wrong = Message(role="assistant", content="no idea at all")
        found.append(row.model_copy(update={"kind": "preference", "rejected": wrong, "source_row": 1000 + n}))
        text = f"Ticket {n} was about a card that did not work, and then it did."
        found.append(Example(kind="text", messages=[], text=text, source_uri="raw/news.jsonl", source_row=n))
        judged = {"kind": "unpaired_preference", "desirable": n % 3 == 0, "source_row": 2000 + n}
        found.append(row.model_copy(update=judged))
    return found


STAGES = [
    {"method": "cpt", "learning_rate": 0.1, "num_train_epochs": 6, "max_length": 64},
    {"method": "sft", "learning_rate": 0.02},
    {"method": "dpo", "learning_rate": 0.1, "num_train_epochs": 3},
]


def chained(make_task, stages) -> Task:
    first = make_task().training.stages[0]
    made = [Stage.model_validate({**first.model_dump(), **stage}) for stage in stages]
    task = make_task()
    return task.model_copy(update={"training": Training(stages=made)})


def test_each_stage_begins_where_the_last_one_ended_and_learns_its_own_rows(
    run, make_task, local_lake, publish_dataset
) -> None:
    dataset = publish_dataset(local_lake, every_kind(40))
    last = run(chained(make_task, STAGES), dataset=dataset)
    assert [stage["method"] for stage in last.stages] == ["cpt", "sft", "dpo"]
    assert last.kinds == ["preference", "sft", "text"]
    runs = [
        local_lake.manifest(TrainingManifest, TrainingManifest.path_of(last.task, stage["training_run"]))
        for stage in last.stages
    ]
    assert runs[-1] == last and last.train_rows == 32
    curves = [
        [StepLog.from_line(line) for line in local_lake.get(f"{one.path}/log.jsonl").decode().splitlines()]
        for one in runs
    ]
    for curve in curves:
        measured = [entry.validation_loss for entry in curve if entry.validation_loss is not None]
        assert measured[-1] < measured[0]
    # The weights that DPO began at answer as after SFT: neither answer is preferred to that reference yet.
    assert abs(curves[2][0].measures["reward_margin"]) < 1e-5
    assert curves[2][-1].measures["validation_reward_margin"] > 0.05
    # With other options of the last stage, the first two are found and not trained again.
    again = run(chained(make_task, [*STAGES[:2], {**STAGES[2], "beta": 0.5}]), dataset=dataset)
    assert [one["training_run"] for one in again.stages[:2]] == [one["training_run"] for one in last.stages[:2]]
    assert again.artifact_id != last.artifact_id


@pytest.mark.parametrize("method", ["orpo", "kto"])
def test_preferences_without_pairs_or_reference_raise_the_margin(
    run, make_task, local_lake, publish_dataset, method
) -> None:
    dataset = publish_dataset(local_lake, every_kind(40))
    last = run(chained(make_task, [{"method": method, "num_train_epochs": 3, "learning_rate": 0.1}]), dataset=dataset)
    lines = local_lake.get(f"{last.path}/log.jsonl").decode().splitlines()
    margins = [json.loads(line)["measures"].get("validation_reward_margin") for line in lines]
    measured = [margin for margin in margins if margin is not None]
    assert measured[-1] > measured[0]


def test_a_stage_without_rows_says_which_kind_is_missing(run, make_task) -> None:
    with pytest.raises(BadInput, match="the training split has no rows of kind preference, which dpo trains on"):
        run(chained(make_task, [{"method": "dpo"}]))


def test_stages_of_different_shapes_are_refused_by_the_task_file() -> None:
    with pytest.raises(ValueError, match=r"stages\[1\].peft differs from stages\[0\].peft"):
        Training(stages=[Stage(), Stage(peft=Lora(r=2))])
