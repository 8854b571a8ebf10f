"""What the environment says, and what follows where it says nothing."""

from pathlib import Path

import pytest

from finetune_platform.errors import BadInput
from finetune_platform.settings import Settings, settings


@pytest.fixture(autouse=True)
def clean(settings_env: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment that says nothing, in an empty working folder."""
    for name in ("FINETUNE_HOME", "LAKE_URL", "DATABASE_URL", "TASKS_DIR"):
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    settings.cache_clear()


def test_everything_has_an_absolute_place_below_the_working_folder(tmp_path: Path) -> None:
    home = tmp_path / ".finetune"
    found = settings()
    assert found.finetune_home == home
    assert found.lake_url == str(home / "lake")
    assert found.database_url == f"sqlite:///{home / 'finetune.db'}"
    assert found.mlflow_tracking_uri == f"sqlite:///{home / 'mlflow.db'}"
    assert (found.dagster_home, found.cache_dir) == (home / "dagster", home / "cache")
    assert found.tasks_dir == Path("tasks")
    assert found.lake_is_local


def test_a_home_moves_what_follows_from_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FINETUNE_HOME", "state")
    monkeypatch.setenv("FINETUNE_CACHE_DIR", "/var/cache/finetune")
    found = settings()
    assert found.lake_url == str(tmp_path / "state" / "lake")
    assert found.cache_dir == Path("/var/cache/finetune")


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_postgresql_is_spoken_by_the_installed_driver_and_shared_with_mlflow(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"{scheme}://u:p@host/db")
    found = settings()
    assert found.database_url == "postgresql+psycopg://u:p@host/db"
    assert found.mlflow_tracking_uri == "postgresql+psycopg://u:p@host/db"


@pytest.mark.parametrize(
    ("given", "local"),
    [("s3://bucket/x", False), ("gs://bucket", False), ("file:///srv/lake", True), ("/srv/lake", True)],
)
def test_a_lake_may_be_anywhere(given: str, local: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKE_URL", given)
    assert (settings().lake_url, settings().lake_is_local) == (given, local)


def test_a_relative_lake_means_the_same_place_in_every_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LAKE_URL", "data/lake")
    assert settings().lake_url == str(tmp_path / "data" / "lake")


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LAKE_URL", "")
    monkeypatch.setenv("FINETUNE_HOME", "")
    assert settings().lake_url == str(tmp_path / ".finetune" / "lake")


def test_the_environment_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    before = settings()
    monkeypatch.setenv("LAKE_URL", "s3://bucket/x")
    assert settings() is before
    settings.cache_clear()
    assert settings().lake_url == "s3://bucket/x"


def test_a_value_that_cannot_be_is_told_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAUNCHER", "moon")
    with pytest.raises(BadInput, match=r"LAUNCHER: .*'moon'(?s:.*)mend: correct or unset LAUNCHER"):
        settings()


def test_people_sign_in_by_a_provider_only_where_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings()
    assert (found.oidc_issuer, found.oidc_audience, found.oidc_roles_claim) == ("", "", "roles")
    monkeypatch.setenv("OIDC_ISSUER", "https://id.example/realms/a")
    monkeypatch.setenv("OIDC_AUDIENCE", "finetune")
    monkeypatch.setenv("OIDC_ROLES_CLAIM", "realm_access.roles")
    settings.cache_clear()
    found = settings()
    assert found.oidc_issuer == "https://id.example/realms/a"
    assert (found.oidc_audience, found.oidc_roles_claim) == ("finetune", "realm_access.roles")


@pytest.mark.parametrize(
    "issuer", ["http://id.example", "id.example", "https://", "ftp://127.0.0.1", "http://127.0.0.1.example"]
)
def test_a_provider_whose_keys_anybody_could_replace_is_refused(issuer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OIDC_ISSUER", issuer)
    monkeypatch.setenv("OIDC_AUDIENCE", "finetune")
    with pytest.raises(BadInput, match="OIDC_ISSUER"):
        settings()


@pytest.mark.parametrize("issuer", ["http://127.0.0.1:8080/a", "http://localhost", "http://[::1]:80/a"])
def test_a_provider_on_this_machine_needs_no_tls(issuer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OIDC_ISSUER", issuer)
    monkeypatch.setenv("OIDC_AUDIENCE", "finetune")
    assert settings().oidc_issuer == issuer


def test_a_provider_needs_an_audience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OIDC_ISSUER", "https://id.example")
    with pytest.raises(BadInput, match=r"OIDC_AUDIENCE: .*needed with OIDC_ISSUER"):
        settings()


def test_traces_go_where_the_standard_variables_say(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings().traces_endpoint == ""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/")
    settings.cache_clear()
    assert settings().traces_endpoint == "http://collector:4318/v1/traces"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://traces.example/otlp")
    settings.cache_clear()
    assert settings().traces_endpoint == "https://traces.example/otlp"


def test_public_addresses_begin_links(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_URL", "https://dagster.example/")
    monkeypatch.setenv("GATEWAY_URL", "https://models.example/v")
    assert (settings().dagster_url, settings().gateway_url) == ("https://dagster.example", "https://models.example/v")
    monkeypatch.setenv("DAGSTER_URL", "dagster.example")
    settings.cache_clear()
    with pytest.raises(BadInput, match=r"DAGSTER_URL: .*https://"):
        settings()


def test_who_is_told_is_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_URLS", "slack://hunter2/b/c")
    assert settings().notify_urls.get_secret_value() == "slack://hunter2/b/c"
    assert "hunter2" not in repr(settings())


@pytest.mark.parametrize("endpoint", ["collector:4317", "/v1/traces", "http://"])
def test_a_collector_needs_a_whole_address(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    with pytest.raises(BadInput, match=r"OTEL_EXPORTER_OTLP_ENDPOINT: .*http://collector:4318"):
        settings()
