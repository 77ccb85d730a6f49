"""Leases: which run works on which cell, so that several runs share a store without doing a cell twice."""

from __future__ import annotations

import contextlib
import os
import platform
import threading
import uuid
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from secateur.core.errors import SecateurError
from secateur.core.progress import duration
from secateur.experiments.database import Database, clock, take_turns, upsert, utc
from secateur.experiments.status import FINISHED, WAITING, Working

SECONDS = 120.0
"""How long a lease holds unless it is renewed."""

_RENEWED = 15.0
"""Seconds between two renewals."""

_ended_here: set[str] = set()
"""Runs of this process that ended when they could not write to the store, so that their leases are still in it."""

_AGAIN = 1.0
"""Seconds after one that failed, so that leases go on as soon as a server is back."""


def lease_table(metadata: sa.MetaData) -> sa.Table:
    """Table of the cells that are worked on: by which run, since when and until when, by the clock of the database."""
    return sa.Table(
        "leases",
        metadata,
        sa.Column("cell", sa.Text, primary_key=True),
        sa.Column("owner", sa.Text, nullable=False, index=True),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("process", sa.BigInteger, nullable=False),
        sa.Column("until", sa.Double, nullable=False),
        sa.Column("since", sa.Double),
    )


@cache
def _process_space() -> str:
    """What tells apart hosts of equal names, and containers of one host: a process has its number in it alone."""
    with contextlib.suppress(OSError):  # there is no /proc on macOS
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return ""


def _holder(owner: str) -> str:
    """The name of a run as leases have it: with what its process number means."""
    return f"{owner} {_process_space()}"


def has_ended(host: str, process: int, holder: str) -> bool:
    """Whether the run that holds a lease has ended: known only of this host and this container."""
    owner, _, space = holder.partition(" ")
    if host != platform.node() or space != _process_space():
        return False
    if process == os.getpid():
        return owner in _ended_here
    if os.name != "posix":
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:  # another user's
        return False
    try:  # where nobody has asked for its exit code yet, it still has its number
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (OSError, IndexError):
        return False


