"""The database of a store: where it is, how it is opened, its tables, and what its errors mean."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from secateur.core.addresses import argument_without_secrets, hidden_secrets, without_secrets
from secateur.core.errors import RequestError, SecateurError
from secateur.core.extras import check_installed
from secateur.core.files import ensure_folder
from secateur.core.progress import duration, task
from secateur.experiments.schema import Schema

R = TypeVar("R")

PATIENCE = 300.0
"""Seconds that a server may be away before a run gives up."""

OPENING = 3.0
"""Likewise when a store is opened, before any work."""

_OTHER_COLUMNS = ("no such column", "no column named", "of relation")
"""In what databases say of a column that they do not have."""

_READ_ONLY = ("readonly database", "read-only transaction", "permission denied for")
"""Likewise of one that cannot be written."""

META = "store"
"""Table that says what a store is."""

_TYPES: dict[type, Any] = {str: sa.Text, int: sa.BigInteger, float: sa.Double, bool: sa.Boolean, bytes: sa.LargeBinary}

_REFUSALS = (
    "does not exist",
    "authentication failed",
    "no password supplied",
    "pg_hba.conf",
    "permission denied",
    "invalid connection option",
)
"""In what a server says when it is there, and will say the same again."""

_LOCK = 5_702_291_137
"""Number under which writers of a PostgreSQL store take turns at its beginning."""


def store_url(location: str | Path) -> sa.URL:
    """The URL of a store: of a path, or as given.

    Raises:
        RequestError: for a kind of database that is not known, or a driver that is not installed.
    """
    text = str(location)
    if "://" not in text:
        return sa.URL.create("sqlite", database=text)
    try:
        url = sa.make_url(text)
    except (SQLAlchemyError, ValueError):  # which may hold a part of the password
        raise RequestError(
            f"'{argument_without_secrets(text)}' is no URL of a database; give postgresql://USER@HOST/NAME"
        ) from None
    kind = url.get_backend_name()
    if kind == "postgresql":
        check_installed("psycopg", "postgres", "a store on PostgreSQL")
        return url.set(drivername="postgresql+psycopg")
    if kind != "sqlite":
        raise RequestError(f"a store cannot be on {kind}; give a path (SQLite), or postgresql://USER@HOST/NAME")
    return url


def shown(url: sa.URL) -> str:
    """A URL without its passwords and the driver."""
    return without_secrets(url.set(drivername=url.get_backend_name()).render_as_string(hide_password=True))


def file_of(url: sa.URL) -> Path | None:
    """The file of a SQLite database; None: it is on a server, or in memory."""
    named = url.get_backend_name() == "sqlite" and url.database and url.database != ":memory:"
    return Path(str(url.database)) if named else None


def check_file(path: Path) -> None:
    """Refuse what is no store, before anything in it is touched.

    Raises:
        RequestError: for a folder, a file of another kind, or a database of something else.
    """
    if path.is_dir():
        raise RequestError(f"'{path}' is a folder where a store is to be; name a file in it")
    if not path.is_file() or not path.stat().st_size:
        return
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            there = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.OperationalError:
        return  # locked, or left by a kill: opening it for writing mends that, or says what is wrong
    except sqlite3.DatabaseError as error:
        raise RequestError(f"'{path}' is not a SQLite file ({error}); choose another store, or delete it") from error
    if there and META not in there:
        raise RequestError(f"'{path}' is a database, but no store of studies; choose another one")


def engine_of(url: sa.URL, reading: bool = False) -> sa.Engine:
    """What connects to a database.

    Args:
        url: see `store_url`.
        reading: nothing will be written; else, the folder of a file is made.
    """
    if url.get_backend_name() != "sqlite":
        return sa.create_engine(url, pool_pre_ping=True, pool_size=2, connect_args=_of_server(url))
    file = file_of(url)
    if file is not None:
        check_file(file)
    if file is not None and reading:
        engine = sa.create_engine(url, creator=lambda: _open_to_read(file))
    else:
        if file is not None:
            ensure_folder(file.parent)
        engine = sa.create_engine(url, connect_args={"timeout": 60})

    @event.listens_for(engine, "connect")
    def connected(connection: Any, record: object) -> None:
        connection.isolation_level = None  # transactions begin below, not when sqlite3 thinks so
        if not reading:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")

    @event.listens_for(engine, "begin")
    def begun(connection: sa.Connection) -> None:
        # a writer waits for others at its beginning; one that began as a reader could not wait any more
        reading = connection.get_execution_options().get("readonly", False)
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    return engine


def _of_server(url: sa.URL) -> dict[str, Any]:
    """How soon a connection to a server that does not answer is given up, unless the URL says so."""
    usual = {"connect_timeout": 10, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
    return {name: value for name, value in usual.items() if name not in url.query}


def _open_to_read(file: Path) -> sqlite3.Connection:
    """A SQLite file that perhaps cannot be written, nor its folder, where its log needs files of its own."""
    address = file.absolute().as_uri()
    connection = sqlite3.connect(f"{address}?mode=rw", uri=True, timeout=60, check_same_thread=False)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        connection.close()
        log = file.with_name(f"{file.name}-wal")
        if log.is_file() and log.stat().st_size:  # without it, the file is not all there is
            raise
        return sqlite3.connect(f"{address}?immutable=1", uri=True, timeout=60, check_same_thread=False)
    return connection


def take_turns(connection: sa.Connection) -> None:
    """Wait for other writers until this transaction ends; SQLite has them wait by itself."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))


