"""The gateway's parts in one place, started and stopped in order. Assembling them from settings is `server.py`'s."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request

from finetune_platform.database import Database
from finetune_platform.inference.chat import ChatEngine
from finetune_platform.serving.answering import Answering
from finetune_platform.serving.callers import Caller, Directory, Refused
from finetune_platform.serving.ensembles import ServedEnsemble
from finetune_platform.serving.fleet import Fleet
from finetune_platform.serving.grounding import Grounding
from finetune_platform.serving.interaction_ids import InteractionIds
from finetune_platform.serving.interaction_log import InteractionLog
from finetune_platform.serving.limits import Limits
from finetune_platform.serving.metrics import Metrics
from finetune_platform.serving.noting import Noting
from finetune_platform.serving.permissions import Permission
from finetune_platform.serving.requests import RequestRefused
from finetune_platform.serving.rollout_clock import RolloutClock
from finetune_platform.serving.served_task import ServedTask
from finetune_platform.serving.shadow import Shadow
from finetune_platform.serving.tracing import Tracing
from finetune_platform.serving.traffic import Traffic
from finetune_platform.serving.watch import RouteWatch


@dataclass
class Gateway:
    """Everything a request needs; `name` tells this process from other gateways of the installation."""

    name: str
    tasks: Mapping[str, ServedTask]
    database: Database
    directory: Directory
    limits: Limits
    watch: RouteWatch
    fleet: Fleet
    grounding: Grounding
    answering: Answering
    shadow: Shadow
    ids: InteractionIds
    traffic: Traffic
    log: InteractionLog
    noting: Noting
    metrics: Metrics
    rollout_clock: RolloutClock
    tracing: Tracing
    ensembles: Mapping[str, ServedEnsemble] = field(default_factory=dict)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Everything runs while the block does; at the end counts and interactions are told."""
        self.directory.start()
        self.watch.start()
        self.traffic.start()
        self.rollout_clock.start()
        await self.fleet.reconcile()
        await self.grounding.look()
        keeping = [asyncio.create_task(part.run()) for part in (self.fleet, self.grounding)]
        try:
            yield
        finally:
            for task in keeping:
                task.cancel()
            for task in keeping:
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            await self.shadow.close()
            for engine in self.engines():
                await engine.close()
            await asyncio.to_thread(self._stop_threads)

    def engines(self) -> list[ChatEngine]:
        """Every engine once."""
        found = {id(e): e for served in self.tasks.values() for e in (served.engine, served.base)}
        return list(found.values())

    def _stop_threads(self) -> None:
        self.rollout_clock.stop()
        self.watch.stop()
        self.directory.stop()
        self.traffic.stop()
        self.log.close()
        self.tracing.stop()

    def caller_of(self, request: Request, permission: Permission) -> Caller:
        """Who asks, if that person or program may.

        Raises:
            RequestRefused: No key, a wrong one, or one without this permission.
        """
        try:
            caller = self.directory.authenticate(request.headers.get("authorization"))
            caller.require(permission)
        except Refused as refused:
            raise RequestRefused(refused.status, refused.message, headers=refused.headers) from refused
        return caller

    def task_of(self, caller: Caller, name: str) -> ServedTask:
        """The task of that name, if the caller may know of it.

        Raises:
            RequestRefused: There is none, or it is none of the caller's business: the same answer for both.
        """
        served = self.tasks.get(name)
        if served is None or not caller.may_use(name):
            raise RequestRefused(404, f"the model {name[:64]!r} does not exist", "model_not_found", "model")
        return served

    def tasks_of(self, caller: Caller) -> list[ServedTask]:
        """The tasks that a caller may use, by name."""
        return [self.tasks[name] for name in sorted(self.tasks) if caller.may_use(name)]

    def models_of(self, caller: Caller) -> list[str]:
        """What a caller may name as a model: tasks, then ensembles all of whose tasks the caller may use."""
        ensembles = [name for name in sorted(self.ensembles) if self.ensembles[name].may_be_used_by(caller)]
        return [*(served.name for served in self.tasks_of(caller)), *ensembles]

    async def answering_task(self, caller: Caller, model: str, messages: Sequence[dict[str, Any]]) -> ServedTask:
        """The task that answers a conversation: the named one, or the one that the named ensemble chooses.

        Raises:
            RequestRefused: There is none, or it is none of the caller's business: the same answer for both.
        """
        ensemble = self.ensembles.get(model)
        if ensemble is None or not ensemble.may_be_used_by(caller):
            return self.task_of(caller, model)
        return self.tasks[(await ensemble.choose(messages)).task]


def gateway_of(request: Request) -> Gateway:
    """The gateway that serves a request."""
    gateway: Gateway = request.app.state.gateway
    return gateway
