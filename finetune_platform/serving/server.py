"""`finetune serve` without its command line: the gateway's parts made from an installation's settings, and uvicorn.

What the parts do stands in their own files.
"""

import gc
import logging
import secrets
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from finetune_platform.database import Database
from finetune_platform.errors import BadInput
from finetune_platform.inference.base_models import resolve_base_model
from finetune_platform.inference.chat import ChatEngine
from finetune_platform.inference.engines import build_engine
from finetune_platform.inference.passing_thread import in_passing_thread
from finetune_platform.lake import Lake
from finetune_platform.progress import Report
from finetune_platform.serving.answering import Answering
from finetune_platform.serving.app import build_app, in_front_of
from finetune_platform.serving.callers import Directory
from finetune_platform.serving.ensemble_file import find_ensembles
from finetune_platform.serving.ensembles import load_ensembles
from finetune_platform.serving.fleet import Fleet
from finetune_platform.serving.gateway import Gateway
from finetune_platform.serving.grounding import Grounding
from finetune_platform.serving.interaction_ids import InteractionIds, installation_secret
from finetune_platform.serving.interaction_log import InteractionLog
from finetune_platform.serving.interactions import Sampler
from finetune_platform.serving.limits import Limits
from finetune_platform.serving.messenger import Messenger
from finetune_platform.serving.metrics import Metrics
from finetune_platform.serving.noting import Noting
from finetune_platform.serving.rollout_clock import RolloutClock
from finetune_platform.serving.served_task import ServedTask
from finetune_platform.serving.shadow import Shadow
from finetune_platform.serving.site.site import Site
from finetune_platform.serving.tracing import tracing_to
from finetune_platform.serving.traffic import Traffic
from finetune_platform.serving.watch import RouteWatch
from finetune_platform.settings import Settings
from finetune_platform.task import Task
from finetune_platform.task_serving import EngineRef

SWITCH_INTERVAL_S = 0.0005
"""How long another thread may keep the interpreter while a request waits for it: a tenth of Python's own."""

log = logging.getLogger(__name__)


def build_gateway(
    place: Settings, tasks: Sequence[Task], report: Report, engines: Mapping[str, ChatEngine] | None = None
) -> Gateway:
    """A gateway that is not running yet.

    Args:
        place: Where everything is.
        tasks: What it serves.
        report: Told of base models being fetched.
        engines: Takes the place of the engines that task files name, by task; for tests and for other engines.

    Raises:
        BadInput: There is no task, or a base model cannot be had.
    """
    if not tasks:
        raise BadInput(f"{place.tasks_dir}: no task to serve", "`finetune init NAME` writes a task file")
    lake, database = Lake(place.lake_url), Database(place.database_url)
    name = f"{socket.gethostname()[:40]}-{secrets.token_hex(4)}"
    built = _Engines(place, lake, report)
    served = {
        task.name: ServedTask(task, engines[task.name], engines[task.name])
        if engines and task.name in engines
        else ServedTask(task, built.of(task, task.serving.engine), built.of(task, task.serving.base))
        for task in tasks
    }
    metrics = Metrics()
    traffic = Traffic(database, name)
    interactions = InteractionLog(place.finetune_home / "interactions", lake)
    ids = InteractionIds(installation_secret(database))
    watch = RouteWatch(database, place.finetune_home / "kills")
    noting = Noting(name, interactions, metrics, {t.name: Sampler(t.name, t.serving.log_share) for t in tasks})
    tracing = tracing_to(place.traces_endpoint, name)
    answering = Answering(watch.plan, ids, traffic, noting, tracing)
    fleet = Fleet(served, lake, place.cache_dir / "adapters", watch.stored_plan)
    ensembles = find_ensembles(place.tasks_dir, list(served))
    watch.listen(lambda changed: fleet.wake_soon())
    return Gateway(
        name=name,
        tasks=served,
        database=database,
        directory=Directory.of(place, database),
        limits=Limits(),
        watch=watch,
        fleet=fleet,
        grounding=Grounding(served, lake, database, place.cache_dir, metrics),
        answering=answering,
        shadow=Shadow(watch.plan, answering),
        ids=ids,
        traffic=traffic,
        log=interactions,
        noting=noting,
        metrics=metrics,
        rollout_clock=RolloutClock(tasks, database, Messenger(database, bool(place.notify_urls.get_secret_value()))),
        tracing=tracing,
        ensembles=in_passing_thread(lambda: load_ensembles(ensembles, lake, database)).result(),
    )


class _Engines:
    """Engines by what they run, so that tasks on one base model share one."""

    def __init__(self, place: Settings, lake: Lake, report: Report) -> None:
        self._place, self._lake, self._report = place, lake, report
        self._built: dict[tuple[str, Path | None], ChatEngine] = {}

    def of(self, task: Task, ref: EngineRef | None) -> ChatEngine:
        """The engine for a reference of a task; None means its engine for adapters."""
        ref = ref or task.serving.engine
        folder = self._base_model(task) if ref.kind == "in_process" else None
        if (key := (ref.model_dump_json(), folder)) not in self._built:
            self._built[key] = build_engine(ref, folder, self._place.upstream_api_keys, task.serving.timeout_s)
        return self._built[key]

    def _base_model(self, task: Task) -> Path:
        # It may have to be converted, which is computing.
        resolving = in_passing_thread(
            lambda: resolve_base_model(task.base_model, task.folder, self._lake, self._place.cache_dir, self._report)
        )
        return resolving.result().path


def serve(gateway: Gateway, host: str, port: int, sites: Sequence[Site] = ()) -> None:
    """Serves until it is told to stop; running requests are finished first."""
    import uvicorn

    from finetune_platform.serving.one_packet import OnePacketProtocol

    config = uvicorn.Config(
        in_front_of(build_app(gateway, sites)),
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        http=OnePacketProtocol,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=30,
        h11_max_incomplete_event_size=64 * 1024,
    )
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    # What is there now stays: to walk through it again and again would stop every request for a tenth of a second.
    gc.collect()
    gc.freeze()
    uvicorn.Server(config).run()
