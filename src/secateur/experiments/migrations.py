"""Formats of a store, and the steps from each to the next.

Alembic was looked at and left out: a store is made by users' runs, and holds tables of any study beside the fixed ones,
so that nothing can be compared with a schema or generated; what is left of it is a list of statements like this one,
for which it brings a folder of scripts, a table of its own and a template engine.
"""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

MIGRATIONS: Mapping[int, tuple[str, ...]] = {
    # since when a cell is worked on; the status of a store is read from the index alone. A store from before leases
    # has no table of them.
    2: (
        "CREATE TABLE IF NOT EXISTS leases (cell TEXT NOT NULL PRIMARY KEY, owner TEXT NOT NULL, host TEXT NOT NULL, "
        "process BIGINT NOT NULL, until DOUBLE PRECISION NOT NULL)",
        "CREATE INDEX IF NOT EXISTS ix_leases_owner ON leases (owner)",
        "ALTER TABLE leases ADD COLUMN since DOUBLE PRECISION",
        "CREATE INDEX ix_cells_status ON cells (run, state, stage, finished)",
        "DROP INDEX IF EXISTS ix_cells_run",
    ),
}
"""Statements that lead to a format from the one before, in SQL that SQLite and PostgreSQL share. What was released is
never changed: stores have gone through it."""

FORMAT = 2
"""Of the stores that this version writes; a newer one is refused."""


def migrate(connection: sa.Connection, found: int) -> None:
    """Bring a store to `FORMAT`, as a part of the transaction that opens it.

    Args:
        connection: to the database; the format that it holds is changed by the caller.
        found: format of the store.
    """
    for format_ in range(found + 1, FORMAT + 1):
        for statement in MIGRATIONS[format_]:
            connection.execute(sa.text(statement))
