"""Rollouts over simulated hours: counts are written as gateways would write them under the plan in force."""

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta

from finetune_platform.database import Database
from finetune_platform.serving import rollouts, routes
from finetune_platform.serving.latency_bins import latency_bin
from finetune_platform.serving.plan import BASE, Arm, Plan
from finetune_platform.serving.rollouts import Memory, Tick
from finetune_platform.serving.tables import RolloutRow, TrafficCount
from finetune_platform.serving.traffic import Counts, bucket_of
from finetune_platform.task import Task

BEGIN = bucket_of(datetime.now(UTC) - timedelta(days=30))


@dataclass(frozen=True)
class Quality:
    """Shares of an adapter's answers."""

    errors: float = 0.005
    invalid: float = 0.02
    slow: float = 0.08
    usual_ms: float = 200.0


@dataclass
class Simulation:
    """One task's traffic: `hourly` requests an hour, told every ten minutes; ticks every half hour."""

    database: Database
    task: Task
    now: datetime = BEGIN
    hourly: int = 12_000
    qualities: dict[str, Quality] = field(default_factory=dict)

    def plan(self) -> Plan:
        with self.database.reading() as session:
            return routes.current(session, self.task.name).plan

    def row(self) -> RolloutRow:
        with self.database.reading() as session:
            row = rollouts.latest(session, self.task.name)
        assert row is not None
        return row

    def memory(self) -> Memory:
        return rollouts.memory_of(self.row())

    def serve(self, minutes: int = 30) -> None:
        """Traffic until `minutes` later, answered by whom the plan names."""
        plan = self.plan()
        answering: list[tuple[Arm, str, float]] = []
        if plan.canary is not None:
            answering.append(("canary", plan.canary, plan.canary_share))
        rest = 1 - (plan.canary_share if plan.canary else 0)
        answering.append(("champion", plan.champion, rest) if plan.champion else ("base", BASE, rest))
        if plan.shadow is not None:
            answering.append(("shadow", plan.shadow, plan.shadow_share))
        with self.database.session() as session:
            for middle in range(5, minutes, 10):
                moment = self.now + timedelta(minutes=middle)
                for arm, adapter, share in answering:
                    if share > 0:
                        session.add(self.counted(moment, arm, adapter, round(self.hourly / 6 * share)))
        self.now += timedelta(minutes=minutes)

    def tick(self) -> Tick | None:
        """A tick a little after now."""
        return rollouts.tick(self.database, self.task, self.now + timedelta(seconds=15))

    def run(self, hours: float, until: str = "") -> list[Tick]:
        """Serves and ticks, no longer than until the rollout is in that state."""
        changes = []
        for _ in range(round(2 * hours)):
            self.serve()
            ticked = self.tick()
            if ticked is not None and ticked.changed:
                changes.append(ticked)
            if ticked is None or self.row().state == until:
                break
        return changes

    def start(self, adapter: str) -> Tick:
        return rollouts.ensure_started(
            self.database, self.task, adapter, actor="test", reason="registered", now=self.now
        )

    def counted(self, moment: datetime, arm: Arm, adapter: str, n: int) -> TrafficCount:
        """What a gateway tells of `n` requests."""
        quality = self.qualities.get(adapter, Quality())
        errors, invalid = round(n * quality.errors), round(n * quality.invalid)
        answered = n - errors
        counts = Counts(n=n, good=answered - invalid, errors=errors, format_n=answered, invalid_format=invalid)
        slow = round(answered * quality.slow)
        counts.latency[latency_bin(quality.usual_ms)] = answered - slow
        counts.latency[latency_bin(8 * quality.usual_ms)] = slow
        bucket = bucket_of(moment)
        return TrafficCount(
            gateway="gw-1", task=self.task.name, adapter_id=adapter, arm=arm, bucket=bucket, counts=asdict(counts)
        )
