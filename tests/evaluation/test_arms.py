"""Which conversations each arm sends, and which training rows a prompt shows."""

from recorded_chain import Chain, gold_of, make_rows

from finetune_platform.evaluation.arms import baseline_arms
from finetune_platform.evaluation.benchmarks import benchmark_rows, commonest_answer, few_shot_rows, seen_in_training
from finetune_platform.lake import Lake
from finetune_platform.rows import Example, Message
from finetune_platform.task import Benchmark, Task


def asked(text: str, system: str | None = None) -> Example:
    opening = [Message(role="system", content=system)] if system else []
    messages = [*opening, Message(role="user", content=text), Message(role="assistant", content="none")]
    return Example(messages=messages, source_uri="x", source_row=0)


def test_baselines_are_a_prompt_a_prompt_with_examples_and_no_model(task: Task, chain: Chain) -> None:
    prompted, few_shot, trivial = baseline_arms(task, chain.lake, chain.dataset)
    row = asked("Sentence 7.")
    assert trivial.constant == "none"
    assert prompted.conversation(row) == [
        {"role": "system", "content": task.baseline_prompt},
        {"role": "user", "content": "Sentence 7."},
    ]
    turns = few_shot.conversation(row)
    assert [t["role"] for t in turns] == ["system", *["user", "assistant"] * 4, "user"]
    assert turns[0] == prompted.conversation(row)[0] and turns[-1]["content"] == "Sentence 7."


def test_a_row_with_its_own_system_prompt_keeps_it_first(task: Task, chain: Chain) -> None:
    _, few_shot, _ = baseline_arms(task, chain.lake, chain.dataset)
    turns = few_shot.conversation(asked("Sentence 7.", system="Special."))
    assert turns[0] == {"role": "system", "content": "Special."}
    assert [t["role"] for t in turns].count("system") == 1


def test_examples_come_from_every_task_type_with_different_answers(chain: Chain) -> None:
    rows = few_shot_rows(chain.lake, chain.dataset, 4)
    assert sorted(r.task_type for r in rows) == ["empty", "empty", "filled", "filled"]
    assert len({r.answer for r in rows if r.task_type == "filled"}) == 2
    assert [r.example_id for r in rows] == [r.example_id for r in few_shot_rows(chain.lake, chain.dataset, 4)]
    assert {r.example_id for r in rows} <= {r.example_id for r in chain.train}


def test_long_rows_are_not_shown(local_lake: Lake, chain: Chain) -> None:
    rows = make_rows(0, 80)
    for row in rows[:40]:
        row.messages[0] = Message(role="user", content=f"Sentence {'and so on ' * 500}.")
    dataset = chain.publish_dataset("ds-long", rows, make_rows(100, 5))
    assert all(len(r.messages[0].content or "") < 100 for r in few_shot_rows(local_lake, dataset, 6))


def test_rows_of_other_kinds_are_neither_asked_nor_shown_nor_counted(local_lake: Lake, chain: Chain) -> None:
    row = make_rows(0, 1)[0]
    others = [
        row.model_copy(update={"kind": "preference", "rejected": Message(role="assistant", content="none")}),
        row.model_copy(update={"kind": "unpaired_preference", "desirable": False}),
        Example(kind="text", messages=[], text="Ada met Bo.", source_uri="a.txt", source_row=1),
    ]
    mixed = chain.publish_dataset("ds-mixed", [*make_rows(1, 2), *others * 9], [*make_rows(100, 5), *others])
    assert len(benchmark_rows(local_lake, mixed, Benchmark(name="test"))) == 5
    assert {r.kind for r in few_shot_rows(local_lake, mixed, 6)} == {"sft"}
    assert commonest_answer(local_lake, mixed) in (gold_of(1), gold_of(2))
    assert gold_of(0) not in (gold_of(1), gold_of(2))


def test_a_smaller_benchmark_is_part_of_the_larger(chain: Chain) -> None:
    everything = benchmark_rows(chain.lake, chain.dataset, Benchmark(name="test"))
    some = benchmark_rows(chain.lake, chain.dataset, Benchmark(name="test", max_rows=10))
    assert len(everything) == 120
    assert some == everything[:10]
    assert len({r.source_row // 12 for r in some}) > 3


def test_rows_trained_on_elsewhere_are_counted(chain: Chain) -> None:
    other = chain.publish_dataset("ds-2", [*make_rows(300, 5), *chain.test[:7]], make_rows(400, 5))
    assert seen_in_training(chain.lake, other.path, chain.test) == 7
    assert seen_in_training(chain.lake, "people/datasets/ds-gone", chain.test) == 0
