"""Simulated rollouts with known truth: how often is an equal canary rolled back, and how soon a worse one?

Traffic resembles a day's: volume and error rates swing together, for both arms alike. Printing and targets are in
`evidence.py`; the test suite runs a few dozen of these.
"""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from finetune_platform.serving.latency_bins import LATENCY_BINS_MS, latency_bin, slow_limit_ms
from finetune_platform.serving.rollout_evidence import ArmCounts
from finetune_platform.serving.rollout_operations import start
from finetune_platform.serving.rollout_progress import Progress, new_progress
from finetune_platform.serving.rollout_rules import advance
from finetune_platform.task_serving import Rollout

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

BEGIN = datetime(2024, 1, 1, tzinfo=UTC)
CHUNK = 48
"""Ticks that are drawn at once: the share stays the same within a step."""


@dataclass(frozen=True)
class Behaviour:
    """How an arm answers: shares in [0, 1].

    Attributes:
        errors: Requests that fail.
        invalid_format: Answers in another format.
        refusals: Answers that refuse.
        negative: Bad words among the words of users.
        latency_ms: Median latency of a lognormal distribution.
        spread: Its standard deviation on the logarithmic scale.
    """

    errors: float = 0.02
    invalid_format: float = 0.05
    refusals: float = 0.01
    negative: float = 0.2
    latency_ms: float = 800.0
    spread: float = 0.6


@dataclass(frozen=True)
class World:
    """Where requests come from, and who answers them.

    Attributes:
        champion: Its behaviour.
        canary: The canary's; None: the same as the champion's.
        per_minute: Requests a minute, on average.
        feedback: Share of requests on which a user says a word.
        swing: How far volume, bad rates and latency move around their mean over a day, for both arms alike: 0.5 is from
            half to one and a half.
        trend: Growth of the bad rates a day, for both arms alike: 0.1 is ten percent.
        session: Requests of one session within a tick; its answers are alike where `alike` is above 0.
        alike: Correlation of format errors within a session.
        worse_from_hour: When the canary begins to behave as `canary` says; before, as the champion.
        tick_minutes: Minutes that are counted together.
        rollout: The rules.
    """

    champion: Behaviour = field(default_factory=Behaviour)
    canary: Behaviour | None = None
    per_minute: float = 20.0
    feedback: float = 0.05
    swing: float = 0.5
    trend: float = 0.0
    session: int = 1
    alike: float = 0.0
    worse_from_hour: float = 0.0
    tick_minutes: float = 10.0
    rollout: Rollout = field(default_factory=Rollout)


class Outcome(NamedTuple):
    """How one rollout ended: state, percent of the step then, hours since the start, and what the canary answered."""

    state: str
    percent: int
    hours: float
    canary_n: int


class Rates(NamedTuple):
    """Shares of simulated rollouts, and medians over those rolled back (nan without any)."""

    rolled_back: float
    rolled_back_in_first_step: float
    promoted: float
    held: float
    hours_to_roll_back: float
    canary_n_to_roll_back: float
    hours_to_promote: float


def rates(world: World, simulations: int, seed: int = 0, workers: int = 1) -> Rates:
    """How many rollouts end in which state."""
    generators = np.random.default_rng(seed).spawn(simulations)
    if workers == 1:
        ended = [simulate(world, generator) for generator in generators]
    else:
        with ProcessPoolExecutor(workers) as pool:
            ended = list(pool.map(partial(simulate, world), generators, chunksize=10))
    back = [o for o in ended if o.state == "rolled_back"]
    first = world.rollout.steps[0]
    return Rates(
        len(back) / simulations,
        sum(o.percent <= first for o in back) / simulations,
        sum(o.state == "promoted" for o in ended) / simulations,
        sum(o.state == "held" for o in ended) / simulations,
        _median([o.hours for o in back]),
        _median([o.canary_n for o in back]),
        _median([o.hours for o in ended if o.state == "promoted"]),
    )


