"""How often the right text is among the first five: by words, by meaning, and by both.

    python bench/retrieval.py --data FOLDER [--quick] [--json]

FOLDER holds Banking77's train.csv and test.csv (columns text, category). Documents are training queries, questions are
test queries; a document is right where its category is the question's. A second table asks for one exact document by
the number in it, as users ask for orders and incidents.
"""

import argparse
import csv
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from reporting import finish

from finetune_platform.inference.embedder import fetch_embedder, load_embedder
from finetune_platform.lake import Lake
from finetune_platform.manifests import IndexManifest
from finetune_platform.model_ref import DEFAULT_EMBEDDER
from finetune_platform.retrieval.index import Index, Place
from finetune_platform.retrieval.words import WordIndex, stopwords

K = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    documents, questions = (200, 50) if options.quick else (2000, 500)
    train, test = _rows(options.data / "train.csv", documents), _rows(options.data / "test.csv", questions)
    figures: dict[str, float] = {}

    index, rate = _index([text for text, _ in train])
    figures["chunks embedded a second"] = round(rate, 1)
    right = [{n for n, (_, kind) in enumerate(train) if kind == wanted} for _, wanted in test]
    figures |= _recalls("same intent", index, [text for text, _ in test], right)

    numbers = [f"{random.Random(n).randrange(10**8):08d}" for n in range(documents)]
    index, _ = _index([f"Case {number}: {text}" for number, (text, _) in zip(numbers, train, strict=True)])
    asked = random.Random(1).sample(range(documents), questions)
    figures |= _recalls("by number", index, [f"what was {numbers[n]} about?" for n in asked], [{n} for n in asked])

    started = time.perf_counter()
    for text, _ in test[:50]:
        index.search(text, K)
    figures["search_ms, one question at a time"] = round(20 * (time.perf_counter() - started), 2)
    both = ("same intent: recall@5, both", "by number: recall@5, both")
    targets = dict.fromkeys(both, 0.85)
    ok = all(figures[name] >= target for name, target in targets.items())
    result = {"name": "retrieval", "figures": figures, "targets": targets, "ok": ok}
    finish(result, options.quick, options.json, ["torch", "transformers", "bm25s", "numpy"])


def _rows(file: Path, count: int) -> list[tuple[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        rows = [(row["text"], row["category"]) for row in csv.DictReader(stream)]
    return random.Random(0).sample(rows, count)


def _index(texts: Sequence[str]) -> tuple[Index, float]:
    with tempfile.TemporaryDirectory() as temp:
        cache = Path(__file__).parent.parent / ".finetune" / "cache"
        model = fetch_embedder(DEFAULT_EMBEDDER, Path(temp), Lake(f"{temp}/lake"), cache, print)
        embedder = load_embedder(model)
    started = time.perf_counter()
    vectors = embedder.embed(texts)
    rate = len(texts) / (time.perf_counter() - started)
    manifest = IndexManifest(
        artifact_id="ix-bench", task="bench", code_version="1", documents=len(texts), chunks=len(texts), files=[],
        set_aside={}, settings={}, embedder="default", embedder_id=embedder.id, funnel=[], versions={},
    )  # fmt: skip
    places = [Place(str(n), "bench", n, 0, len(text)) for n, text in enumerate(texts)]
    return Index(manifest, places, texts, vectors, WordIndex.of(list(texts)), embedder, stopwords("english")), rate


def _recalls(what: str, index: Index, questions: Sequence[str], right: Sequence[set[int]]) -> dict[str, float]:
    """Share of questions with a right document among the first five, for each way of finding."""
    ways: dict[str, Callable[[str], list[int]]] = {
        "words": lambda question: index.by_words(question, K),
        "meaning": lambda question: index.by_meaning(question, K),
        "both": lambda question: [passage.place.row for passage in index.search(question, K)],
    }
    return {
        f"{what}: recall@5, {way}": round(
            sum(not found.isdisjoint(find(q)) for q, found in zip(questions, right, strict=True)) / len(questions), 3
        )
        for way, find in ways.items()
    }


if __name__ == "__main__":
    main()
