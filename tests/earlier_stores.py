"""A store as the first format had it, in SQL for SQLite and PostgreSQL: two of four cells finished, one leased."""

import json

import sqlalchemy as sa

from secateur.experiments.database import store_url
from secateur.experiments.running import identities
from tiny_study import tiny

TABLES = """
CREATE TABLE artefacts (cell TEXT NOT NULL, name TEXT NOT NULL, path TEXT NOT NULL, sha256 TEXT NOT NULL,
    size BIGINT NOT NULL, PRIMARY KEY (cell, name));
CREATE TABLE cells (identity TEXT NOT NULL, run INTEGER NOT NULL, position INTEGER NOT NULL, stage TEXT NOT NULL,
    label TEXT NOT NULL, coordinates TEXT NOT NULL, state TEXT NOT NULL, started TEXT, finished TEXT,
    seconds DOUBLE PRECISION, host TEXT, error TEXT, PRIMARY KEY (identity));
CREATE TABLE rows_squares (_cell TEXT NOT NULL, _number INTEGER NOT NULL, number BIGINT NOT NULL,
    square DOUBLE PRECISION NOT NULL, PRIMARY KEY (_cell, _number));
CREATE TABLE rows_sums (_cell TEXT NOT NULL, _number INTEGER NOT NULL, up_to BIGINT NOT NULL,
    total DOUBLE PRECISION NOT NULL, PRIMARY KEY (_cell, _number));
CREATE TABLE runs (number INTEGER NOT NULL, started TEXT, host TEXT, command TEXT, settings TEXT, PRIMARY KEY (number));
CREATE TABLE store ("key" TEXT NOT NULL, value TEXT, PRIMARY KEY ("key"));
CREATE INDEX ix_cells_run ON cells (run);
INSERT INTO store VALUES ('format', '1');
INSERT INTO store VALUES ('study', 'tiny');
INSERT INTO store VALUES ('study version', '1');
"""

LEASES = """
CREATE TABLE leases (cell TEXT NOT NULL, owner TEXT NOT NULL, host TEXT NOT NULL, process BIGINT NOT NULL,
    until DOUBLE PRECISION NOT NULL, PRIMARY KEY (cell));
CREATE INDEX ix_leases_owner ON leases (owner);
"""

NUMBERS = (1, 2)


def write_first_format(location, leases=True):
    """At a path or URL; without leases, as the first versions of that format had it."""
    study = tiny(*NUMBERS)
    settings = study.settings.model_dump(mode="json")
    day = "2026-01-01T00:00:0"
    engine = sa.create_engine(store_url(location))
    with engine.begin() as connection:
        for statement in filter(str.strip, (TABLES + (LEASES if leases else "")).split(";")):
            connection.execute(sa.text(statement))

        def insert(table, *values):
            names = [f":v{number}" for number in range(len(values))]
            given = dict(zip((name[1:] for name in names), values, strict=True))
            connection.execute(sa.text(f"INSERT INTO {table} VALUES ({', '.join(names)})"), given)

        insert("runs", 1, f"{day}0.000+00:00", "host7", "secateur study run tiny", json.dumps(settings))
        for position, (name, cell) in enumerate(identities(study, None).items()):
            done = position < 2
            times = [f"{day}{position}.000+00:00", f"{day}{position + 1}.000+00:00", 1.0] if done else [None] * 3
            state = "finished" if done else "waiting"
            values = json.dumps(cell.coordinates)
            insert("cells", name, 1, position, cell.stage, str(cell), values, state, *times, "host7", "")
            if done:
                insert("rows_squares", name, 0, cell.number, float(cell.number**2))
                insert("artefacts", name, "square.txt", f"{name[:2]}/{name}/square.txt", "0" * 64, 3)
            elif leases and position == 2:
                insert("leases", name, "earlier", "host7", 42, 0.0)
    engine.dispose()
