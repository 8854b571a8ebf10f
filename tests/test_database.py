"""The database keeps its promises on SQLite and on a real PostgreSQL server alike."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect, text

from finetune_platform.announcements import Notification
from finetune_platform.audit import AuditEntry
from finetune_platform.database import HEAD, Artifact, Base, Database
from finetune_platform.database_engine import MIGRATIONS, VERSION_TABLE
from finetune_platform.drift.tables import DriftTick
from finetune_platform.errors import BadInput, StorageFailed, Unreachable
from finetune_platform.labeling.tables import ReviewBatchRow
from finetune_platform.manifests import Manifest
from finetune_platform.serving.tables import RouteChange


def record(database: Database, artifact_id: str, task: str = "t", asset: str = "curated_dataset") -> bool:
    manifest = Manifest(artifact_id=artifact_id, task=task, code_version="1", parents={"raw_examples": "raw-1"})
    return database.record_artifact(manifest, asset, f"/lake/{task}/{artifact_id}", "run-1")


def promote(database: Database, adapter_id: str, alias: str = "champion", task: str = "t") -> None:
    database.record_promotion(
        task=task,
        adapter_id=adapter_id,
        alias=alias,
        previous_adapter_id=database.current(task, alias),
        evaluation_id="ev-1",
        actor="team:ml-platform",
        reason="all gates passed",
        mlflow_version="1",
    )


def test_an_artifact_is_found_by_id_by_task_and_as_the_latest(database: Database) -> None:
    record(database, "ds-1")
    record(database, "ds-2")
    record(database, "raw-1", asset="raw_examples")
    record(database, "ds-9", task="other")
    found = database.artifact("ds-1")
    assert found is not None
    assert (found.task, found.asset, found.uri, found.parents, found.dagster_run_id) == (
        "t",
        "curated_dataset",
        "/lake/t/ds-1",
        {"raw_examples": "raw-1"},
        "run-1",
    )
    latest = database.latest_artifact("t", "curated_dataset")
    assert latest is not None and latest.artifact_id == "ds-2"
    assert [a.artifact_id for a in database.artifacts_of("t")] == ["ds-1", "ds-2", "raw-1"]
    assert database.artifact("ds-3") is None
    assert database.latest_artifact("t", "trained_adapter") is None


def test_recording_the_latest_again_writes_nothing_and_an_older_one_makes_it_the_latest(database: Database) -> None:
    assert record(database, "ds-1")
    assert not record(database, "ds-1")
    assert record(database, "ds-2")
    assert record(database, "ds-1")
    assert [a.artifact_id for a in database.artifacts_of("t")] == ["ds-1", "ds-2", "ds-1"]


def test_of_eight_recorders_at_the_same_time_one_writes(database: Database) -> None:
    with ThreadPoolExecutor(8) as pool:
        wrote = list(pool.map(lambda _: record(database, "ds-1"), range(8)))
    assert wrote.count(True) == 1
    assert len(database.artifacts_of("t")) == 1


def test_an_alias_belongs_to_whom_it_was_given_last(database: Database) -> None:
    assert database.current("t", "champion") is None
    promote(database, "ad-1")
    promote(database, "ad-2", alias="candidate")
    promote(database, "ad-2")
    promote(database, "ad-9", task="other")
    assert (database.current("t", "champion"), database.current("t", "candidate")) == ("ad-2", "ad-2")
    told = [(p.adapter_id, p.alias, p.previous_adapter_id) for p in database.promotions("t")]
    assert told == [("ad-1", "champion", None), ("ad-2", "candidate", None), ("ad-2", "champion", "ad-1")]
    with pytest.raises(ValueError, match="challenger"):
        promote(database, "ad-3", alias="challenger")


def test_moments_keep_their_zone(database: Database) -> None:
    record(database, "ds-1")
    (row,) = database.artifacts_of("t")
    assert row.created_at.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - row.created_at) < timedelta(minutes=1)


def test_a_session_that_fails_leaves_nothing(database: Database) -> None:
    def add(session_fails: bool) -> None:
        with database.session() as session:
            row = Artifact(artifact_id="ds-1", task="t", asset="raw_examples", uri="", parents={})
            session.add(row)
            session.flush()
            if session_fails:
                raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        add(session_fails=True)
    assert database.artifacts_of("t") == []
    add(session_fails=False)
    assert len(database.artifacts_of("t")) == 1


def test_what_was_recorded_is_there_after_a_restart(database: Database, database_url: str) -> None:
    record(database, "ds-1")
    again = Database(database_url)
    assert [a.artifact_id for a in again.artifacts_of("t")] == ["ds-1"]
    again.close()


FIRST_USE = """
import sys
from finetune_platform.database import Database
from finetune_platform.manifests import Manifest