def clock(connection: sa.Connection) -> float:
    """Seconds since the epoch by the clock of the database, which is one for all hosts."""
    if connection.dialect.name == "postgresql":
        text = "SELECT extract(epoch FROM clock_timestamp())"
    else:
        text = "SELECT (julianday('now') - 2440587.5) * 86400.0"
    return float(connection.execute(sa.text(text)).scalar_one())


def utc(seconds: float) -> str:
    """Seconds since the epoch as ISO 8601."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def check_written_by(store: str, found: Mapping[str, str], expected: Mapping[str, str]) -> int:
    """See that a store is what is expected, by what its table `META` says; its format, which may be an older one.

    Raises:
        RequestError: for a newer format, another study, or another version of it.
    """
    study, version, layout = (expected[key] for key in ("study", "study version", "format"))
    there = found.get("format", "")
    if not there.isdecimal() or not 1 <= int(there) <= int(layout):
        raise RequestError(
            f"'{store}' was written by a newer version (format {there or 'unknown'}, this secateur has {layout}); "
            "install that version, or choose another store"
        )
    if found.get("study") != study:
        raise RequestError(
            f"'{store}' holds the study '{found.get('study')}', not '{study}'; choose another --out or --store"
        )
    if found.get("study version") != version:
        raise RequestError(
            f"'{store}' was written by version {found.get('study version')} of the study '{study}', this is {version}; "
            "choose another store, or delete it to start anew"
        )
    return int(there)


def upsert(table: sa.Table, url: sa.URL, changed: Sequence[str]) -> Any:
    """A statement that inserts rows; where the key is there already, it changes some columns of that row."""
    module = sqlite if url.get_backend_name() == "sqlite" else postgresql
    statement = module.insert(table)
    return statement.on_conflict_do_update(
        index_elements=list(table.primary_key.columns), set_={name: statement.excluded[name] for name in changed}
    )


def reason_of(error: SQLAlchemyError) -> str:
    """What the database says, in one line."""
    return " ".join(str(getattr(error, "orig", None) or error).split())


def is_refused(error: SQLAlchemyError) -> bool:
    """Whether a server is there and turns the request down: a wrong name, user or password."""
    unopened = isinstance(error, OperationalError) and error.statement is None
    return unopened and any(text in reason_of(error).lower() for text in _REFUSALS)


def is_away(error: DBAPIError) -> bool:
    """Whether a server is stopping, starting, or not there, so that it may be back in a while."""
    if error.connection_invalidated:
        return True
    if not isinstance(error, OperationalError) or is_refused(error):
        return False
    return error.statement is None or "connection" in reason_of(error).lower()


class Database:
    """A database, with what to do when it is away.

    Args:
        url: see `store_url`.
        reading: nothing will be written.

    Attributes:
        held: says more of what is kept, after "what it holds is whole", where somebody knows.

    Raises:
        RequestError: for a file that is no store.
    """

    def __init__(self, url: sa.URL, reading: bool = False) -> None:
        self.url, self.file = url, file_of(url)
        self.held: Callable[[], str] = lambda: ""
        self._engine = engine_of(url, reading)

    def __str__(self) -> str:
        return str(self.file) if self.file else shown(self.url)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def write(self, work: Callable[[sa.Connection], R], patience: float | None = None) -> R:
        """Do something in one transaction; done twice, it must give the same, as it is when a server goes away.

        Args:
            work: what to do.
            patience: seconds that a server may be away; None: as long as a run waits, which then says so.

        Raises:
            SecateurError: when the database cannot be written.
            RequestError: when it is another one than was thought.
        """

        def once() -> R:
            with self._engine.begin() as connection:
                return work(connection)

        return self._retried(once, patience)

    def read(self, work: Callable[[sa.Connection], R], patience: float | None = None) -> R:
        """Likewise without writing."""

        def once() -> R:
            with self._engine.connect() as connection:
                return work(connection.execution_options(readonly=True))

        return self._retried(once, patience)

    def _retried(self, work: Callable[[], R], patience: float | None) -> R:
        """Do it; while a server is away, again, with ever longer pauses."""
        begin, pause, longest = time.monotonic(), 0.1, PATIENCE if patience is None else patience
        with contextlib.ExitStack() as waiting:
            while True:
                try:
                    return work()
                except SQLAlchemyError as error:
                    waited, away = time.monotonic() - begin, isinstance(error, DBAPIError) and self._is_away(error)
                    if not away or waited > longest:
                        raise self._error(error, waited if away else None) from self._cause(error)
                if pause == 0.1 and patience is None:
                    waiting.enter_context(task(f"'{self}' is away, waited for {duration(longest)} at most"))
                time.sleep(min(pause, max(0.01, longest - waited)))
                pause = min(10.0, 2 * pause)

    def _is_away(self, error: DBAPIError) -> bool:
        return self.url.get_backend_name() != "sqlite" and is_away(error)

    def _reason(self, error: SQLAlchemyError) -> str:
        """What the database says, in one line without secrets."""
        return hidden_secrets(reason_of(error), self.url.render_as_string(hide_password=False))

    def _cause(self, error: SQLAlchemyError) -> SQLAlchemyError | None:
        """The error itself for tracebacks, unless it holds a secret."""
        whole = str(error)
        return error if hidden_secrets(whole, self.url.render_as_string(hide_password=False)) == whole else None

    def _error(self, error: SQLAlchemyError, away: float | None) -> SecateurError:
        """What an error means; ``away``: seconds that the server was waited for."""
        reason, kept = self._reason(error), f"what it holds is whole{self.held()}"
        if is_refused(error):
            return RequestError(f"'{self}' cannot be opened ({reason}); check its URL")
        if "not a database" in reason:
            return RequestError(f"'{self}' is not a SQLite file ({reason}); choose another store, or delete it")
        if any(text in reason for text in _READ_ONLY):
            return RequestError(
                f"'{self}' can only be read here ({reason}); choose another store, or run where it can be written"
            )
        if any(text in reason for text in _OTHER_COLUMNS):
            return RequestError(f"'{self}' has other columns ({reason}); choose another store, or delete it")
        if away is not None:
            return SecateurError(
                f"'{self}' cannot be reached, and was waited for {duration(away)} ({reason}); {kept}: see that the "
                "database runs, and run the same command again"
            )
        return SecateurError(
            f"cannot read or write '{self}' ({reason}); {kept}: free space, or see that the database "
            "runs, and run the same command again"
        )


def fixed_tables(metadata: sa.MetaData) -> tuple[sa.Table, sa.Table, sa.Table, sa.Table]:
    """What the store is, its runs, cells, and artefacts."""
    meta = sa.Table(META, metadata, sa.Column("key", sa.Text, primary_key=True), sa.Column("value", sa.Text))
    runs = sa.Table(
        "runs",
        metadata,
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("started", sa.Text),
        sa.Column("host", sa.Text),
        sa.Column("command", sa.Text),
        sa.Column("settings", sa.Text),
    )
    cells = sa.Table(
        "cells",
        metadata,
        sa.Column("identity", sa.Text, primary_key=True),
        sa.Column("run", sa.Integer, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("stage", sa.Text, nullable=False),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("coordinates", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("started", sa.Text),
        sa.Column("finished", sa.Text),
        sa.Column("seconds", sa.Double),
        sa.Column("host", sa.Text),
        sa.Column("error", sa.Text),
        sa.Index("ix_cells_status", "run", "state", "stage", "finished"),
    )
    artefacts = sa.Table(
        "artefacts",
        metadata,
        sa.Column("cell", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
    )
    return meta, runs, cells, artefacts


def table_of(metadata: sa.MetaData, name: str, schema: Schema) -> sa.Table:
    """The table of a study's rows, each with its cell and number."""
    columns = [sa.Column(column.name, _TYPES[column.kind], nullable=column.optional) for column in schema.columns]
    return sa.Table(
        f"rows_{name}",
        metadata,
        sa.Column("_cell", sa.Text, primary_key=True),
        sa.Column("_number", sa.Integer, primary_key=True, autoincrement=False),
        *columns,
    )
