"""`evidence.py choosing`: how many labels chosen rows save against random ones, on Banking77 with simulated experts."""

import csv
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from choosing_simulations import BATCH, WORLDS, Course, Questions, Way, courses

from finetune_platform.inference.embedder import Embedder, fetch_embedder
from finetune_platform.lake import Lake
from finetune_platform.model_ref import DEFAULT_EMBEDDER

ROOT = Path(__file__).parent.parent

RANDOM = Way("all random", 1.0, 0.0)
OURS = Way("40% random, 40% hard, 20% novel", 0.4, 0.2)
MARGIN = Way("40% random, 40% hard by the model's margin, 20% novel", 0.4, 0.2, "margin")
OTHERS = (
    Way("40% random, 60% hard", 0.4, 0.0),
    Way("40% random, 60% novel", 0.4, 0.6),
    Way("all hard", 0.01, 0.0),
)
"""Other compositions, after drift. Without an alarm nothing is novel, and that share goes to hard rows."""

ROUNDS = 10
AFTER = (3, 5, 10)
"""Batches of random rows whose accuracy is to be reached."""

MOST = 0.7
TARGETS = {f"labels needed, {world}, what 1,000 random ones reach, {OURS.name}": f"<= {MOST}" for world in WORLDS}


def figures(quick: bool, data: Path) -> dict[str, Any]:
    """All figures of choosing; `data` holds Banking77."""
    train, test = _questions(data, quick)
    rounds, seeds, workers = (3, 1, 1) if quick else (ROUNDS, 5, os.cpu_count() or 1)
    after = tuple(number for number in AFTER if number <= rounds)
    found: dict[str, Any] = {}
    places = [(world, world, train, test, (OURS,) if quick else (OURS, MARGIN)) for world in WORLDS]
    if not quick:
        places[0] = ("after drift", "after drift", train, test, (OURS, MARGIN, *OTHERS))
        by_words = _by_words(train, test)
        places += [(f"{world}, a model of words", world, *by_words, (OURS, MARGIN)) for world in WORLDS]
    for place, world, rows, tests, ways in places:
        at_random = courses(world, RANDOM, rows, tests, seeds, rounds, workers)
        for number in after:
            found[f"accuracy, {place}, {number * BATCH:,} labels, {RANDOM.name}"] = _rounded(at_random.accuracy[number])
        for way in ways:
            course = courses(world, way, rows, tests, seeds, rounds, workers)
            found |= _beside(at_random, course, after, place, way.name)
    ok = all(found.get(name, np.inf) <= MOST for name in TARGETS)
    return {"name": "evidence_choosing", "figures": found, "targets": TARGETS, "ok": ok}


def _beside(at_random: Course, course: Course, after: Sequence[int], place: str, way: str) -> dict[str, float]:
    """What a way of choosing saves; how far the share of wrong answers is off as a batch tells it."""
    found: dict[str, float] = {}
    for number in after:
        labels = number * BATCH
        needed = labels_to(course, at_random.accuracy[number]) / labels
        found[f"accuracy, {place}, {labels:,} labels, {way}"] = _rounded(course.accuracy[number])
        found[f"labels needed, {place}, what {labels:,} random ones reach, {way}"] = _rounded(needed)
    found[f"error of the random part, {place}, {way}"] = _rounded(course.measured.mean())
    found[f"error of the plain average, {place}, {way}"] = _rounded(course.averaged.mean())
    for name, figure in found.items():
        print(f"{name}: {figure}", flush=True)
    return found


def labels_to(course: Course, accuracy: float) -> float:
    """Labels after which a course first has an accuracy, between batches by a straight line; infinite if never."""
    reached = np.maximum.accumulate(course.accuracy)
    if reached[-1] < accuracy:
        return np.inf
    return float(np.interp(accuracy, reached, BATCH * np.arange(len(reached))))


def _rounded(figure: float) -> float:
    return round(float(figure), 3)


def _questions(data: Path, quick: bool) -> tuple[Questions, Questions]:
    with tempfile.TemporaryDirectory(prefix="finetune-bench-") as temp:
        cache = ROOT / ".finetune" / "cache"
        embedder = Embedder(fetch_embedder(DEFAULT_EMBEDDER, ROOT, Lake(str(Path(temp) / "lake")), cache, print))
        return _read(data / "train.csv", embedder, 4000 if quick else None), _read(
            data / "test.csv", embedder, 1000 if quick else None
        )


def _read(file: Path, embedder: Embedder, most: int | None) -> Questions:
    rows = list(csv.DictReader(file.open(encoding="utf-8")))
    rows = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))[:most]]
    texts = [row["text"] for row in rows]
    vectors = embedder.embed(texts)
    return Questions(texts, np.array([row["category"] for row in rows]), vectors, vectors)


def _by_words(train: Questions, test: Questions) -> tuple[Questions, Questions]:
    """The same rows for a model of words and letters, for which the vectors say less of what helps it."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline, make_union
    from sklearn.preprocessing import Normalizer

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True, min_df=5)
    seen = make_pipeline(make_union(words, letters), TruncatedSVD(300, random_state=0), Normalizer())
    return (
        train._replace(features=seen.fit_transform(train.texts).astype(np.float32)),
        test._replace(features=seen.transform(test.texts).astype(np.float32)),
    )