def simulate(world: World, generator: np.random.Generator) -> Outcome:
    """One rollout through the real state machine, until it ends or is held."""
    first_hour = generator.uniform(0, 24)
    limit = _limit(world, first_hour, generator)
    progress = start(new_progress(world.rollout, limit), world.rollout, BEGIN).progress
    now, tick = BEGIN, timedelta(minutes=world.tick_minutes)
    while True:
        place = progress.place
        for canary, champion in zip(*_ticks(world, progress, first_hour, now, generator), strict=True):
            now += tick
            progress = advance(progress, world.rollout, canary, champion, now).progress
            if progress.state != "running":
                percent = 0 if progress.shadow else progress.steps[progress.step]
                return Outcome(progress.state, percent, (now - BEGIN) / timedelta(hours=1), progress.canary.n)
            if progress.place != place:
                break


def _ticks(
    world: World, progress: Progress, first_hour: float, now: datetime, generator: np.random.Generator
) -> tuple[list[ArmCounts], list[ArmCounts]]:
    """Counts of the next ticks of both arms, as long as the step lasts."""
    elapsed = (now - BEGIN) / timedelta(hours=1) + np.arange(CHUNK) * world.tick_minutes / 60
    cycle = np.sin(2 * np.pi * (first_hour + elapsed) / 24)
    total = generator.poisson(world.per_minute * world.tick_minutes * (1 + world.swing * cycle))
    share = progress.percent / 100
    canary_n = generator.binomial(total, share)
    champion_n = total - canary_n
    if progress.shadow:
        canary_n = champion_n
    # Bad rates peak four hours after the volume does, so that neither cancels the other.
    factor = (1 + world.swing * np.sin(2 * np.pi * (first_hour + elapsed - 4) / 24)) * (1 + world.trend * elapsed / 24)
    champion = _arm(world, world.champion, champion_n, factor, cycle, progress.slow_limit_ms, generator)
    turned = int(np.searchsorted(elapsed, world.worse_from_hour)) if world.canary else CHUNK
    canary: list[ArmCounts] = []
    for arm, part in ((world.champion, slice(turned)), (world.canary or world.champion, slice(turned, None))):
        canary += _arm(world, arm, canary_n[part], factor[part], cycle[part], progress.slow_limit_ms, generator)
    return canary, champion


def _arm(
    world: World,
    arm: Behaviour,
    n: Ints,
    factor: Floats,
    cycle: Floats,
    limit_ms: float | None,
    generator: np.random.Generator,
) -> list[ArmCounts]:
    errors = generator.binomial(n, _moved(arm.errors, factor))
    answered = n - errors
    invalid = _clustered(answered, _moved(arm.invalid_format, factor), world, generator)
    refusal = _moved(arm.refusals, factor)
    refused_invalid = generator.binomial(invalid, refusal)
    refused_valid = generator.binomial(answered - invalid, refusal)
    words = generator.binomial(answered, world.feedback)
    slow = np.zeros_like(n)
    if limit_ms is not None:
        slow = generator.binomial(answered, _slower(arm, limit_ms, world.swing * cycle))
    columns = {
        "n": n,
        "good": answered - invalid - refused_valid,
        "errors": errors,
        "timed_n": answered,
        "slow": slow,
        "format_n": answered,
        "invalid_format": invalid,
        "refusals": refused_invalid + refused_valid,
        "feedback_n": words,
        "feedback_negative": generator.binomial(words, _moved(arm.negative, factor)),
    }
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [ArmCounts.model_construct(**dict(zip(columns, row, strict=True))) for row in rows]


