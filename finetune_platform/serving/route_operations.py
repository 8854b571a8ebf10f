"""What a person changes about a task's route: an A/B test, a shadow, a tenant's own adapter.

Shares that evidence decides about are `rollouts.py`'s; whether an adapter exists and fits is for who asks to check.
Each change is a row of the routes and an audit entry, refused while a rollout holds the same place.
"""

from datetime import UTC, datetime

from sqlalchemy.orm import Session

from finetune_platform.database import Database
from finetune_platform.database_engine import serialize
from finetune_platform.errors import BadInput
from finetune_platform.identity import content_id
from finetune_platform.serving import rollouts, routes
from finetune_platform.serving.keys import TENANT
from finetune_platform.serving.plan import Plan
from finetune_platform.serving.routes import Edit, Route, edited

NO_TRIAL: dict[str, object] = {"canary": None, "canary_share": 0.0, "shadow": None, "shadow_share": 0.0}


def start_ab(database: Database, task: str, adapter_id: str, percent: float, *, actor: str, reason: str) -> Route:
    """Splits a task's sessions between the champion and another adapter, until a person ends it.

    Where the same adapter is being tested already only its share changes, and sessions move no more than they must.

    Args:
        adapter_id: Side B: an adapter of the task.
        percent: Its share of the sessions, in percent.
        actor: Who, as in `audit.record`.
        reason: Why.

    Raises:
        BadInput: A rollout is under way, the adapter is champion or withdrawn, or the share leaves one side nothing.
    """
    if not 0 < percent < 100:
        raise BadInput(f"--share {percent:g}: one side would get nothing", "give more than 0 and less than 100")
    began = datetime.now(UTC).isoformat()

    def edit(plan: Plan) -> Plan:
        _check_no_champion(plan, task, adapter_id)
        salt = plan.salt if plan.canary == adapter_id else content_id("ab", [task, adapter_id, began])
        return edited(plan, canary=adapter_id, canary_share=percent / 100, salt=salt)

    return _change(database, task, edit, actor, "route.ab", reason)


def start_shadow(database: Database, task: str, adapter_id: str, percent: float, *, actor: str, reason: str) -> Route:
    """Lets an adapter answer copies of a share of the requests, shown to nobody, until a person ends it.

    Args:
        adapter_id: An adapter of the task.
        percent: Share of the sessions whose requests are copied, in percent.
        actor: Who, as in `audit.record`.
        reason: Why.

    Raises:
        BadInput: A rollout is under way, the adapter is champion or withdrawn, or the share is none.
    """
    if not 0 < percent <= 100:
        raise BadInput(f"--share {percent:g}: is no share of the requests", "give more than 0, up to 100")

    def edit(plan: Plan) -> Plan:
        _check_no_champion(plan, task, adapter_id)
        return edited(plan, shadow=adapter_id, shadow_share=percent / 100)

    return _change(database, task, edit, actor, "route.shadow", reason)


def give_tenant(database: Database, task: str, tenant: str, adapter_id: str, *, actor: str, reason: str) -> Route:
    """Has an adapter answer everything of one tenant, and nobody else through it; also while a rollout is under way.

    Raises:
        BadInput: No key can speak for such a tenant, or the adapter is withdrawn.
    """
    if not TENANT.fullmatch(tenant):
        raise BadInput(f"tenant: {tenant[:64]!r}", "up to 64 letters, digits, dots, underscores and hyphens")

    def edit(plan: Plan) -> Plan:
        return edited(plan, tenants={**plan.tenants, tenant: adapter_id})

    return routes.change(database, task, edit, actor=actor, action="route.tenant", reason=reason)


def remove_tenant(database: Database, task: str, tenant: str, *, actor: str, reason: str) -> Route:
    """Has the task's own route answer a tenant again.

    Raises:
        BadInput: It has no adapter of its own.
    """

    def edit(plan: Plan) -> Plan:
        if tenant not in plan.tenants:
            known = ", ".join(sorted(plan.tenants)) or "none"
            raise BadInput(f"{tenant}: has no adapter of its own in {task}", f"tenants that have one: {known}")
        return edited(plan, tenants={name: own for name, own in plan.tenants.items() if name != tenant})

    return routes.change(database, task, edit, actor=actor, action="route.tenant", reason=reason)


def clear(database: Database, task: str, *, actor: str, reason: str) -> Route:
    """Ends an A/B test and a shadow: the champion answers all that no tenant's own adapter does.

    Raises:
        BadInput: A rollout is under way, or there is nothing to end.
    """

    def edit(plan: Plan) -> Plan:
        if plan.canary is None and plan.shadow is None:
            raise BadInput(f"{task}: neither an A/B test nor a shadow is under way", f"`finetune route show {task}`")
        return edited(plan, **NO_TRIAL)

    return _change(database, task, edit, actor, "route.clear", reason)


def _change(database: Database, task: str, edit: Edit, actor: str, action: str, reason: str) -> Route:
    with database.session() as session:
        # One lock for both: a rollout that starts in between would lose its canary to this change.
        serialize(session.connection())
        _check_no_rollout(session, task)
        return routes.change_in(session, task, edit, actor=actor, action=action, reason=reason)


def _check_no_rollout(session: Session, task: str) -> None:
    if (row := rollouts.active(session, task)) is not None:
        raise BadInput(
            f"{task}: the rollout {row.rollout_id} of {row.adapter_id} is {row.state}, and its steps set canary and "
            "shadow",
            f"wait for its end, or end it: `finetune rollout abort {task} --reason …`",
        )


def _check_no_champion(plan: Plan, task: str, adapter_id: str) -> None:
    if plan.champion == adapter_id:
        raise BadInput(f"{adapter_id}: is the champion of {task} and answers already", "name another adapter")
