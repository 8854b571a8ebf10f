"""A task's route: which adapter answers which share of its traffic, and the choice for one request.

Pure values: how a plan is stored and changed stands in `routes.py`, who decides about shares in `rollout*.py`.
"""

import hashlib
from typing import Literal, NamedTuple

from pydantic import Field, model_validator

from finetune_platform.manifests import Record

Arm = Literal["champion", "canary", "shadow", "base", "tenant", "fallback"]
"""`fallback` is whoever answers in another's place: such requests say nothing about an arm's own traffic."""

ARMS: tuple[Arm, ...] = ("champion", "canary", "shadow", "base", "tenant", "fallback")
BASE = "base"
"""Stands for the base model with the engineered prompt where an adapter's id would stand."""


class Plan(Record):
    """What serves a task.

    Attributes:
        champion: Adapter that answers what no other part of the plan takes; None: the base model does.
        previous_champion: First fallback.
        canary: Adapter that answers `canary_share` of the sessions (in [0, 1]): a rollout, or one side of an A/B test.
        salt: Part of the session's hash, so that each rollout draws other sessions.
        shadow: Adapter that also answers copies of `shadow_share` of the requests; nobody is shown its answers.
        tenants: Adapters of single tenants, which no other tenant can reach.
        withdrawn: Adapters that were rolled back: they answer nothing, whatever else the plan says.
        killed: Why all traffic goes to the fallback; None: it does not.
    """

    champion: str | None = None
    previous_champion: str | None = None
    canary: str | None = None
    canary_share: float = Field(default=0.0, ge=0, le=1)
    salt: str = ""
    shadow: str | None = None
    shadow_share: float = Field(default=0.0, ge=0, le=1)
    tenants: dict[str, str] = {}
    withdrawn: list[str] = []
    killed: str | None = None

    @model_validator(mode="after")
    def withdrawn_adapters_hold_no_place(self) -> "Plan":
        placed = {self.champion, self.canary, self.shadow, *self.tenants.values()} - {None}
        if standing := placed & set(self.withdrawn):
            raise ValueError(f"{sorted(standing, key=str)[0]} is withdrawn and cannot serve")
        return self

    @property
    def adapters(self) -> set[str]:
        """Every adapter that may be asked, the fallback included."""
        named = {self.champion, self.canary, self.shadow, self.previous_champion, *self.tenants.values()}
        return {adapter for adapter in named if adapter is not None} - set(self.withdrawn)

    def allows(self, adapter: str | None) -> bool:
        """Whether an answer of `adapter` (None: the base model) may still be shown."""
        return adapter is None or (self.killed is None and adapter not in self.withdrawn)


def without(plan: Plan, adapter: str) -> Plan:
    """The plan after an adapter was taken back: wherever it stood, who comes next stands there."""
    withdrawn = sorted({*plan.withdrawn, adapter})
    previous = None if plan.previous_champion in withdrawn else plan.previous_champion
    update: dict[str, object] = {"withdrawn": withdrawn, "previous_champion": previous}
    if plan.champion == adapter:
        update |= {"champion": previous, "previous_champion": None}
    if plan.canary == adapter:
        update |= {"canary": None, "canary_share": 0.0}
    if plan.shadow == adapter:
        update |= {"shadow": None, "shadow_share": 0.0}
    update["tenants"] = {tenant: own for tenant, own in plan.tenants.items() if own != adapter}
    return plan.model_copy(update=update)


def in_doubt(plan: Plan) -> Plan:
    """The plan where its changes cannot be heard: adapters on trial count as withdrawn, for they may be by now."""
    kept = {plan.champion, *plan.tenants.values()}
    trials = [adapter for adapter in (plan.canary, plan.shadow) if adapter is not None and adapter not in kept]
    return plan.model_copy(
        update={
            "canary": None,
            "canary_share": 0.0,
            "shadow": None,
            "shadow_share": 0.0,
            "withdrawn": [*plan.withdrawn, *trials],
        }
    )


class Choice(NamedTuple):
    """Who answers one request: `adapter` None is the base model."""

    arm: Arm
    adapter: str | None


def choose(plan: Plan, task: str, session: str, tenant: str = "") -> Choice:
    """Who answers a session's requests; the same session gets the same arm as long as shares only grow.

    Args:
        plan: The task's route.
        task: Its name.
        session: What sticks together: a session id, or the interaction's own id where the caller names none.
        tenant: The caller's tenant.
    """
    if plan.killed is not None:
        return Choice("base", None)
    if (own := plan.tenants.get(tenant)) is not None and tenant:
        return Choice("tenant", own)
    if plan.canary is not None and position(task, plan.salt, session) < plan.canary_share:
        return Choice("canary", plan.canary)
    if plan.champion is not None and plan.champion not in plan.withdrawn:
        return Choice("champion", plan.champion)
    return Choice("base", None)


def is_shadowed(plan: Plan, task: str, session: str, tenant: str = "") -> bool:
    """Whether a copy of the session's requests goes to the shadow adapter; not of tenants with an adapter of their own.

    The shadow is compared with the champion, which does not see their traffic either.
    """
    return (
        plan.killed is None
        and plan.shadow is not None
        and not (tenant and tenant in plan.tenants)
        and position(task, f"{plan.salt}/shadow", session) < plan.shadow_share
    )


def fallbacks(plan: Plan, choice: Choice, order: list[Literal["previous_champion", "base"]]) -> list[Choice]:
    """Who answers, in this order, where `choice` cannot: the champion for a canary, then the task's own order."""
    adapters: list[str | None] = []
    if choice.arm in ("canary", "tenant") and plan.champion is not None:
        adapters.append(plan.champion)
    for name in order:
        if name == "base":
            adapters.append(None)
        elif plan.previous_champion is not None:
            adapters.append(plan.previous_champion)
    others = [a for a in dict.fromkeys(adapters) if a != choice.adapter and plan.allows(a)]
    return [Choice("fallback", adapter) for adapter in others]


def session_key(tenant: str, named: str) -> str:
    """What a caller's session is called inside: sessions of different tenants never meet, whatever their names."""
    return f"{tenant}/{named}"


def position(task: str, salt: str, session: str) -> float:
    """Where a session stands in [0, 1): uniform, and the same everywhere."""
    digest = hashlib.sha256(f"{task}\0{salt}\0{session}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
