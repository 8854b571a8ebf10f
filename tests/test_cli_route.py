"""`finetune route …` as an operator types it: adapters that may answer, changes that are written down, a comparison."""

import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from typer.testing import CliRunner

from finetune_platform import audit
from finetune_platform.cli import app
from finetune_platform.commands.installation import open_database, open_lake
from finetune_platform.manifests import AdapterManifest
from finetune_platform.serving import routes
from finetune_platform.serving.routes import edited
from finetune_platform.serving.tables import RouteChange, TrafficCount
from finetune_platform.serving.traffic import Counts, bucket_of
from finetune_platform.settings import Settings

TASK = "ticket_topics"
WHY = ("--reason", "to see which is better")
runner = CliRunner()


def call(*arguments: str, expect: int = 0) -> str:
    result = runner.invoke(app, ["route", *arguments])
    assert result.exit_code == expect, result.output + repr(result.exception)
    return " ".join(result.output.split())


def call_json(*arguments: str) -> Any:
    result = runner.invoke(app, ["route", *arguments, "--json"])
    assert result.exit_code == 0, result.output + repr(result.exception)
    return json.loads(result.stdout)


def register(adapter_id: str, task: str = TASK, base_model: str = "tiny") -> None:
    manifest = AdapterManifest(
        artifact_id=adapter_id,
        task=task,
        code_version="1",
        files={},
        base_model=base_model,
        base_model_revision="r1",
        system_prompt="Name the topic.",
        chat_template_sha256="c",
        summary={},
        mlflow_model="m",
        golden=[],
    )
    open_lake().put(f"{manifest.path}/manifest.json", manifest.to_bytes())
    open_database().record_artifact(manifest, "registered_adapter", "here", None)


@pytest.fixture(autouse=True)
def installation(settings_env: Settings, task_file: Any) -> Settings:
    """Three adapters of `ticket_topics`, ad-1 its champion, and one each of another task and another base model."""
    task_file()
    for adapter in ("ad-1", "ad-2", "ad-3"):
        register(adapter)
    register("ad-other", task="other_task")
    register("ad-large", base_model="large")
    database = open_database()
    routes.change(
        database, TASK, lambda plan: edited(plan, champion="ad-1"), actor="t", action="route.edit", reason="first"
    )
    return settings_env


def test_an_ab_test_from_start_to_end() -> None:
    told = call("ab", TASK, "ad-2", "--share", "30", *WHY)
    assert "A/B test ad-2 30% of the sessions" in told and "champion ad-1 70%" in told
    assert f"finetune route compare {TASK}" in told
    assert call_json("show", TASK)["route"]["canary"] == "ad-2"
    assert "nothing to compare yet" in call("compare", TASK)
    told = call("clear", TASK, "--reason", "enough seen")
    assert "ad-2" not in told and "champion ad-1 100% of the sessions" in told
    told = [(e.action, e.reason) for e in audit.entries(open_database(), TASK)][1:]
    assert told == [("route.ab", "to see which is better"), ("route.clear", "enough seen")]


def test_a_shadow_and_a_tenant() -> None:
    assert "copies of 20%" in call("shadow", TASK, "ad-2", "--share", "20", *WHY)
    told = call("tenant", TASK, "acme", "ad-3", *WHY)
    assert "tenant acme ad-3 all of its requests" in told and "no key speaks for the tenant acme yet" in told
    runner.invoke(app, ["key", "create", "shop", "--task", TASK, "--tenant", "acme"])
    assert "no key speaks" not in call("tenant", TASK, "acme", "ad-2", *WHY)
    assert 'did you mean "acme"' in call("tenant", TASK, "acne", "ad-2", *WHY)
    assert "tenant acne" not in call("tenant", TASK, "acne", "--remove", *WHY)
    assert call_json("show", TASK)["route"]["tenants"] == {"acme": "ad-2"}
    assert "which adapter?" in call("tenant", TASK, "acme", *WHY, expect=2)
    assert "which adapter?" in call("tenant", TASK, "acme", "ad-2", "--remove", *WHY, expect=2)


@pytest.mark.parametrize(
    ("adapter", "told"),
    [
        ("ad-4", "no artifact has this id; did you mean ad-"),
        ("ad-other", "is no registered adapter of ticket_topics"),
        ("ad-large", "its base model is large@r1, that of the champion ad-1 is tiny@r1"),
        ("ad-1", "is the champion of ticket_topics"),
    ],
)
def test_an_adapter_that_cannot_answer_is_refused_with_the_mend(adapter: str, told: str) -> None:
    for command in (["ab", TASK, adapter], ["shadow", TASK, adapter]):
        assert told in call(*command, *WHY, expect=2)
    assert call_json("show", TASK)["version"] == 1


def test_a_withdrawn_adapter_is_refused() -> None:
    routes.change(
        open_database(), TASK, lambda plan: edited(plan, withdrawn=["ad-2"]), actor="t", action="t.t", reason="bad"
    )
    for command in (["ab", TASK, "ad-2"], ["shadow", TASK, "ad-2"], ["tenant", TASK, "acme", "ad-2"]):
        assert "ad-2 is withdrawn and cannot serve" in call(*command, *WHY, expect=2)
    assert "withdrawn ad-2 nothing" in call("show", TASK)


def test_a_rollout_keeps_its_place() -> None:
    started = runner.invoke(app, ["rollout", "start", TASK, "ad-2", "--reason", "new"])
    assert started.exit_code == 0, started.output
    told = call("ab", TASK, "ad-3", *WHY, expect=2)
    assert "the rollout ro-" in told and f"finetune rollout abort {TASK}" in told
    assert "canary of ro-" in call("show", TASK) and call_json("show", TASK)["rollout"].startswith("ro-")


def test_every_change_needs_a_reason() -> None:
    for command in (["ab", TASK, "ad-2"], ["shadow", TASK, "ad-2"], ["tenant", TASK, "a", "ad-2"], ["clear", TASK]):
        assert "--reason" in call(*command, expect=2)


def test_the_comparison_opens_with_its_verdict() -> None:
    call("ab", TASK, "ad-2", *WHY)
    database, now = open_database(), datetime.now(UTC)
    with database.session() as session:
        newest = session.get(RouteChange, 2)
        assert newest is not None
        newest.created_at = now - timedelta(hours=1)
        for adapter, arm, good in (("ad-2", "canary", 990), ("ad-1", "champion", 700)):
            bucket = bucket_of(now - timedelta(minutes=30))
            counts = asdict(Counts(n=1000, good=good, errors=1000 - good))
            session.add(TrafficCount(gateway="g", task=TASK, adapter_id=adapter, arm=arm, bucket=bucket, counts=counts))
    told = call("compare", TASK)
    assert told.startswith(f"{TASK}: ad-2 is better than ad-1: good answers +29.0 points, truly between +2")
    assert "99.0% of 1,000 70.0% of 1,000 +29.0" in told and "95% sure" in told
    found = call_json("compare", TASK)
    assert found["verdict"] == "better" and found["measures"][1]["name"] == "errors"


def test_the_group_has_help() -> None:
    for command in ("show", "ab", "shadow", "tenant", "clear", "compare"):
        assert command in call("--help") and "Usage" in call(command, "--help")
