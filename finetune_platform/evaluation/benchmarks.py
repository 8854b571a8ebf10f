"""The rows of a dataset that an evaluation reads: benchmark rows, the commonest answer, examples for a prompt.

What is sent to a model is decided in `arms.py`.
"""

from itertools import chain, zip_longest
from typing import TYPE_CHECKING

from finetune_platform.errors import BadInput
from finetune_platform.lake import Lake
from finetune_platform.manifests import DatasetManifest
from finetune_platform.rows import Example
from finetune_platform.task import Benchmark

if TYPE_CHECKING:
    import daft


def benchmark_rows(lake: Lake, dataset: DatasetManifest, benchmark: Benchmark) -> list[Example]:
    """The benchmark's rows, sorted by example id.

    Ids are content hashes, so the first `max_rows` are a random sample, and the same one in a grown dataset.

    Raises:
        BadInput: The split has no row with an answer.
    """
    frame = _answered(lake, dataset, benchmark.split).sort("example_id")
    if benchmark.max_rows is not None:
        frame = frame.limit(benchmark.max_rows)
    rows = [Example.from_record(row) for row in frame.to_pylist()]
    if not rows:
        raise BadInput(
            f"{dataset.path}/{benchmark.split}.parquet: no row with an answer to compare with",
            f"give benchmark {benchmark.name} another split, or the task more rows",
        )
    return rows


def commonest_answer(lake: Lake, dataset: DatasetManifest) -> str:
    """The most frequent training answer; of equally frequent ones the first by alphabet."""
    from daft import col

    counts = _answered(lake, dataset, "train").groupby("answer").agg(col("example_id").count().alias("count"))
    top = counts.sort(["count", "answer"], desc=[True, False]).limit(1).to_pylist()
    return str(top[0]["answer"]) if top else ""


def few_shot_rows(lake: Lake, dataset: DatasetManifest, count: int) -> list[Example]:
    """Training rows to show in a prompt: from every task type in turn, the larger first, with different answers.

    Only the shorter half of a task type is asked, so that the examples fit; within it the order of the content
    hashes decides, which is random and always the same.
    """
    from daft import col

    frame = _answered(lake, dataset, "train").with_column("size", col("messages").length())
    rows = frame.select("example_id", "task_type", "answer", "size").to_pylist()
    by_type: dict[str, list[dict[str, object]]] = {}
    for row in sorted(rows, key=lambda r: r["example_id"]):
        by_type.setdefault(row["task_type"], []).append(row)
    queues = [_varied(pool) for pool in sorted(by_type.values(), key=len, reverse=True)]
    turns = chain.from_iterable(zip_longest(*queues))
    ids = [str(row["example_id"]) for row in turns if row is not None][:count]
    chosen = {row["example_id"]: row for row in frame.where(col("example_id").is_in(ids)).to_pylist()} if ids else {}
    return [Example.from_record(chosen[example_id]) for example_id in ids]


def seen_in_training(lake: Lake, dataset_path: str, rows: list[Example]) -> int:
    """How many of `rows` are in the training split of another dataset; 0 where that dataset is gone."""
    from daft import col

    if not lake.is_published(dataset_path):
        return 0
    ids = [row.example_id for row in rows]
    train = lake.dataframe(f"{dataset_path}/train.parquet").select("example_id")
    return int(train.where(col("example_id").is_in(ids)).count_rows())


def _varied(pool: list[dict[str, object]]) -> list[dict[str, object]]:
    """The shorter half of `pool`, rows with an answer not yet shown first."""
    sizes = sorted(int(str(row["size"])) for row in pool)
    short = [row for row in pool if int(str(row["size"])) <= sizes[(len(sizes) - 1) // 2]]
    seen: set[object] = set()
    fresh: list[dict[str, object]] = []
    repeated: list[dict[str, object]] = []
    for row in short:
        (repeated if row["answer"] in seen else fresh).append(row)
        seen.add(row["answer"])
    return fresh + repeated


def _answered(lake: Lake, dataset: DatasetManifest, split: str) -> "daft.DataFrame":
    """Rows of kind `sft`: of the others none says what the right answer to its prompt is."""
    from daft import col

    return lake.dataframe(f"{dataset.path}/{split}.parquet").where(col("kind") == "sft")
