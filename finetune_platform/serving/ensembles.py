"""Ensembles at the gateway: a request to one is classified, and one of its tasks answers it under its own route."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from finetune_platform.database import Database
from finetune_platform.errors import FinetuneError
from finetune_platform.inference.passing_thread import in_passing_thread
from finetune_platform.lake import Lake
from finetune_platform.serving.callers import Caller
from finetune_platform.serving.ensemble_build import first_user_text
from finetune_platform.serving.ensemble_file import Ensemble
from finetune_platform.serving.ensemble_router import Chosen, Router, load_router

if TYPE_CHECKING:
    from finetune_platform.inference.embedder import Embedder

log = logging.getLogger(__name__)


class ServedEnsemble:
    """An ensemble with its classifier."""

    def __init__(self, ensemble: Ensemble, router: Router, embedder: "Embedder") -> None:
        self._ensemble, self._router, self._embedder = ensemble, router, embedder
        self._one_at_a_time = asyncio.Lock()

    @property
    def name(self) -> str:
        return self._ensemble.name

    def may_be_used_by(self, caller: Caller) -> bool:
        """Whoever may use all its tasks may use it: it opens no door that a key does not open."""
        return all(caller.may_use(task) for task in self._ensemble.members)

    async def choose(self, messages: Sequence[dict[str, Any]]) -> Chosen:
        """Who answers a conversation; all its requests are answered by the same task, for its beginning decides."""
        # In a thread: a long text takes tens of milliseconds, and other requests must not wait for them. In one at a
        # time: it computes on all cores.
        text = first_user_text(messages)
        async with self._one_at_a_time:
            return await asyncio.wrap_future(in_passing_thread(lambda: self._choose(text)))

    def _choose(self, text: str) -> Chosen:
        return self._router.choose(self._embedder.embed([text])[0])


def load_ensembles(ensembles: Sequence[Ensemble], lake: Lake, database: Database) -> Mapping[str, ServedEnsemble]:
    """Every ensemble that can be served, by name; of the others the log says why not."""
    served: dict[str, ServedEnsemble] = {}
    for ensemble in ensembles:
        try:
            served[ensemble.name] = _load(ensemble, lake, database)
        except (FinetuneError, LookupError) as error:
            log.error("the ensemble %s is not served: %s", ensemble.name, error)
    return served


def _load(ensemble: Ensemble, lake: Lake, database: Database) -> ServedEnsemble:
    row = database.latest_artifact(ensemble.name, "ensemble_router")
    if row is None:
        raise LookupError(f"it was never built: `finetune ensemble build {ensemble.name}`")
    router = load_router(lake, ensemble.name, row.artifact_id)
    known = {*router.manifest.labels, router.manifest.general}
    if not known <= set(ensemble.members) or not set(ensemble.specialists) <= known:
        raise LookupError(f"its file names other tasks than it was built of: `finetune ensemble build {ensemble.name}`")
    from finetune_platform.inference.embedder import Embedder

    embedder = Embedder(ensemble.embedding_folder)
    if router.manifest.embedder != embedder.id:
        raise LookupError(f"it was built with another embedding model: `finetune ensemble build {ensemble.name}`")
    return ServedEnsemble(ensemble, router, embedder)
