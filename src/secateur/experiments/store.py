"""Finished cells in a database: SQLite in a file, or PostgreSQL by URL."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa

from secateur.core.addresses import HIDDEN, hidden_secrets, settings_without_secrets, without_secrets
from secateur.core.errors import RequestError, SecateurError
from secateur.core.garbage import collection_paused
from secateur.experiments.artefacts import Folder, KeptFile, KeptFiles, Place, check_name, place_at
from secateur.experiments.cells import Cell
from secateur.experiments.database import (
    OPENING,
    Database,
    check_written_by,
    clock,
    file_of,
    fixed_tables,
    store_url,
    table_of,
    take_turns,
    upsert,
    utc,
)
from secateur.experiments.leases import Leases
from secateur.experiments.migrations import FORMAT, migrate
from secateur.experiments.queries import last_run, read_finished, read_paces, read_status, read_times
from secateur.experiments.schema import Schema
from secateur.experiments.status import FAILED, FINISHED, WAITING, Failure, Pace, Status, Working
from secateur.experiments.study import Result

if TYPE_CHECKING:
    import pandas as pd

R = TypeVar("R")

_FILES = "files"
"""Key of the place of files, where one was named."""


def stored_coordinates(cell: Cell) -> str:
    """Coordinates of a cell as a store has them."""
    return json.dumps(settings_without_secrets(cell.coordinates))


def _label(cell: Cell) -> str:
    """A cell as text."""
    text = str(cell)
    if "//" in text:
        for value in cell.coordinates.values():
            text = hidden_secrets(text, value) if isinstance(value, str) else without_secrets(text)
    return text


class Store:
    """The cells of one study and what they gave; as a context, it is closed at the end.

    Each finished cell is one transaction: after a kill, it is there as a whole or not at all. What was written stays,
    also when a later run asks for other cells.

    Args:
        location: path of a SQLite file, or a URL, ``postgresql+psycopg://user@host/name``.
        study: name of the study.
        version: of the study.
        tables: schemas by name.
        files: folder of artefacts, or an address that fsspec knows (``s3://bucket/folder``); it is kept for later
            runs, without its password. None: the one that was named last, else beside a SQLite file (``cells.files`` of
            ``cells.sqlite``), where they move along with it; for a server, ``NAME.files`` in the working folder, by the
            database's name. A server's artefacts are known by their whole paths: processes on other machines need a
            folder or an address that all of them share.
        reading: nothing is written, and an older store stays as it is; else it is migrated to this version's format.

    Attributes:
        format: of the store.

    Raises:
        RequestError: for a file that is no store, another study's store, one of another version, an unknown kind of
            database, or files that cannot be written.
        SecateurError: for a database that cannot be reached.
    """

    def __init__(
        self,
        location: str | Path,
        study: str,
        version: int,
        tables: Mapping[str, Schema],
        files: str | Path | None = None,
        *,
        reading: bool = False,
    ) -> None:
        self.study, self.version, self.schemas = study, version, dict(tables)
        self.url = store_url(location)
        self.file = file_of(self.url)
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._given = None if files is None else place_at(files)
        if self._given is not None and not reading:
            self._given.check()
        self._database = Database(self.url, reading)
        self._database.held = self._held
        self._total, self._unfinished = 0, set[str]()
        self._started: tuple[int, dict[str, int]] | None = None  # number of the run here, positions of its cells
        self._metadata = sa.MetaData()
        self._meta, self._runs, self._cells, self._artefacts = fixed_tables(self._metadata)
        self.leases = Leases(self._database, self._metadata, self._cells)
        self._rows = {name: table_of(self._metadata, name, schema) for name, schema in self.schemas.items()}
        try:
            begin = self._database.read if reading else self._database.write
            self.format, kept = begin(self._read if reading else self._begin, OPENING)
            if kept and self._given is None and not reading:  # who reads finds the place of each file
                self._given = self._named_before(kept)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._database.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    def __str__(self) -> str:
        return str(self._database)

    def start(
        self, cells: Sequence[tuple[str, Cell]], settings: Mapping[str, Any], command: str = "", host: str = ""
    ) -> set[str]:
        """Note what a run wants; the identities of cells that are not finished.

        Args:
            cells: with their identities, in the order of the table.
            settings: of the study, kept so that the run can be repeated.
            command: that started it.
            host: where.
        """
        wanted = {identity: position for position, (identity, _) in enumerate(cells)}

        def write(connection: sa.Connection) -> tuple[int, set[str]]:
            take_turns(connection)
            last = connection.execute(sa.select(sa.func.max(self._runs.c.number))).scalar() or 0
            number = last + 1
            connection.execute(
                self._runs.insert().values(
                    number=number,
                    started=utc(clock(connection)),
                    host=host or platform.node(),
                    command=without_secrets(command),
                    settings=json.dumps(settings_without_secrets(settings)),
                )
            )
            known = self._carried_over(connection, wanted, last, number)
            new = [
                {
                    "identity": identity,
                    "run": number,
                    "position": position,
                    "stage": cell.stage,
                    "label": _label(cell),
                    "coordinates": stored_coordinates(cell),
                    "state": WAITING,
                }
                for position, (identity, cell) in enumerate(cells)
                if identity not in known
            ]
            if new:
                connection.execute(upsert(self._cells, self.url, ("run", "position")), new)
            unfinished = sa.select(self._cells.c.identity).where(
                self._cells.c.run == number, self._cells.c.state != FINISHED
            )
            return number, {identity for (identity,) in connection.execute(unfinished)}

        with collection_paused():
            number, unfinished = self._database.write(write)
        self._started, self._total, self._unfinished = (number, wanted), len(wanted), set(unfinished)
        return unfinished

    def _carried_over(self, connection: sa.Connection, wanted: Mapping[str, int], last: int, number: int) -> set[str]:
        """Cells of the last run that this one has at the same places: all in one statement, since runs are repeated."""
        table = self._cells
        before = connection.execute(sa.select(table.c.identity, table.c.position).where(table.c.run == last)).all()
        known = {identity for identity, position in before if wanted.get(identity) == position}
        if not known:
            return known
        connection.execute(table.update().where(table.c.run == last).values(run=number))
        others = [{"name": identity} for identity, _ in before if identity not in known]
        if others:  # only of the last run, or at another place
            statement = table.update().where(table.c.identity == sa.bindparam("name")).values(run=last)
            connection.execute(statement, others)
        return known

    def finish(self, identity: str, result: Result, started: float, seconds: float, host: str = "") -> None:
        """Keep a cell's result: rows, artefacts and state in one transaction.

        Args:
            identity: of the cell.
            result: what the work gave.
            started: seconds since the epoch.
            seconds: that the work took.
            host: where it was done.

        Raises:
            SecateurError: for rows that do not fit their schema, or when the database cannot be written.
        """
        rows = {name: [self.schemas[name].check(row) for row in each] for name, each in result.rows.items()}
        kept = [self._keep(identity, name, data) for name, data in result.artefacts.items()]

        def write(connection: sa.Connection) -> None:
            known = self._locked_state(connection, identity)
            for name, table in self._rows.items():
                connection.execute(table.delete().where(table.c._cell == identity))
                numbered = [
                    row | {"_cell": identity, "_number": number} for number, row in enumerate(rows.get(name, ()))
                ]
                if numbered:
                    connection.execute(table.insert(), numbered)
            connection.execute(self._artefacts.delete().where(self._artefacts.c.cell == identity))
            if kept:
                connection.execute(self._artefacts.insert(), kept)
            self._set(connection, identity, known, FINISHED, "", started, seconds, host)

        self._database.write(write)
        self._unfinished.discard(identity)

    def discard(self, identities: Collection[str]) -> None:
        """Let finished cells wait again: their rows stay until they are replaced, and are in no table meanwhile."""
        if not identities:
            return
        cells, some = self._cells, sorted(identities)

        def write(connection: sa.Connection) -> None:
            take_turns(connection)
            statement = cells.update().where(cells.c.identity == sa.bindparam("name")).values(state=WAITING)
            connection.execute(statement, [{"name": identity} for identity in some])

        self._database.write(write)
        self._unfinished.update(some)

    def fail(self, identity: str, error: str, started: float, seconds: float, host: str = "") -> None:
        """Keep why a cell failed, in one line; one that another run has finished meanwhile stays finished."""
        line = " ".join(without_secrets(error).replace("\x00", " ").encode(errors="replace").decode().split())

        def write(connection: sa.Connection) -> None:
            known = self._locked_state(connection, identity)
            self._set(connection, identity, known, FAILED, line, started, seconds, host)

        self._database.write(write)

    def results(self, identities: Iterable[str]) -> dict[str, Result]:
        """Rows and files of the finished ones among some cells, by identity; files are read when they are asked for."""
        wanted = list(identities)

        def read(connection: sa.Connection) -> dict[str, Result]:
            found = {}
            for identity in wanted:
                query = sa.select(self._cells.c.state).where(self._cells.c.identity == identity)
                if connection.execute(query).scalar() == FINISHED:
                    rows = {name: self._rows_of(connection, identity, name) for name in self._rows}
                    found[identity] = Result(rows, self._files_of(connection, identity))
            return found

        return self._database.read(read)

    def _rows_of(self, connection: sa.Connection, identity: str, name: str) -> list[dict[str, Any]]:
        table = self._rows[name]
        columns = [table.c[column] for column in self.schemas[name].names]
        query = sa.select(*columns).where(table.c._cell == identity).order_by(table.c._number)
        return [dict(row._mapping) for row in connection.execute(query)]

    def frames(self) -> dict[str, pd.DataFrame]:
        """The tables of the run that this process started, else of the last one: rows of its finished cells."""

        def read(connection: sa.Connection) -> dict[str, pd.DataFrame]:
            frames = {}
            for name, table in self._rows.items():
                columns = [table.c[column] for column in self.schemas[name].names]
                query = (
                    sa.select(self._cells.c.identity, *columns)
                    .join(self._cells, self._cells.c.identity == table.c._cell)
                    .where(self._cells.c.state == FINISHED)
                    .order_by(self._cells.c.position, table.c._number)
                )
                frames[name] = self.schemas[name].frame(self._of_run(connection, query))
            return frames

        return self._database.read(read)

    def _of_run(self, connection: sa.Connection, query: sa.Select[Any]) -> list[tuple[Any, ...]]:
        """Rows of the cells of the run that this process started, else of the last one, in their order.

        A cell is noted with the last run that asked for it. When another has begun since, the positions that are known
        here say which cells are this run's.

        Args:
            connection: to the database.
            query: gives the identity of the cell, and then the row, in the order of cells.
        """
        last = connection.execute(sa.select(last_run(self._runs))).scalar()
        if self._started is not None and last != self._started[0]:
            positions = self._started[1]
            rows = [row for row in connection.execute(query) if row[0] in positions]
            rows.sort(key=lambda row: positions[row[0]])  # stable: rows of a cell keep their order
        else:
            rows = list(connection.execute(query.where(self._cells.c.run == last)))
        return [tuple(row)[1:] for row in rows]

    def artefact(self, identity: str, name: str) -> bytes:
        """A file that a cell gave.

        Raises:
            SecateurError: when it is missing, or not what was written.
        """

        def read(connection: sa.Connection) -> Any:
            table = self._artefacts
            query = sa.select(table.c.path, table.c.sha256).where(table.c.cell == identity, table.c.name == name)
            return connection.execute(query).first()

        row = self._database.read(read)
        if row is None:
            raise SecateurError(f"'{self}' has no file '{name}' of cell {identity[:12]}; run it again")
        return self._kept(identity, row.path, row.sha256).read()

    def _files_of(self, connection: sa.Connection, identity: str) -> KeptFiles:
        table = self._artefacts
        query = sa.select(table.c.name, table.c.path, table.c.sha256).where(table.c.cell == identity)
        return KeptFiles({row.name: self._kept(identity, row.path, row.sha256) for row in connection.execute(query)})

    def status(self) -> Status:
        """How far the last run is."""
        return self._database.read(self._status)

    def kept(self) -> str:
        """What an interruption leaves, in one line; a server that is away is not waited for."""
        done, whole = self._total - len(self._unfinished), self._total
        with contextlib.suppress(SecateurError):
            counted = self._database.read(self._status, 0.0)
            done, whole = counted.total(FINISHED), sum(map(counted.total, (FINISHED, WAITING, FAILED)))
        return f"{done} of {whole} cells are finished and kept in '{self}'; the same request goes on from there"

    def _held(self) -> str:
        """Likewise as far as this process knows, for errors of the database."""
        return f", {self._total - len(self._unfinished)} of {self._total} cells are finished" if self._total else ""

    def working(self) -> list[Working]:
        """Who works on which cells, and which of the last run's were left by a run that has ended."""
        last = self._database.read(lambda connection: connection.execute(sa.select(last_run(self._runs))).scalar())
        return self.leases.working(last, self.format)

    def paces(self, window: float = 300.0) -> list[Pace]:
        """How fast the last run's cells got done of late, of those stages of which some did.

        Cells that were done before the last run began do not count. The ends of cells are by the clocks of their hosts,
        and are compared with that of the database.

        Args:
            window: seconds to look back, or since the beginning of the last run, if that is less.
        """
        return self._database.read(lambda connection: read_paces(connection, self._cells, self._runs, window))

    def failures(self) -> list[Failure]:
        """Failed cells of the run that this process started, else of the last one, in their order."""

        def read(connection: sa.Connection) -> list[Failure]:
            cells = self._cells
            query = (
                sa.select(cells.c.identity, cells.c.identity.label("name"), cells.c.label, cells.c.error)
                .where(cells.c.state == FAILED)
                .order_by(cells.c.position)
            )
            return [Failure(*row) for row in self._of_run(connection, query)]

        return self._database.read(read)

    def times(self) -> dict[str, tuple[str, float]]:
        """Stage and seconds of all finished cells, by identity, whichever run asked for them."""
        return self._database.read(lambda connection: read_times(connection, self._cells))

    def finished(self) -> dict[int, set[tuple[str, str]]]:
        """Stage and stored coordinates of all finished cells, by the number of the run that asked for them last."""
        return self._database.read(lambda connection: read_finished(connection, self._cells))

    def settings(self, run: int | None = None) -> dict[str, Any]:
        """Of a run by its number, or of the last one.

        Raises:
            RequestError: when there was none.
        """
        query = sa.select(self._runs.c.settings).order_by(self._runs.c.number.desc()).limit(1)
        query = query if run is None else query.where(self._runs.c.number == run)
        text = self._database.read(lambda connection: connection.execute(query).scalar())
        if text is None:
            raise RequestError(f"'{self}' holds no run; start one with `secateur study run {self.study}`")
        found: dict[str, Any] = json.loads(text)
        return found

    def _named_before(self, kept: str) -> Place:
        """The place of files that an earlier run named."""
        if HIDDEN in kept:
            raise RequestError(f"files of '{self}' are at '{kept}', whose secret is not kept; give --files")
        place = place_at(kept)
        place.check()
        return place

    @cached_property
    def _own(self) -> Folder:
        """Where files are unless another place was named; a SQLite file's own moves along with it."""
        if self.file is not None:
            return Folder(self.file.with_suffix(".files"))
        if self.url.get_backend_name() == "sqlite":  # in memory: they end with it
            self._temporary = tempfile.TemporaryDirectory()
            return Folder(Path(self._temporary.name))
        return Folder(Path(f"{self.url.database}.files").absolute())

    def _keep(self, identity: str, name: str, data: bytes) -> dict[str, Any]:
        check_name(name)
        path = f"{identity[:2]}/{identity}/{name}"
        place = self._given or self._own
        place.write(path, data)
        moves = self.file is not None and self._given is None
        return {
            "cell": identity,
            "name": name,
            "path": path if moves else place.stored(path),
            "sha256": hashlib.sha256(data).hexdigest(),
            "size": len(data),
        }

    def _kept(self, cell: str, stored: str, sha256: str) -> KeptFile:
        """A file, by what `_keep` stored of it; through the address that was given, which may have a password."""
        if self._given is not None and stored.startswith(beginning := f"{self._given.stored('')}/"):
            return KeptFile(cell, self._given, stored.removeprefix(beginning), sha256)
        if "://" in stored:
            return KeptFile(cell, place_at(stored), "", sha256)
        return KeptFile(cell, Folder(self._own.path.absolute()), stored, sha256)

    def _locked_state(self, connection: sa.Connection, identity: str) -> str:
        """The state of a cell, which nobody else changes before this transaction ends: two may finish it at once."""
        query = sa.select(self._cells.c.state).where(self._cells.c.identity == identity).with_for_update()
        known: str | None = connection.execute(query).scalar()
        if known is None:
            raise SecateurError(f"'{self}' does not know cell {identity[:12]}; it was deleted while the run went on")
        return known

    def _set(
        self,
        connection: sa.Connection,
        identity: str,
        known: str,
        state: str,
        error: str,
        started: float,
        seconds: float,
        host: str,
    ) -> None:
        cells = self._cells
        self.leases.end(connection, identity)
        if known == FINISHED and state == FAILED:
            return
        connection.execute(
            cells.update()
            .where(cells.c.identity == identity)
            .values(
                state=state, error=error, started=utc(started), finished=utc(started + seconds), seconds=seconds,
                host=host or platform.node(),
            )
        )  # fmt: skip

    def _status(self, connection: sa.Connection) -> Status:
        return read_status(connection, self.study, self._cells, self._runs)

    @property
    def _expected(self) -> dict[str, str]:
        return {"format": str(FORMAT), "study": self.study, "study version": str(self.version)}

    def _begin(self, connection: sa.Connection) -> tuple[int, str]:
        """Make the tables, or see that they are this study's and bring them to this format; see `_read`."""
        take_turns(connection)
        there = set(sa.inspect(connection).get_table_names())
        clash = there & set(self._metadata.tables)
        if clash and self._meta.name not in there:
            raise RequestError(
                f"'{self}' is a database, but no store of studies: its table '{min(clash)}' is of something else; "
                "choose another one"
            )
        files = ""
        if self._meta.name in there:
            found, files = self._read(connection)
            migrate(connection, found)
        self._metadata.create_all(connection)
        said = self._expected | ({} if self._given is None else {_FILES: self._given.stored("")})
        rows = [{"key": key, "value": value} for key, value in said.items()]
        connection.execute(upsert(self._meta, self.url, ("value",)), rows)
        return FORMAT, files

    def _read(self, connection: sa.Connection) -> tuple[int, str]:
        """See that a store is this study's; its format, and the place of files that was named last."""
        found = {str(key): str(value) for key, value in connection.execute(sa.select(self._meta))}
        return check_written_by(str(self), found, self._expected), found.get(_FILES, "")