_, url, name = sys.argv
sys.stdin.readline()
manifest = Manifest(artifact_id=f"ds-{name}", task="t", code_version="1")
Database(url).record_artifact(manifest, "curated_dataset", "x", None)
"""


def test_processes_that_use_a_new_database_first_at_the_same_time_all_succeed(database_url: str) -> None:
    command = [sys.executable, "-c", FIRST_USE, database_url]
    started = [subprocess.Popen([*command, str(n)], stdin=subprocess.PIPE, text=True) for n in range(3)]
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.close()
    assert [process.wait() for process in started] == [0, 0, 0]
    database = Database(database_url)
    assert sorted(a.artifact_id for a in database.artifacts_of("t")) == ["ds-0", "ds-1", "ds-2"]
    database.close()


def test_the_revisions_make_the_tables_that_the_models_describe(database: Database, database_url: str) -> None:
    database.upgrade()
    # Importing a module of tables adds them to the metadata.
    tables = {model.__tablename__ for model in (AuditEntry, RouteChange, DriftTick, Notification, ReviewBatchRow)}
    assert tables <= set(Base.metadata.tables)
    with create_engine(database_url).connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, Base.metadata) == []
        assert context.get_current_revision() == HEAD
    scripts = ScriptDirectory(str(MIGRATIONS))
    assert scripts.get_heads() == [HEAD]


def test_another_tool_with_revisions_of_its_own_may_share_the_database(database: Database, database_url: str) -> None:
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('theirs')"))
        connection.execute(text("CREATE TABLE experiments (id INTEGER)"))
    record(database, "ds-1")
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == "theirs"
        assert {"alembic_version", "experiments", VERSION_TABLE} <= set(inspect(connection).get_table_names())
    engine.dispose()


def test_a_schema_newer_than_this_version_is_left_alone(database: Database, database_url: str) -> None:
    record(database, "ds-1")
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    newer = Database(database_url)
    with pytest.raises(BadInput, match=r"newer than this version(?s:.*)mend: upgrade"):
        newer.artifacts_of("t")
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM artifacts")) == 1
    newer.close()
    engine.dispose()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://someone:hunter2@127.0.0.1:1/finetune",
        "postgresql+psycopg://someone@127.0.0.1:1/finetune?password=hunter2",
    ],
)
def test_a_server_that_is_away_is_told_without_the_password(url: str) -> None:
    with pytest.raises(Unreachable, match=r"someone.*127\.0\.0\.1:1(?s:.*)mend: .*DATABASE_URL") as told:
        Database(url).current("t", "champion")
    assert "hunter2" not in str(told.value)
    assert "hunter2" not in Database(url).address


def test_a_database_that_does_not_exist_is_told(postgres_url: str) -> None:
    with pytest.raises(Unreachable, match='database "nothing" does not exist'):
        Database(postgres_url.replace("/test_", "/nothing?was=").partition("?was=")[0] + _query(postgres_url)).upgrade()


def _query(url: str) -> str:
    return "?" + url.partition("?")[2]


def test_a_sqlite_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageFailed, match=rf"{tmp_path}/file: a file stands"):
        Database(f"sqlite:///{tmp_path}/file/finetune.db").upgrade()
    with pytest.raises(StorageFailed, match="unable to open"):
        Database(f"sqlite:///{tmp_path}").upgrade()


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "finetune.db").write_text("these are notes, not a database; " * 10)
    with pytest.raises(StorageFailed, match="not a database"):
        Database(f"sqlite:///{tmp_path}/finetune.db").upgrade()


@pytest.mark.parametrize("url", ["mysql://u:hunter2@host/x", "u:hunter2@host", ""])
def test_an_address_that_is_no_such_database_is_bad_input(url: str) -> None:
    with pytest.raises(BadInput) as told:
        Database(url)
    assert "hunter2" not in str(told.value)


def test_importing_it_loads_nothing_heavy() -> None:
    script = "import sys, finetune_platform.database; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"alembic", "psycopg", "torch", "pandas", "daft", "mlflow"} & set(loaded)
