"""An index as it is searched: its chunks, their words and their vectors, and both rankings as one.

Making and publishing one belongs in `build.py`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from finetune_platform.errors import BadInput
from finetune_platform.inference.embedder import Embedder
from finetune_platform.manifests import MANIFEST_NAME, IndexManifest
from finetune_platform.retrieval.words import WordIndex

if TYPE_CHECKING:
    import numpy as np

CHUNKS_NAME, VECTORS_NAME, WORDS_NAME, SET_ASIDE_NAME = "chunks.parquet", "vectors.npy", "words", "set_aside.parquet"

RANK_OFFSET = 60
"""The constant of reciprocal rank fusion, as its authors chose it: it keeps one first place from outweighing all."""

CANDIDATES = 100
"""Places of each ranking that count, at least; a chunk that both leave out is not found."""

QUESTION_CHARS = 4000
"""What of a question is searched for."""


class Place(NamedTuple):
    """Where a chunk stands: characters `start` to `end` of a document; `row` is its line in a JSON-lines file, or 0."""

    name: str
    uri: str
    row: int
    start: int
    end: int


class Passage(NamedTuple):
    """A chunk that was found.

    Attributes:
        place: Where it stands.
        text: What it says.
        score: Of both rankings together; comparable within one search only.
        word_rank: Its place by BM25, from 1; None where it shares no word with the question or came too late.
        similarity: Cosine between its vector and the question's.
    """

    place: Place
    text: str
    score: float
    word_rank: int | None
    similarity: float


class Index:
    """A loaded index, which threads may share.

    Args:
        manifest: What it was made of.
        places: Of every chunk.
        texts: Of every chunk.
        vectors: float32, shape `(chunks, dimension)`, rows of length one.
        words: Over the same texts.
        embedder: The one that made the vectors.
        stopwords: Words of a question that are not searched for.

    Raises:
        BadInput: The embedder is another one: its vectors mean something else.
    """

    def __init__(
        self,
        manifest: IndexManifest,
        places: Sequence[Place],
        texts: Sequence[str],
        vectors: "np.ndarray",
        words: WordIndex,
        embedder: Embedder,
        stopwords: frozenset[str] = frozenset(),
    ) -> None:
        if embedder.id != manifest.embedder_id:
            raise BadInput(
                f"{manifest.artifact_id}: made with the embedder {manifest.embedder_id} ({manifest.embedder}), "
                f"but retrieval.embedder is {embedder.id}",
                f"materialize {manifest.task}/retrieval_index again",
            )
        self.manifest = manifest
        self._places, self._texts, self._vectors = places, texts, vectors
        self._words, self._embedder, self._stopwords = words, embedder, stopwords

    def __len__(self) -> int:
        return len(self._texts)

    def search(self, query: str, k: int) -> list[Passage]:
        """The best `k` chunks for a question; fewer where the index has fewer."""
        return self.search_all([query], k)[0]

    def search_all(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """`search` for several questions, whose vectors are made together."""
        questions = [query[:QUESTION_CHARS] for query in queries]
        vectors = self._embedder.embed(questions)
        return [self._fused(question, vector, k) for question, vector in zip(questions, vectors, strict=True)]

    def by_words(self, query: str, k: int) -> list[int]:
        """Numbers of the best `k` chunks by BM25 alone; those that share no word are left out."""
        scores = self._words.scores(query[:QUESTION_CHARS], self._stopwords)
        return [chunk for chunk in _best(scores, k) if scores[chunk] > 0]

    def by_meaning(self, query: str, k: int) -> list[int]:
        """Numbers of the best `k` chunks by their vectors alone."""
        return _best(self._vectors @ self._embedder.embed([query[:QUESTION_CHARS]])[0], k)

    def _fused(self, question: str, vector: "np.ndarray", k: int) -> list[Passage]:
        """Both rankings as one: a chunk's score is the sum of 1 / (60 + its place) over the rankings that have it.

        Source: Cormack, Clarke and Büttcher, Reciprocal Rank Fusion outperforms Condorcet (2009).
        """
        depth = max(CANDIDATES, 5 * k)
        similarities = self._vectors @ vector
        by_words, by_meaning = self.by_words(question, depth), _best(similarities, depth)
        scores: dict[int, float] = {}
        for ranking in (by_words, by_meaning):
            for rank, chunk in enumerate(ranking, start=1):
                scores[chunk] = scores.get(chunk, 0.0) + 1 / (RANK_OFFSET + rank)
        ranks = {chunk: rank for rank, chunk in enumerate(by_words, start=1)}
        best = sorted(scores, key=lambda chunk: (-scores[chunk], chunk))[:k]
        return [Passage(self._places[c], self._texts[c], scores[c], ranks.get(c), float(similarities[c])) for c in best]


def load_index(folder: Path, embedder: Embedder, stopwords: frozenset[str] = frozenset()) -> Index:
    """The index in a local folder, as the lake's copy of it.

    Raises:
        BadInput: The folder is not whole, or was made with another embedder.
    """
    import numpy as np
    import pyarrow.parquet as pq

    manifest = IndexManifest.from_bytes((folder / MANIFEST_NAME).read_bytes())
    table = pq.read_table(folder / CHUNKS_NAME).to_pydict()
    places = [Place(*row) for row in zip(*(table[field] for field in Place._fields), strict=True)]
    vectors = np.load(folder / VECTORS_NAME, allow_pickle=False)
    if not len(places) == len(vectors) == manifest.chunks:
        raise BadInput(
            f"{folder}: {len(places)} chunks and {len(vectors)} vectors, but the manifest says {manifest.chunks}",
            "delete that folder; it is fetched again",
        )
    return Index(manifest, places, table["text"], vectors, WordIndex.load(folder / WORDS_NAME), embedder, stopwords)


def _best(scores: "np.ndarray", k: int) -> list[int]:
    """Numbers of the highest `k` scores, highest first; of equal ones the first in the corpus."""
    import numpy as np

    k = min(k, len(scores))
    if not k:
        return []
    # Everything that could be among the best: cheaper than sorting all, and ties at the edge stay in.
    edge = np.partition(scores, len(scores) - k)[len(scores) - k]
    candidates = np.flatnonzero(scores >= edge)
    order = np.argsort(-scores[candidates], kind="stable")[:k]
    return [int(chunk) for chunk in candidates[order]]