def _clustered(n: Ints, rate: Floats, world: World, generator: np.random.Generator) -> Ints:
    """Bad outcomes of `n` requests; within a session they are alike (beta-binomial)."""
    if world.alike == 0 or world.session == 1:
        return generator.binomial(n, rate)
    sessions = -(-n // world.session)
    strength = 1 / world.alike - 1
    owner = np.repeat(np.arange(len(n)), sessions)
    own_rate = generator.beta(rate[owner] * strength, (1 - rate[owner]) * strength)
    size = np.full(len(owner), world.session)
    ends = np.cumsum(sessions) - 1
    size[ends[sessions > 0]] -= (sessions * world.session - n)[sessions > 0]
    return np.bincount(owner, generator.binomial(size, own_rate), minlength=len(n)).astype(np.int64)


def _limit(world: World, first_hour: float, generator: np.random.Generator) -> float | None:
    """The latency limit, from a thousand answers of the champion in the hours before."""
    cycle = world.swing * np.sin(2 * np.pi * (first_hour - generator.uniform(0, 6, 1000)) / 24)
    latencies = generator.lognormal(np.log(world.champion.latency_ms) + _load(cycle), world.champion.spread)
    bins = np.array([latency_bin(ms) for ms in latencies])
    return slow_limit_ms(np.bincount(bins, minlength=len(LATENCY_BINS_MS) + 1).tolist())


def _slower(arm: Behaviour, limit_ms: float, cycle: Floats) -> Floats:
    """Share of answers above the limit at each tick."""
    z = (np.log(limit_ms) - np.log(arm.latency_ms) - _load(cycle)) / arm.spread
    return np.interp(z, _Z, _ABOVE)


def _load(cycle: Floats) -> Floats:
    """What load adds to the logarithm of the latency."""
    return 0.5 * cycle


def _normal_tail() -> tuple[Floats, Floats]:
    z = np.linspace(-8, 8, 3201)
    return z, np.array([1 - NormalDist().cdf(x) for x in z])


_Z, _ABOVE = _normal_tail()


def _moved(rate: float, factor: Floats) -> Floats:
    return np.clip(rate * factor, 0.0, 1.0)


def _median(values: list[float] | list[int]) -> float:
    return float(np.median(values)) if values else float("nan")


def worse(world: World, **changed: float) -> World:
    """The world with a canary that behaves otherwise: `worse(world, invalid_format=0.15)`."""
    return replace(world, canary=replace(world.champion, **changed))


def equal_worlds(quick: bool = False) -> dict[str, World]:
    """Canaries that behave as the champion does, however the day goes."""
    usual = World(tick_minutes=60.0)
    worlds = {
        "20 requests a minute": usual,
        "200 requests a minute": replace(usual, per_minute=200.0),
        "2 requests a minute": replace(usual, per_minute=2.0),
        "rates that double and vanish each day and grow by a tenth": replace(usual, swing=0.9, trend=0.1),
        "looked at every minute, 12 hours at 5%": replace(
            usual, tick_minutes=1.0, rollout=Rollout(steps=[5, 100], hold_hours=12)
        ),
        "a word on 1% of requests": replace(usual, feedback=0.01),
        "shadow first": replace(usual, rollout=Rollout(shadow_hours=24)),
    }
    return dict(list(worlds.items())[:1]) if quick else worlds


def worse_worlds(quick: bool = False) -> dict[str, World]:
    """Canaries that must not reach the second step: enough traffic to see them at the first."""
    worlds = {}
    for per_minute in (20.0,) if quick else (2.0, 20.0, 200.0):
        world = World(per_minute=per_minute, tick_minutes=10.0)
        volume = f"{per_minute:g} requests a minute"
        worlds[f"10 points less valid format, {volume}"] = worse(world, invalid_format=0.15)
        worlds[f"latency doubled, {volume}"] = worse(world, latency_ms=1600.0)
        if per_minute > 2:
            worlds[f"10 points less positive feedback, {volume}"] = worse(world, negative=0.3)
    return worlds


def reported_worlds(quick: bool = False) -> dict[str, World]:
    """What has no target: canaries that turn bad late or can hardly be seen, requests that are not independent."""
    world = World(tick_minutes=30.0)
    late = Rollout(hold_hours=24)
    worlds = {
        "10 points less valid format from hour 60, at 50%": replace(
            worse(world, invalid_format=0.15), worse_from_hour=60.0, rollout=late
        ),
        "latency doubled from hour 80, at 100%": replace(
            worse(world, latency_ms=1600.0), worse_from_hour=80.0, rollout=late
        ),
        "10 points less positive feedback, a word on 1% of requests": replace(
            worse(world, negative=0.3), feedback=0.01
        ),
        "10 points less positive feedback, 2 requests a minute": replace(worse(world, negative=0.3), per_minute=2.0),
        "3 points less valid format": worse(world, invalid_format=0.08),
        "equal, sessions of 5 requests whose format is alike at 0.2": replace(world, session=5, alike=0.2),
    }
    return dict(list(worlds.items())[:1]) if quick else worlds