class Leases:
    """Who works on which cell of a store.

    Args:
        database: of the store.
        metadata: that the table joins.
        cells: table of the cells.
    """

    def __init__(self, database: Database, metadata: sa.MetaData, cells: sa.Table) -> None:
        self._database, self._cells, self._table = database, cells, lease_table(metadata)

    def take(self, identities: Sequence[str], owner: str, seconds: float) -> set[str]:
        """Lease cells that are not finished and that no other run works on; the identities of those.

        Args:
            identities: of the cells.
            owner: name of the run.
            seconds: that the lease holds unless it is renewed.
        """
        return self.take_first([identities], owner, seconds)[1]

    def take_first(self, groups: Sequence[Sequence[str]], owner: str, seconds: float) -> tuple[int, set[str]]:
        """Lease cells of the first group that has any which are not finished and that no other run works on.

        Args:
            groups: identities of cells that are worked on together.
            owner: name of the run.
            seconds: that the lease holds unless it is renewed.

        Returns:
            Index of the group, and the identities that were leased; ``len(groups)`` and an empty set if there are none.
        """
        identities, holder = [identity for group in groups for identity in group], _holder(owner)

        def write(connection: sa.Connection) -> tuple[int, set[str]]:
            take_turns(connection)
            now, free = clock(connection), set()
            for chunk in _chunks(identities):
                free |= self._free(connection, chunk, holder, now)
            index = next((index for index, group in enumerate(groups) if not free.isdisjoint(group)), len(groups))
            taken = free.intersection(groups[index]) if index < len(groups) else set()
            values = {
                "owner": holder, "host": platform.node(), "process": os.getpid(), "until": now + seconds, "since": now,
            }  # fmt: skip
            if taken:
                rows = [{"cell": identity, **values} for identity in sorted(taken)]
                connection.execute(upsert(self._table, self._database.url, tuple(values)), rows)
            return index, taken

        return self._database.write(write)

    def _free(self, connection: sa.Connection, identities: Sequence[str], holder: str, now: float) -> set[str]:
        """Those of the cells that are not finished and that no other run works on."""
        cells, table = self._cells, self._table
        theirs = (table.c.until > now) & (table.c.owner != holder)
        unfinished = (
            sa.select(cells.c.identity)
            .outerjoin(table, table.c.cell == cells.c.identity)
            .where(cells.c.identity.in_(identities), cells.c.state != FINISHED)
        )
        free = set(connection.execute(unfinished.where(table.c.cell.is_(None) | ~theirs)).scalars())
        processes = sa.select(table.c.host, table.c.process, table.c.owner).distinct()
        others = connection.execute(processes.where(table.c.cell.in_(identities), theirs))
        over = [row.owner for row in others if has_ended(row.host, row.process, row.owner)]
        if over:
            free |= set(connection.execute(unfinished.where(table.c.owner.in_(over))).scalars())
        return free

    def renew(self, owner: str, seconds: float) -> None:
        """Let the leases of a run hold for so many seconds from now; a server that is away is not waited for."""
        table = self._table

        def write(connection: sa.Connection) -> None:
            take_turns(connection)  # with those who take several, in another order
            until = clock(connection) + seconds
            connection.execute(table.update().where(table.c.owner == _holder(owner)).values(until=until))

        self._database.write(write, 0.0)

    def give_up(self, owner: str) -> None:
        """End all leases of a run; a server that is away is not waited for."""

        def write(connection: sa.Connection) -> None:
            take_turns(connection)
            connection.execute(self._table.delete().where(self._table.c.owner == _holder(owner)))

        self._database.write(write, 0.0)

    def working(self, run: int | None, format_: int) -> list[Working]:
        """Who works on which cells, and what was left by runs that have ended.

        Args:
            run: number of the last run; of what was left, only its cells are given, which the next run asks for.
            format_: of the store, which may be an older one where it is only read.
        """
        cells, table = self._cells, self._table
        since = table.c.since if format_ > 1 else sa.null().label("since")
        query = (
            sa.select(
                table.c.cell,
                cells.c.label,
                cells.c.run,
                table.c.owner,
                table.c.host,
                table.c.process,
                table.c.until,
                since,
            )
            .join(cells, cells.c.identity == table.c.cell)
            .order_by(since, cells.c.position)
        )

        def read(connection: sa.Connection) -> list[Working]:
            if not sa.inspect(connection).has_table(table.name):  # from before leases
                return []
            now = clock(connection)
            found: dict[Any, list[Any]] = {}
            for row in connection.execute(query):
                found.setdefault((row.owner, row.since, row.run), []).append(row)
            groups = [(_working(rows, now), rows[0].run) for rows in found.values()]
            return [each for each, of in groups if each.ended is None or of == run]

        return self._database.read(read)

    def end(self, connection: sa.Connection, identity: str) -> None:
        """End the lease of a cell, within a transaction that keeps its result."""
        connection.execute(self._table.delete().where(self._table.c.cell == identity))

    def ended(self, identities: Sequence[str]) -> set[str]:
        """Those of the cells that are finished, or have failed, and that no run works on."""

        def read(connection: sa.Connection) -> set[str]:
            cells, table = self._cells, self._table
            query = (
                sa.select(cells.c.identity)
                .outerjoin(table, table.c.cell == cells.c.identity)
                .where(cells.c.state != WAITING, table.c.cell.is_(None))
            )
            found = [connection.execute(query.where(cells.c.identity.in_(chunk))) for chunk in _chunks(identities)]
            return {identity for rows in found for (identity,) in rows}

        return self._database.read(read)


def _working(rows: Sequence[sa.Row[Any]], now: float) -> Working:
    """Leases that were taken at the same time."""
    first, ended = rows[0], None
    if first.until <= now:
        ended = f"its lease ran out {duration(now - first.until)} ago"
    elif has_ended(first.host, first.process, first.owner):
        ended = "its process has ended"
    since = "" if first.since is None else utc(first.since)
    return Working([(row.cell, row.label) for row in rows], first.host, first.process, since, ended)


def _chunks(identities: Sequence[str], size: int = 500) -> Iterator[Sequence[str]]:
    """In parts that fit into a statement."""
    for start in range(0, len(identities), size):
        yield identities[start : start + size]


class Holder:
    """A run that takes cells of a store, and renews its leases while it works; as a context, it gives them up.

    Args:
        leases: of the store, shared with other runs.
    """

    def __init__(self, leases: Leases) -> None:
        self._leases, self.owner = leases, uuid.uuid4().hex
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Holder:
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        try:
            self._leases.give_up(self.owner)
        except SecateurError:  # the leases end by themselves, and for this process at once
            _ended_here.add(self.owner)

    def take_first(self, groups: Sequence[Sequence[str]]) -> tuple[int, set[str]]:
        """Lease cells for this run; see `Leases.take_first`."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._renew, daemon=True)
            self._thread.start()
        return self._leases.take_first(groups, self.owner, SECONDS)

    def _renew(self) -> None:
        pause = _RENEWED
        while not self._ended.wait(pause):
            pause = _AGAIN
            with contextlib.suppress(SecateurError):  # the run itself says that the database is away
                self._leases.renew(self.owner, SECONDS)
                pause = _RENEWED
