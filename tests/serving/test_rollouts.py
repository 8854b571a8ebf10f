"""Whole rollouts over stored traffic: promoted, taken back, held, resumed, whatever dies in between."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from simulated_traffic import Quality, Simulation
from sqlalchemy import event, text
from sqlalchemy.engine import make_url

from finetune_platform import audit
from finetune_platform.database import Database
from finetune_platform.errors import BadInput
from finetune_platform.notifications.outbox import newest
from finetune_platform.serving import rollouts, routes
from finetune_platform.serving.plan import Plan, choose
from finetune_platform.serving.routes import edited
from finetune_platform.serving.traffic import bucket_of
from finetune_platform.task import Task
from finetune_platform.task_serving import Rollout

BAD = Quality(invalid=0.15)
SLOW = Quality(usual_ms=400.0, slow=0.5)


@pytest.fixture
def task(topics: Task) -> Task:
    return topics.model_copy(update={"rollout": Rollout(hold_hours=2, timeout_hours=48)})


@pytest.fixture
def simulation(database: Database, task: Task) -> Simulation:
    """A task whose champion has served for two hours."""
    simulated = Simulation(database, task)
    place(simulated, champion="ad-1")
    simulated.serve(120)
    return simulated


@pytest.fixture
def local(tmp_path: Path, task: Task) -> Simulation:
    """The same in a SQLite file, for what does not depend on the database."""
    simulated = Simulation(Database(f"sqlite:///{tmp_path / 'local.db'}"), task)
    place(simulated, champion="ad-1")
    simulated.serve(120)
    return simulated


def place(simulated: Simulation, **changes: Any) -> None:
    routes.change(
        simulated.database,
        simulated.task.name,
        lambda plan: edited(plan, **changes),
        actor="test",
        action="route.edit",
        reason="test",
    )


def actions(simulated: Simulation) -> list[str]:
    return [e.action for e in audit.entries(simulated.database) if e.action.startswith("rollout.")]


def announced(simulated: Simulation) -> list[tuple[str, str]]:
    """Kind and first words of what people hear of, oldest first."""
    return [(row.kind, row.what.partition(":")[0]) for row in reversed(newest(simulated.database, "topics", 99))]


def rollout_of(simulated: Simulation, **changes: Any) -> None:
    rules = simulated.task.rollout.model_copy(update=changes)
    simulated.task = simulated.task.model_copy(update={"rollout": rules})


def test_a_good_canary_earns_its_steps_and_becomes_champion(simulation: Simulation) -> None:
    started = simulation.start("ad-2")
    assert started.changed and simulation.plan().canary_share == 0.05
    changes = simulation.run(40, until="promoted")
    assert [tick.decision.action for tick in changes] == ["promote_step"] * 3 + ["finish"]
    shares = [s.share for s in routes.history(simulation.database, "topics") if s.arm == "canary"]
    assert shares == [0.05, 0.25, 0.5, 1.0]
    assert simulation.plan() == Plan(champion="ad-2", previous_champion="ad-1", salt=started.rollout_id)
    (promoted,) = simulation.database.promotions("topics")
    assert (promoted.adapter_id, promoted.alias, promoted.actor) == ("ad-2", "champion", "rollout")
    assert "promoted to champion" in promoted.reason
    assert simulation.memory().progress.slow_limit_ms is not None
    assert actions(simulation) == ["rollout.start", *["rollout.promote_step"] * 3, "rollout.finish"]
    assert audit.verify(simulation.database).broken == []
    assert announced(simulation) == [("promotion", "ad-2 was promoted to champion")]
    assert simulation.tick() is None


@pytest.mark.parametrize("quality", [BAD, SLOW, Quality(errors=0.1)])
def test_a_bad_canary_is_taken_back_and_never_chosen_again(simulation: Simulation, quality: Quality) -> None:
    simulation.qualities["ad-2"] = quality
    simulation.start("ad-2")
    changes = simulation.run(12, until="rolled_back")
    assert [tick.decision.action for tick in changes] == ["roll_back"]
    assert "rolled back at 5%" in simulation.row().message
    plan = simulation.plan()
    assert plan.withdrawn == ["ad-2"] and "ad-2" not in plan.adapters and not plan.allows("ad-2")
    assert {choose(plan, "topics", str(n)).adapter for n in range(1000)} == {"ad-1"}
    assert simulation.database.promotions("topics") == []
    assert announced(simulation) == [("rollback", "ad-2 was rolled back at 5%")]
    # Its asset may be materialized again: the verdict stands. A person may let it in again.
    again = simulation.start("ad-2")
    assert not again.changed and again.decision.progress.state == "rolled_back"
    rollouts.start(simulation.database, simulation.task, "ad-2", actor="cli:ann", reason="retrained data was at fault")
    assert simulation.plan().canary == "ad-2" and simulation.plan().withdrawn == []


def test_an_adapter_taken_back_leaves_every_place_it_has(local: Simulation) -> None:
    place(local, previous_champion="ad-2", tenants={"acme": "ad-2", "else": "ad-7"})
    local.qualities["ad-2"] = BAD
    local.start("ad-2")
    local.run(12, until="rolled_back")
    assert local.plan() == Plan(
        champion="ad-1", tenants={"else": "ad-7"}, withdrawn=["ad-2"], salt=local.row().rollout_id
    )


def test_a_rollout_without_enough_evidence_is_held_at_its_time_out_and_goes_on_by_hand(local: Simulation) -> None:
    rollout_of(local, timeout_hours=12.0)
    local.hourly = 60
    local.start("ad-2")
    changes = local.run(20, until="held")
    assert [tick.decision.action for tick in changes] == ["hold"]
    assert "no decision within 12.0 h" in local.row().message
    assert local.plan().canary_share == 0.05
    assert local.now - local.row().created_at >= timedelta(hours=12)
    # Guardrails go on watching.
    local.hourly, local.qualities["ad-2"] = 12_000, BAD
    assert [tick.decision.action for tick in local.run(12, until="rolled_back")] == ["roll_back"]
    told = [("hold", "the rollout of ad-2 is held at 5%"), ("rollback", "ad-2 was rolled back at 5%")]
    assert announced(local) == told


def test_a_step_lasts_its_hours_under_its_own_share_also_where_nobody_ticked_for_days(local: Simulation) -> None:
    local.start("ad-2")
    local.serve(72 * 60)
    ticked = [local.tick() for _ in range(5)]
    assert [t.decision.action for t in ticked if t is not None] == ["promote_step"] + ["stay"] * 4
    progress = local.memory().progress
    assert (progress.percent, progress.step_canary.n) == (25, 0)
    assert progress.step_started_at is not None and progress.step_started_at > local.now
    assert progress.canary.n == progress.champion.n * 5 // 95 > 0


def test_what_was_served_before_a_change_of_share_is_not_counted_to_the_next_step(local: Simulation) -> None:
    local.start("ad-2")
    while local.memory().progress.percent == 5:
        local.serve()
        # Still open when the tick comes.
        with local.database.session() as session:
            session.add(local.counted(local.now, "canary", "ad-2", 100))
        ticked = rollouts.tick(local.database, local.task, local.now + timedelta(seconds=5))
        assert ticked is not None
    local.serve()
    local.tick()
    progress = local.memory().progress
    assert progress.percent == 25 and progress.step_canary.n == 3 * local.hourly // 6 * 25 // 100


def test_a_bad_spell_in_a_backlog_takes_the_canary_back(local: Simulation) -> None:
    local.start("ad-2")
    local.serve(240)
    local.qualities["ad-2"] = Quality(invalid=0.4)
    local.serve(240)
    del local.qualities["ad-2"]
    local.serve(240)
    ticked = local.tick()
    assert ticked is not None and ticked.decision.action == "roll_back"


def test_a_restart_from_the_stored_state_before_any_tick_comes_to_the_same_end(
    local: Simulation, tmp_path: Path
) -> None:
    rollout_of(local, hold_hours=0.5)
    local.start("ad-2")
    restarts = 0
    while local.row().state == "running":
        local.serve()
        copied = tmp_path / "copy.db"
        local.database.close()
        shutil.copy(str(make_url(local.database.address).database), copied)
        again = Simulation(Database(f"sqlite:///{copied}"), local.task, local.now)
        # Killed at the very end of the transaction.
        event.listen(again.database._engine, "commit", _die)
        with pytest.raises(InterruptedError):
            again.tick()
        event.remove(again.database._engine, "commit", _die)
        local.tick()
        again.tick()
        assert (again.row().progress, again.row().state, again.plan()) == (
            local.row().progress,
            local.row().state,
            local.plan(),
        )
        again.database.close()
        copied.unlink()
        restarts += 1
    assert local.row().state == "promoted" and restarts > 4


def _die(*args: Any, **kwargs: Any) -> None:
    raise InterruptedError


def test_a_tick_that_dies_between_its_writes_leaves_nothing(
    simulation: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulation.qualities["ad-2"] = BAD
    simulation.start("ad-2")
    simulation.serve(600)
    before = simulation.row().progress, simulation.plan(), actions(simulation)
    with monkeypatch.context() as patched:
        patched.setattr(routes, "change_in", _die)
        with pytest.raises(InterruptedError):
            simulation.tick()
    assert (simulation.row().progress, simulation.plan(), actions(simulation)) == before
    ticked = simulation.tick()
    assert ticked is not None and ticked.decision.action == "roll_back"


def test_processes_that_tick_at_the_same_time_count_everything_once(simulation: Simulation, database_url: str) -> None:
    simulation.start("ad-2")
    others = [Database(database_url) for _ in range(4)]
    for _ in range(3):
        simulation.serve()
        now = simulation.now + timedelta(seconds=15)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda one: rollouts.tick(one, simulation.task, now), others))  # noqa: B023
    assert simulation.memory().progress.canary.n == 9 * 100
    for one in others:
        one.close()


def test_processes_that_start_a_rollout_at_the_same_time_start_one(simulation: Simulation, database_url: str) -> None:
    others = [Database(database_url) for _ in range(4)]

    def start(database: Database) -> bool:
        return rollouts.ensure_started(database, simulation.task, "ad-2", actor="test", reason="registered").changed

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(start, others)) == [False, False, False, True]
    assert actions(simulation) == ["rollout.start"]
    for one in others:
        one.close()


def test_starting_again_changes_nothing_while_it_runs_or_after_its_end(local: Simulation) -> None:
    first = local.start("ad-2")
    local.serve()
    second = local.start("ad-2")
    assert (second.rollout_id, second.changed) == (first.rollout_id, False)
    local.run(40, until="promoted")
    third = local.start("ad-2")
    assert (third.rollout_id, third.changed, local.plan().champion) == (first.rollout_id, False, "ad-2")


def test_a_newer_adapter_takes_the_place_of_the_one_under_way(local: Simulation) -> None:
    first = local.start("ad-2")
    local.serve()
    second = local.start("ad-3")
    assert (local.plan().canary, local.plan().canary_share, local.plan().salt) == ("ad-3", 0.05, second.rollout_id)
    assert actions(local) == ["rollout.start", "rollout.abort", "rollout.start"]
    with local.database.reading() as session:
        old = session.get(type(local.row()), first.rollout_id)
    assert old is not None and old.state == "aborted" and "ad-3 is newer" in old.message
    # Aborted is no verdict: it may be tried again.
    assert local.plan().withdrawn == [] and local.start("ad-2").changed


def test_the_first_adapter_is_compared_with_the_base_model(database: Database, task: Task) -> None:
    simulated = Simulation(database, task)
    simulated.serve(120)
    simulated.start("ad-1")
    assert simulated.row().champion_id is None
    simulated.run(40, until="promoted")
    assert simulated.plan().champion == "ad-1" and simulated.plan().previous_champion is None
    assert simulated.memory().progress.champion.n > 0
    assert [p.previous_adapter_id for p in database.promotions("topics")] == [None]


def test_a_shadow_answers_copies_first_and_is_taken_back_there_if_it_is_bad(local: Simulation) -> None:
    rollout_of(local, shadow_hours=1.0)
    local.start("ad-2")
    assert (local.plan().shadow, local.plan().shadow_share, local.plan().canary) == ("ad-2", 1.0, None)
    changes = local.run(2)
    assert changes[0].decision.message.startswith("from shadow to 5%")
    assert (local.plan().shadow, local.plan().canary, local.plan().canary_share) == (None, "ad-2", 0.05)
    local.qualities["ad-3"] = BAD
    local.start("ad-3")
    local.run(12, until="rolled_back")
    assert "rolled back at shadow" in local.row().message
    assert local.plan().withdrawn == ["ad-3"] and local.plan().shadow is None


@pytest.fixture
def present(local: Simulation) -> Simulation:
    """A rollout that started a moment ago, for operations by hand, which happen now."""
    local.now = bucket_of(datetime.now(UTC))
    local.start("ad-2")
    return local


def by_hand(simulated: Simulation, operation: Any, reason: str = "asked to") -> Any:
    return rollouts.by_hand(simulated.database, simulated.task, operation, actor="cli:ann", reason=reason)


def test_a_person_steps_holds_resumes_and_each_is_in_the_audit_log(present: Simulation) -> None:
    assert by_hand(present, "step").changed and present.plan().canary_share == 0.25
    assert by_hand(present, "hold").changed and present.row().state == "held"
    assert present.plan().canary_share == 0.25
    assert by_hand(present, "resume").changed and present.row().state == "running"
    for share in (0.5, 1.0):
        by_hand(present, "step")
        assert present.plan().canary_share == share
    by_hand(present, "step", "enough")
    assert present.plan().champion == "ad-2" and present.row().state == "promoted"
    assert "by hand: enough" in present.database.promotions("topics")[0].reason
    assert actions(present) == [
        "rollout.start",
        *(f"rollout.{verb}" for verb in ("step", "hold", "resume", "step", "step", "step")),
    ]
    assert {e.actor for e in audit.entries(present.database) if e.action == "rollout.step"} == {"cli:ann"}
    with pytest.raises(BadInput, match="no rollout is under way"):
        by_hand(present, "abort")


@pytest.mark.parametrize(
    ("operation", "state", "withdrawn"), [("abort", "aborted", []), ("rollback", "rolled_back", ["ad-2"])]
)
def test_a_person_ends_a_rollout(present: Simulation, operation: str, state: str, withdrawn: list[str]) -> None:
    by_hand(present, operation, "looks odd")
    assert present.row().state == state and "looks odd" in present.row().message
    assert (present.plan().canary, present.plan().champion, present.plan().withdrawn) == (None, "ad-1", withdrawn)
    assert present.tick() is None


def test_what_is_not_possible_is_refused_and_changes_nothing(present: Simulation) -> None:
    before = present.row().progress, present.plan(), actions(present)
    with pytest.raises(BadInput, match="cannot resume, it is running"):
        by_hand(present, "resume")
    with pytest.raises(BadInput, match=r"its rollout .* is running"):
        rollouts.start(present.database, present.task, "ad-2", actor="a", reason="b")
    for begin in (rollouts.start, rollouts.ensure_started):
        with pytest.raises(BadInput, match="ad-1: is the champion of topics"):
            begin(present.database, present.task, "ad-1", actor="a", reason="b")
    assert (present.row().progress, present.plan(), actions(present)) == before


def test_a_champion_is_taken_back_for_the_one_before_and_then_for_the_base_model(present: Simulation) -> None:
    for _ in range(4):
        by_hand(present, "step")
    assert rollouts.demote(present.database, "topics", actor="cli:ann", reason="wrong") == "ad-1"
    assert present.plan() == Plan(champion="ad-1", withdrawn=["ad-2"], salt=present.plan().salt)
    assert present.database.current("topics", "champion") == "ad-1"
    assert rollouts.demote(present.database, "topics", actor="cli:ann", reason="wrong") is None
    told = announced(present)[-2:]
    assert [kind for kind, _ in told] == ["rollback"] * 2 and "by hand" in told[0][1]
    assert (present.plan().champion, present.plan().withdrawn) == (None, ["ad-1", "ad-2"])
    with pytest.raises(BadInput, match="no adapter is champion"):
        rollouts.demote(present.database, "topics", actor="cli:ann", reason="wrong")


def test_a_rollout_ends_when_the_champion_that_it_was_compared_with_is_gone(local: Simulation) -> None:
    local.start("ad-2")
    local.run(1)
    rollouts.demote(local.database, "topics", actor="cli:ann", reason="wrong")
    ticked = local.tick()
    assert ticked is not None and ticked.decision.action == "abort"
    assert "the base model has taken the place of ad-1" in local.row().message
    assert local.plan().canary is None and local.plan().withdrawn == ["ad-1"]
    assert local.start("ad-2").changed and local.row().champion_id is None


def test_without_traffic_before_what_is_slow_is_picked_from_answers_that_are_not_compared(
    tmp_path: Path, task: Task
) -> None:
    simulated = Simulation(Database(f"sqlite:///{tmp_path / 'new.db'}"), task)
    place(simulated, champion="ad-1")
    simulated.start("ad-2")
    assert simulated.memory().progress.slow_limit_ms is None
    simulated.run(0.5)
    progress = simulated.memory().progress
    assert progress.slow_limit_ms is None and progress.canary.timed_n == 0 < progress.canary.n
    simulated.run(0.5)
    progress = simulated.memory().progress
    assert progress.slow_limit_ms is not None and 0 < progress.canary.timed_n < progress.canary.n


def test_a_few_answers_do_not_say_what_is_slow(tmp_path: Path, task: Task) -> None:
    simulated = Simulation(Database(f"sqlite:///{tmp_path / 'quiet.db'}"), task, hourly=12)
    place(simulated, champion="ad-1")
    simulated.serve(120)
    simulated.start("ad-2")
    simulated.run(1)
    assert simulated.memory().progress.slow_limit_ms is None


def test_a_state_of_a_newer_version_is_left_as_it_is(local: Simulation) -> None:
    local.start("ad-2")
    with local.database.session() as session:
        session.execute(text("UPDATE rollouts SET progress = '{\"pace\": 1}'"))
    before = local.plan(), actions(local)
    with pytest.raises(BadInput, match="its state cannot be read by this version"):
        local.tick()
    assert (local.plan(), actions(local)) == before
