"""`finetune route …`: shows a task's route, changes it by hand, compares the sides of an A/B test."""

from typing import Any

from rich.text import Text

from finetune_platform.commands.adapters import fitting
from finetune_platform.commands.installation import find_task, open_database, open_lake
from finetune_platform.commands.operate import actor, as_rate, new_table
from finetune_platform.commands.terminal import console, print_json
from finetune_platform.database import Database
from finetune_platform.errors import BadInput
from finetune_platform.serving import rollouts, route_operations, routes
from finetune_platform.serving.arm_comparison import comparison_of
from finetune_platform.serving.keys import list_keys
from finetune_platform.serving.plan import Plan
from finetune_platform.serving.routes import Route
from finetune_platform.strict import nearest

MEASURE_WORDS = {
    "good_answers": "good answers",
    "errors": "errors",
    "latency": "slow answers",
    "valid_format": "wrong formats",
    "refusals": "refusals",
    "feedback": "bad ratings",
}


def show(name: str, as_json: bool) -> None:
    """Shows what serves a task."""
    task, database = find_task(name), open_database()
    route = _route(database, task.name)
    with database.reading() as session:
        row = rollouts.active(session, task.name)
    if as_json:
        rollout = None if row is None else row.rollout_id
        print_json({"task": task.name, "version": route.version, "rollout": rollout, "route": route.plan.model_dump()})
        return
    trial = "A/B test" if row is None else f"canary of {row.rollout_id} ({row.state})"
    _print_plan(task.name, route.plan, trial)


def start_ab(name: str, adapter: str, percent: float, reason: str) -> None:
    """Starts an A/B test, or changes the share of the one under way."""
    task, database = find_task(name), open_database()
    _fitting(database, task.name, adapter)
    route = route_operations.start_ab(database, task.name, adapter, percent, actor=actor(), reason=reason)
    _print_plan(task.name, route.plan)
    console().print(f"next: finetune route compare {task.name}", style="dim")


def start_shadow(name: str, adapter: str, percent: float, reason: str) -> None:
    """Lets an adapter answer copies of requests."""
    task, database = find_task(name), open_database()
    _fitting(database, task.name, adapter)
    route = route_operations.start_shadow(database, task.name, adapter, percent, actor=actor(), reason=reason)
    _print_plan(task.name, route.plan)
    console().print(f"next: finetune rollout status {task.name}", style="dim")


def change_tenant(name: str, tenant: str, adapter: str | None, remove: bool, reason: str) -> None:
    """Gives a tenant an adapter of its own, or takes it away."""
    if (adapter is None) != remove:
        raise BadInput(f"{tenant}: which adapter?", "name one, or give --remove")
    task, database = find_task(name), open_database()
    if adapter is None:
        route = route_operations.remove_tenant(database, task.name, tenant, actor=actor(), reason=reason)
    else:
        _fitting(database, task.name, adapter)
        route = route_operations.give_tenant(database, task.name, tenant, adapter, actor=actor(), reason=reason)
        _tell_unknown_tenant(database, tenant)
    _print_plan(task.name, route.plan)


def clear(name: str, reason: str) -> None:
    """Ends an A/B test and a shadow."""
    task = find_task(name)
    route = route_operations.clear(open_database(), task.name, actor=actor(), reason=reason)
    _print_plan(task.name, route.plan)


def show_comparison(name: str, as_json: bool) -> None:
    """Shows how the sides of an A/B test compare."""
    task = find_task(name)
    found = comparison_of(open_database(), task)
    if as_json:
        print_json(found)
        return
    out, window, (good, *_) = console(), found["window"], found["measures"]
    b, champion = window["adapter"], window["champion"] or "the base model"
    out.print(Text(f"{task.name}: ", "bold") + Text(_verdict_words(found["verdict"], good, b, champion)))
    until = f"until {window['until']}" if window["until"] else "until now"
    out.print(f"{b} answers {100 * window['share']:g}% of the sessions; since {window['since']}, {until}")
    table = new_table("", b, champion, "difference", f"{100 * (1 - found['alpha']):g}% sure, all rows at once")
    for measure in found["measures"]:
        table.add_row(*_measure_row(measure))
    for what in ("latency_p50_ms", "latency_p95_ms"):
        sides = (found["sides"][side][what] for side in ("b", "champion"))
        table.add_row(what.removesuffix("_ms").replace("_", " "), *(_ms(value) for value in sides), "", "")
    out.print(table)
    if found["slow_above_ms"] is not None:
        out.print(f"slow: above {found['slow_above_ms']:,.0f} ms, as nine in ten of the champion's before were not")


def _fitting(database: Database, task: str, adapter: str) -> None:
    fitting(database, open_lake(), task, adapter, _route(database, task).plan.champion)


def _route(database: Database, task: str) -> Route:
    with database.reading() as session:
        return routes.current(session, task)


def _tell_unknown_tenant(database: Database, tenant: str) -> None:
    known = sorted({key.tenant for key in list_keys(database)} - {""})
    if tenant not in known:
        console().print(Text(f"no key speaks for the tenant {tenant} yet{nearest(tenant, known)}", "yellow"))


def _print_plan(task: str, plan: Plan, trial: str = "A/B test") -> None:
    out = console()
    if plan.killed is not None:
        out.print(Text(f"{task} is killed: {plan.killed}; the base model answers everything", "red"))
    table = new_table(task, "adapter", "share")
    b = plan.canary_share if plan.canary is not None else 0.0
    table.add_row("champion", plan.champion or "the base model", f"{100 * (1 - b):g}% of the sessions")
    if plan.canary is not None:
        table.add_row(trial, plan.canary, f"{100 * b:g}% of the sessions")
    if plan.shadow is not None:
        table.add_row("shadow", plan.shadow, f"copies of {100 * plan.shadow_share:g}%")
    for tenant, adapter in sorted(plan.tenants.items()):
        table.add_row(f"tenant {tenant}", adapter, "all of its requests")
    if plan.previous_champion is not None:
        table.add_row("previous champion", plan.previous_champion, "where others fail")
    for adapter in plan.withdrawn:
        table.add_row("withdrawn", adapter, "nothing")
    out.print(table)


def _verdict_words(verdict: str, good: dict[str, Any], b: str, champion: str) -> str:
    if good["observed"] is None:
        return f"nothing to compare yet: {good['b_n']:,} requests to {b}, {good['champion_n']:,} to {champion}"
    between = f"between {_points(good['lower'])} and {_points(good['upper'])} points"
    seen = f"good answers {_points(good['observed'])} points"
    if verdict == "open":
        return f"no difference can be told between {b} and {champion}: {seen}, truly {between}"
    return f"{b} is {verdict} than {champion}: {seen}, truly {between}"


def _measure_row(measure: dict[str, Any]) -> tuple[str, ...]:
    rates = (as_rate(measure[side], measure[f"{side}_n"]) for side in ("b", "champion"))
    if measure["observed"] is None:
        return (MEASURE_WORDS[measure["name"]], *rates, "", "")
    bounds = f"{_points(measure['lower'])} to {_points(measure['upper'])}"
    return (MEASURE_WORDS[measure["name"]], *rates, _points(measure["observed"]), bounds)


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f}"


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f} ms"
