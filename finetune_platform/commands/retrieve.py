"""`finetune index` and `finetune retrieve`: a task's index made, and asked."""

from rich.text import Text

from finetune_platform.commands.dagster_home import prepare
from finetune_platform.commands.installation import find_task, open_database, open_lake, read_settings
from finetune_platform.commands.live import stage_view
from finetune_platform.commands.terminal import console, print_json
from finetune_platform.errors import BadInput
from finetune_platform.manifests import IndexManifest
from finetune_platform.retrieval.index import Passage
from finetune_platform.retrieval.newest import INDEX_ASSET, open_index
from finetune_platform.retrieval.prompt import citations
from finetune_platform.task import Task


def index_task(name: str) -> None:
    """Materializes a task's index and says what is in it.

    Raises:
        BadInput: No such task, or it names no corpus.
        FinetuneError: Whatever ended the run.
    """
    task = _with_retrieval(name)
    prepare(read_settings())
    from finetune_platform.definitions import build_defs
    from finetune_platform.sensors.by_hand import execute

    with stage_view((INDEX_ASSET,)) as send:
        execute(build_defs().resolve_job_def(f"{task.name}_retrieval"), task.name, (INDEX_ASSET,), send)
    lake, made = open_lake(), open_database().latest_artifact(task.name, INDEX_ASSET)
    assert made is not None  # the run that has just ended recorded it
    index = lake.manifest(IndexManifest, IndexManifest.path_of(task.name, made.artifact_id))
    out = console()
    out.print(
        f"{index.artifact_id}: {index.documents:,} documents, {index.chunks:,} chunks, "
        f"{sum(index.set_aside.values()):,} documents set aside: {lake.url_of(index.path)}",
        soft_wrap=True,
    )
    out.print(f'next: finetune retrieve {task.name} "a question"', style="dim")


def retrieve(name: str, question: str, count: int | None, as_json: bool) -> None:
    """Shows the passages that a question finds.

    Raises:
        BadInput: No such task, it names no corpus, or its index was never made.
    """
    task = _with_retrieval(name)
    assert task.retrieval is not None
    place = read_settings()
    index = open_index(task, open_lake(), open_database(), place.cache_dir, lambda line: None)
    passages = index.search(question, count or task.retrieval.top_k)
    if as_json:
        told = citations(passages)
        print_json(
            {
                "index": index.manifest.artifact_id,
                "passages": [{**cited, "text": p.text} for cited, p in zip(told, passages, strict=True)],
            }
        )
        return
    out = console()
    for number, passage in enumerate(passages, start=1):
        out.print(_headed(number, passage), soft_wrap=True)
        out.print(Text(passage.text), soft_wrap=True)
        out.print()
    out.print(f"{index.manifest.artifact_id}, {len(index):,} chunks", style="dim")


def _headed(number: int, passage: Passage) -> Text:
    place = passage.place
    words = f"word rank {passage.word_rank}" if passage.word_rank else "no shared word"
    figures = f"  score {passage.score:.4f}, similarity {passage.similarity:.2f}, {words}"
    return Text.assemble((f"[{number}] {place.name}", "bold"), f" {place.start}-{place.end}", (figures, "dim"))


def _with_retrieval(name: str) -> Task:
    task = find_task(name)
    if task.retrieval is None:
        raise BadInput(
            f"{task.path}: retrieval: {task.name} names no corpus",
            "add a retrieval section; docs/retrieval.md shows one",
        )
    return task
