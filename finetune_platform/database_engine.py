"""The way to a database: its URL, one engine for SQLite and PostgreSQL, its revision, and what its failures mean.

Tables and queries belong in `database.py`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionFree

from finetune_platform.errors import BadInput, FinetuneError, StorageFailed, Unreachable
from finetune_platform.storage_errors import disk_failures

VERSION_TABLE = "finetune_alembic_version"
"""Not Alembic's default name: MLflow keeps its own version there when both share a PostgreSQL database."""

MIGRATIONS = Path(__file__).parent / "migrations"
CONNECT_TIMEOUT_S = 5
LOCK_TIMEOUT_S = 30
NETWORK = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3, "tcp_user_timeout": 10_000}
"""libpq's options: a server that vanished without a word is noticed within ten seconds or so, not after a quarter of an
hour."""

READ_ONLY = "finetune_read_only"
"""Execution option of a connection that only reads: on SQLite it waits for no writer."""

ADVISORY_LOCK = 0x66696E6574756E65
"""Held on PostgreSQL by whoever changes the schema, or decides by what it reads whether to write."""


def parse_url(url: str) -> URL:
    """Checks a database URL.

    Raises:
        BadInput: Not a URL, or neither SQLite nor PostgreSQL.
    """
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (ArgumentError, NoSuchModuleError) as error:
        raise BadInput("DATABASE_URL is not a database's URL", "write sqlite:///FILE or postgresql://…") from error
    if backend not in ("sqlite", "postgresql"):
        raise BadInput(f"{address(parsed)}: {backend} is not supported", "use sqlite:///FILE or postgresql://…")
    return parsed


def address(url: URL) -> str:
    """The URL without its password."""
    return url.difference_update_query(["password"]).render_as_string(hide_password=True)


def make_engine(url: URL) -> Engine:
    """An engine whose transactions see one state and never fail for want of a retry; a SQLite file's folder is made.

    Raises:
        StorageFailed: The folder cannot be made.
    """
    if url.get_backend_name() == "postgresql":
        return create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": CONNECT_TIMEOUT_S} | NETWORK)
    folder = Path(url.database or "").absolute().parent
    with disk_failures(folder):
        folder.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": LOCK_TIMEOUT_S})
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def serialize(connection: Connection) -> None:
    """Until the transaction ends, nobody else who calls this goes on; on SQLite every transaction is alone anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})


def migrate(engine: Engine) -> None:
    """Brings the schema to the newest revision, all or nothing; of several processes one does, the others wait.

    Raises:
        BadInput: The database has a revision that this version does not know.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with engine.begin() as connection:
        serialize(connection)
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise BadInput(
                f"{address(engine.url)}: its schema is newer than this version ({error})",
                "upgrade finetune-platform to the version that other processes use",
            ) from error


@contextmanager
def database_failures(url: URL) -> Iterator[None]:
    """Turns what the driver says into errors that name the database and the mend."""
    try:
        yield
    except DatabaseError as error:
        # The bare class is SQLite's word for a damaged file; its other subclasses are bugs of the caller.
        if isinstance(error, OperationalError) or type(error) is DatabaseError:
            raise _failure(url, error) from error
        raise
    except InterfaceError as error:
        raise _failure(url, error) from error
    except NoConnectionFree as error:
        raise Unreachable(
            f"{address(url)}: all connections are in use and none came free",
            "see what keeps them: a slow query, a lock",
        ) from error


def _failure(url: URL, error: DBAPIError) -> FinetuneError:
    place, told = address(url), str(error.orig).strip().splitlines()[0]
    if "disk is full" in told or "No space left" in told:
        return StorageFailed(f"{place}: the disk is full", "free some space there and run the same command again")
    if "locked" in told:
        return Unreachable(
            f"{place}: locked by another process for {LOCK_TIMEOUT_S} s",
            "end the process that holds it, or use PostgreSQL for many writers",
        )
    if url.get_backend_name() == "sqlite":
        return StorageFailed(f"{place}: {told}", "check DATABASE_URL and this user's access to the file and its folder")
    return Unreachable(f"{place}: {told}", "check that the server runs, and user, password and host in DATABASE_URL")


def _set_up_sqlite(connection: Any, _: Any) -> None:
    # The driver's own transactions leave reads outside and commit before DDL: this module begins them instead.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that first reads and then writes fails at once where another wrote in between, whatever the
    # timeout; one that takes the write lock from the start waits its turn.
    reads = connection.get_execution_options().get(READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
