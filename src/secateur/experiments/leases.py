"""Leases: which run works on which cell, so that several runs share a store without doing a cell twice."""

from __future__ import annotations

import contextlib
import os
import platform
import threading
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from secateur.core.errors import SecateurError

if TYPE_CHECKING:
    from secateur.experiments.store import Store

SECONDS = 120.0
"""That a lease holds unless it is renewed."""

_RENEWED = 15.0
"""Seconds between two renewals."""


def lease_table(metadata: sa.MetaData) -> sa.Table:
    """Cells that are worked on: by whom, and until when by the clock of the database."""
    return sa.Table(
        "leases",
        metadata,
        sa.Column("cell", sa.Text, primary_key=True),
        sa.Column("owner", sa.Text, nullable=False, index=True),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("process", sa.BigInteger, nullable=False),
        sa.Column("until", sa.Double, nullable=False),
    )


def clock(connection: sa.Connection) -> float:
    """Seconds since the epoch by the clock of the database, which is one for all hosts."""
    if connection.dialect.name == "postgresql":
        text = "SELECT extract(epoch FROM clock_timestamp())"
    else:
        text = "SELECT (julianday('now') - 2440587.5) * 86400.0"
    return float(connection.execute(sa.text(text)).scalar_one())


def is_over(host: str, process: int) -> bool:
    """Whether the process that holds a lease has ended: known of this host alone."""
    if host != platform.node() or process == os.getpid():
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


class Holder:
    """A run that takes cells of a store, and renews its leases while it works; as a context, it gives them up.

    Args:
        store: shared with other runs.
    """

    def __init__(self, store: Store) -> None:
        self._store, self.owner = store, uuid.uuid4().hex
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Holder:
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        with contextlib.suppress(SecateurError):  # they end by themselves
            self._store.give_up(self.owner)

    def take(self, identities: Sequence[str]) -> set[str]:
        """Those of the cells that are this run's now: not finished, and no other run's."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._renew, daemon=True)
            self._thread.start()
        return self._store.take(identities, self.owner, SECONDS)

    def _renew(self) -> None:
        while not self._ended.wait(_RENEWED):
            with contextlib.suppress(SecateurError):  # the run itself says that the database is away
                self._store.renew(self.owner, SECONDS)


@contextlib.contextmanager
def holding(store: Store) -> Iterator[Holder]:
    """Take cells of a store."""
    with Holder(store) as holder:
        yield holder
