"""Adapters on engines: what the plans name is fetched, checked and loaded before a request is sent to it.

An adapter that cannot be loaded is not ready: requests go to the next in line, and the log says why. One that no plan
names is unloaded when its last request has ended.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from finetune_platform.errors import BadInput, FinetuneError
from finetune_platform.identity import content_id, folder_sha256
from finetune_platform.inference.chat import ChatEngine, EngineError, LoadedAdapter
from finetune_platform.lake import Lake
from finetune_platform.manifests import MANIFEST_NAME, AdapterManifest
from finetune_platform.serving.interaction_ids import ADAPTER_PREFIX
from finetune_platform.serving.plan import Plan
from finetune_platform.serving.served_task import ServedTask

RETRY_S = 5.0
UNLOAD_S = 10.0
"""How long an adapter's last requests hold up the loading of others."""

CARD_NAME = "card.md"

log = logging.getLogger(__name__)


class Fleet:
    """The adapters of all served tasks.

    Args:
        tasks: By name.
        lake: Where bundles are.
        folder: Local copies of bundles; safe to delete while no gateway runs.
        plan_of: The plan of a task as it is stored.
    """

    def __init__(
        self, tasks: Mapping[str, ServedTask], lake: Lake, folder: Path, plan_of: Callable[[str], Plan]
    ) -> None:
        self._tasks, self._lake, self._folder, self._plan_of = tasks, lake, folder, plan_of
        self.failures: dict[str, str] = {}
        """Why adapters that a plan names are not ready, or not everywhere."""
        self._wake = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def wake_soon(self) -> None:
        """Says, from any thread, that a plan has changed."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake.set)

    async def run(self) -> None:
        """Keeps the engines as the plans want them, until cancelled."""
        self._loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            await self.reconcile()
            # Not wait_for: before Python 3.12 it swallows a cancellation that comes together with the wake.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_S):
                    await self._wake.wait()

    async def reconcile(self) -> None:
        """Loads what is missing and unloads what nobody names any more."""
        async with self._one_at_a_time:
            await asyncio.gather(*(self._load_missing(served) for served in self._tasks.values()))
            await asyncio.gather(*(self._unload_idle(engine) for engine in self._engines()))
            named = {adapter for task in self._tasks for adapter in self._plan_of(task).adapters}
            for adapter_id in self.failures.keys() - named:
                del self.failures[adapter_id]

    def _engines(self) -> Iterable[ChatEngine]:
        return {id(served.engine): served.engine for served in self._tasks.values()}.values()

    async def _load_missing(self, served: ServedTask) -> None:
        plan = self._plan_of(served.name)
        # The champion first: most requests wait for it.
        for adapter_id in sorted(plan.adapters, key=lambda adapter: (adapter != plan.champion, adapter)):
            try:
                if adapter_id not in served.prompts or adapter_id not in await served.engine.loaded():
                    await self._load(served, adapter_id, on_trial=adapter_id in (plan.canary, plan.shadow))
                self.failures.pop(adapter_id, None)
            except (EngineError, FinetuneError, OSError) as error:
                if not _passes(error):
                    served.prompts.pop(adapter_id, None)
                if self.failures.get(adapter_id) != str(error):
                    log.error("%s: adapter %s: %s", served.name, adapter_id, error)
                self.failures[adapter_id] = str(error)

    async def _load(self, served: ServedTask, adapter_id: str, *, on_trial: bool) -> None:
        manifest, folder = await asyncio.to_thread(self._fetch, served.name, adapter_id)
        try:
            await served.engine.load(LoadedAdapter(adapter_id, folder))
        except EngineError as error:
            # One of several servers is down: the others answer. But what is on trial must be everywhere first, or a
            # server's absence would count against it.
            if _passes(error) and not on_trial:
                served.prompts[adapter_id] = manifest.system_prompt
            raise
        served.prompts[adapter_id] = manifest.system_prompt
        log.info("%s: adapter %s is ready", served.name, adapter_id)

    def _fetch(self, task: str, adapter_id: str) -> tuple[AdapterManifest, Path]:
        """The bundle's local copy, checked; where there is one, the lake may be away."""
        copy = self._folder / task / adapter_id
        folder = self._lake.fetch(AdapterManifest.path_of(task, adapter_id), copy)
        manifest = Lake(str(self._folder)).manifest(AdapterManifest, f"{task}/{adapter_id}")
        found = {n: sha for n, sha in folder_sha256(folder).items() if n not in (CARD_NAME, MANIFEST_NAME)}
        if content_id(ADAPTER_PREFIX.rstrip("-"), found) != adapter_id:
            names = sorted(n for n in found.keys() | manifest.files.keys() if found.get(n) != manifest.files.get(n))
            raise BadInput(
                f"{folder / (names[0] if names else MANIFEST_NAME)}: not what {adapter_id} was registered with",
                f"delete {folder}; if it comes back wrong, the lake's copy was changed: register the adapter again",
            )
        return manifest, folder

    async def _unload_idle(self, engine: ChatEngine) -> None:
        using = [served for served in self._tasks.values() if served.engine is engine]
        wanted = {adapter for served in using for adapter in self._plan_of(served.name).adapters}
        try:
            idle = await engine.loaded() - wanted
        except EngineError as error:
            log.warning("an engine does not tell its adapters: %s", error)
            return
        for adapter_id in sorted(idle):
            for served in using:
                served.prompts.pop(adapter_id, None)
            try:
                async with asyncio.timeout(UNLOAD_S):
                    await engine.unload(adapter_id)
            except TimeoutError:
                log.info("adapter %s still answers; its engine forgets it afterwards", adapter_id)
            except EngineError as error:
                log.warning("adapter %s stays loaded: %s", adapter_id, error)


def _passes(error: Exception) -> bool:
    """Whether an engine has a passing trouble: it says of each request whether it can be answered."""
    return isinstance(error, EngineError) and error.status == 503
