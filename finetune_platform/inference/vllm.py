"""vLLM servers as an engine that loads adapters at run time, on every replica, under names that are never used twice.

A name is the adapter's content-addressed id, because vLLM goes on answering from the old weights' prefix cache when a
name is loaded again with others. A request for an adapter goes only to replicas that confirmed it. vLLM's endpoints
stand in `vllm_control.py`, retries and time-outs in the files under `upstream.py`.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any

from finetune_platform.inference import vllm_control as control
from finetune_platform.inference.breaker import Breaker
from finetune_platform.inference.chat import Body, EngineError, LoadedAdapter
from finetune_platform.inference.dispatch import USUAL_RETRIES, Dispatcher, Retries
from finetune_platform.inference.exchange import AttemptFailed, Http, Timeouts
from finetune_platform.inference.replicas import Replica
from finetune_platform.inference.whole_models import holds_whole_model

log = logging.getLogger(__name__)

DRAIN_POLL_S = 0.02


def local_path(adapter: LoadedAdapter) -> str:
    """Where a server on this machine, or with the same volume, finds the adapter."""
    return str(adapter.folder.absolute())


class VllmEngine:
    """A `ChatEngine` over vLLM servers that all serve the same base model.

    Each must be started with `--enable-lora` and VLLM_ALLOW_RUNTIME_LORA_UPDATING=true, and see the adapters' folders
    for as long as they are loaded: an adapter that vLLM's own cache dropped is read again.

    Args:
        urls: Their addresses; `/v1` is added to a bare host.
        model: The name that they know the base model by; None: asked of a server.
        api_key: Sent as a bearer token.
        timeout_s: Longest time for an answer, all tries included.
        path_of: Where the servers find an adapter's folder.
        reconcile_s: How often each server is asked what it has, once an adapter was loaded.
        exclusive: The servers serve this engine alone: adapters that others loaded (`ad-…`) are unloaded.
        timeouts: The shorter ones within `timeout_s`, which stands in its place.
        retries: When a request is tried again.
        hedge: Asks a second server when the first takes longer than 95% of answers do.
        breaker: Makes each server's circuit breaker.
    """

    def __init__(
        self,
        urls: Sequence[str],
        model: str | None = None,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        *,
        path_of: Callable[[LoadedAdapter], str] = local_path,
        reconcile_s: float = 5.0,
        exclusive: bool = False,
        timeouts: Timeouts | None = None,
        retries: Retries = USUAL_RETRIES,
        hedge: bool = False,
        breaker: Callable[[], Breaker] = Breaker,
    ) -> None:
        self.model = model
        self.replicas = tuple(Replica(url, breaker()) for url in urls)
        self.problems: dict[str, str] = {}
        self._path_of = path_of
        self._reconcile_s = reconcile_s
        self._exclusive = exclusive
        self._http = Http(api_key, (timeouts or Timeouts(timeout_s))._replace(total_s=timeout_s))
        self._dispatcher = Dispatcher(self._http, self._candidates, self._failed, retries, hedge)
        self._wanted: dict[str, str] = {}
        self._leftovers: dict[Replica, set[str]] = {replica: set() for replica in self.replicas}
        self._confirmed: dict[Replica, set[str]] = {replica: set() for replica in self.replicas}
        self._settling: dict[Replica, asyncio.Lock] = {replica: asyncio.Lock() for replica in self.replicas}
        self._keeper: asyncio.Task[None] | None = None
        self._recovery: asyncio.Task[None] | None = None

    async def complete(self, body: Body, adapter: str | None) -> dict[str, Any]:
        model = adapter or await self._base()
        answer = await self._dispatcher.complete(body, model)
        _assert_answered_by(answer, adapter)
        return answer

    async def stream(self, body: Body, adapter: str | None) -> AsyncIterator[dict[str, Any]]:
        model = adapter or await self._base()
        async with aclosing(self._dispatcher.stream(body, model)) as chunks:
            async for chunk in chunks:
                _assert_answered_by(chunk, adapter)
                yield chunk

    async def load(self, adapter: LoadedAdapter) -> None:
        """Loads an adapter on every replica and confirms it.

        An adapter that a replica refuses is loaded nowhere, and so is a whole model, for which vLLM has no way. Where
        a replica cannot be reached, the others answer with the adapter all the same, and that one gets it as soon as
        it is back, before any request for it.

        Raises:
            EngineError: A replica refuses it, or cannot be reached (503); it is a whole model (400).
        """
        name = adapter.adapter_id
        if holds_whole_model(adapter.folder):
            raise EngineError(
                400,
                f"{name}: all of its weights were trained, and a running vLLM server takes adapters only; serve it "
                "with kind in_process, or start a server on its folder and name that as kind openai",
            )
        self._wanted[name] = self._path_of(adapter)
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep())
        if name in await self.loaded():
            return
        problems = await asyncio.gather(*(self._settle(replica) for replica in self.replicas))
        for problem in (found.get(name) for found in problems):
            if problem is not None:
                await self.unload(name)
                raise problem
        if lacking := [r.name for r in self.replicas if name not in self._confirmed[r]]:
            raise EngineError(503, f"{name} is not loaded on {', '.join(lacking)}: {self._said(lacking)}")

    async def unload(self, adapter_id: str) -> None:
        """Sends no more requests to the adapter, waits for those under way, then has every replica forget it.

        A replica that cannot be reached, or whose last answer a caller does not read, forgets it later.
        """
        if self._wanted.pop(adapter_id, None) is None:
            return
        for replica in self.replicas:
            self._confirmed[replica].discard(adapter_id)
            self._leftovers[replica].add(adapter_id)
        await asyncio.gather(*(self._drained(replica, adapter_id) for replica in self.replicas))
        await asyncio.gather(*(self._settle(replica) for replica in self.replicas))

    async def loaded(self) -> set[str]:
        return set.intersection(*self._confirmed.values()) & self._wanted.keys()

    async def reconcile(self) -> None:
        """Asks every replica what it has, loads what it lacks and unloads what it should not have.

        Runs by itself every `reconcile_s`. What could not be done stands in `problems`, by server.
        """
        await asyncio.gather(*(self._settle(replica) for replica in self.replicas))

    async def close(self) -> None:
        tasks = [task for task in (self._keeper, self._recovery) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._http.close()

    async def _settle(self, replica: Replica) -> dict[str, EngineError]:
        """Brings one replica's adapters in line; what it answered about those that it refuses."""
        refusals: dict[str, EngineError] = {}
        problem = ""
        async with self._settling[replica]:
            try:
                await self._unload_leftovers(replica)
                await self._load_missing(replica, refusals)
            except EngineError as error:
                # A busy server that is slow to list its models has not lost them; one that is down has.
                if isinstance(error, AttemptFailed) and error.unreachable:
                    self._confirmed[replica].clear()
                problem = error.message
        problem = problem or "; ".join(error.message for error in refusals.values())
        if problem and self.problems.get(replica.name) != problem:
            log.warning("%s", problem)
        self.problems[replica.name] = problem
        return refusals

    async def _unload_leftovers(self, replica: Replica) -> None:
        present = (await control.served(self._http, replica)).adapters
        leftovers = self._leftovers[replica]
        leftovers &= present - self._wanted.keys()
        if self._exclusive:
            leftovers |= {name for name in present - self._wanted.keys() if name.startswith("ad-")}
        for name in sorted(leftovers):
            if replica.in_flight[name]:
                continue  # at the next reconciliation: waiting here would hold up the loading of others
            await control.unload(self._http, replica, name)
            leftovers.discard(name)

    async def _load_missing(self, replica: Replica, refusals: dict[str, EngineError]) -> None:
        present = (await control.served(self._http, replica)).adapters
        self._confirmed[replica] &= present
        missing = {name: path for name, path in self._wanted.items() if name not in present}
        for name, path in missing.items():
            try:
                await control.load(self._http, replica, name, path)
            except AttemptFailed:
                raise
            except EngineError as error:
                refusals[name] = error
        if missing:
            # Its own word that it loaded an adapter is not enough: what counts is what it lists.
            present = (await control.served(self._http, replica)).adapters
        self._confirmed[replica] = set(present & self._wanted.keys())

    async def _drained(self, replica: Replica, name: str) -> None:
        """Waits for the requests under way, no longer than a request can last."""
        clock = asyncio.get_running_loop().time
        last = clock() + self._http.timeouts.total_s
        while replica.in_flight[name] and clock() < last:
            await asyncio.sleep(DRAIN_POLL_S)

    async def _candidates(self, model: str) -> Sequence[Replica]:
        if model == self.model:
            return self.replicas
        if model not in self._wanted:
            raise EngineError(503, f"{model} is not loaded")
        ready = [replica for replica in self.replicas if model in self._confirmed[replica]]
        if not ready and any(replica.breaker.state != "open" for replica in self.replicas):
            await self._recovered()
            ready = [replica for replica in self.replicas if model in self._confirmed[replica]]
        if not ready:
            raise EngineError(503, f"no server has {model}: {self._said(list(self.problems))}", self._reconcile_s)
        return ready

    def _failed(self, replica: Replica, model: str, failure: AttemptFailed) -> None:
        """A server that may have been restarted has forgotten its adapters: it gets none of their requests for now."""
        if failure.server_status == 404:
            self._confirmed[replica].discard(model)
        elif failure.unreachable:
            self._confirmed[replica].clear()

    async def _recovered(self) -> None:
        """One reconciliation for all requests that wait for it."""
        if self._recovery is None or self._recovery.done():
            self._recovery = asyncio.create_task(self.reconcile())
        await asyncio.shield(self._recovery)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self._reconcile_s)
            await self.reconcile()

    async def _base(self) -> str:
        """The base model's name, asked of the first server that answers."""
        problem = EngineError(503, "the engine has no servers")
        for replica in self.replicas if self.model is None else ():
            try:
                names = (await control.served(self._http, replica)).base
            except EngineError as error:
                problem = error
                continue
            if names:
                self.model = names[0]
                break
        if self.model is None:
            raise EngineError(503, f"no server tells the base model's name: {problem.message}")
        return self.model

    def _said(self, names: Sequence[str]) -> str:
        return "; ".join(self.problems[n] for n in names if self.problems.get(n)) or "it is being loaded"


def _assert_answered_by(answer: Body, adapter: str | None) -> None:
    """vLLM names the adapter that it answered with.

    Raises:
        EngineError: It is another one.
    """
    if adapter is not None and answer.get("model") != adapter:
        raise EngineError(502, f"{adapter} was asked and {str(answer.get('model'))[:64]} answered")
