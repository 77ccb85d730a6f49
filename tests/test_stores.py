"""Stores between versions, in use by several runs, with files anywhere; and what must never be seen in them."""

from __future__ import annotations

import contextlib
import sqlite3

import pytest
import sqlalchemy as sa

from earlier_stores import NUMBERS, write_first_format
from postgres_server import Server
from secateur.cli.main import run as command
from secateur.core.errors import RequestError
from secateur.experiments import Store, opened_cells, opened_store, run
from secateur.experiments.database import store_url
from secateur.experiments.migrations import FORMAT, MIGRATIONS
from secateur.experiments.running import identities
from tiny_study import TinyStudy, tiny


def opened(path, **options):
    return Store(path, "tiny", 1, TinyStudy.tables, **options)


def kind(type_):
    """SQLite has one kind of floats, under any of these names."""
    return "DOUBLE" if str(type_) in ("REAL", "DOUBLE", "DOUBLE PRECISION") else str(type_)


def layout(location):
    """Columns, keys and indices of all tables of a store, and what it says of itself."""
    engine = sa.create_engine(store_url(location))
    with engine.connect() as connection:
        inspector = sa.inspect(connection)
        found = {
            name: (
                [(each["name"], each["nullable"], kind(each["type"])) for each in inspector.get_columns(name)],
                inspector.get_pk_constraint(name)["constrained_columns"],
                sorted((each["name"], *each["column_names"]) for each in inspector.get_indexes(name)),
            )
            for name in inspector.get_table_names()
        }
        said = {tuple(row) for row in connection.execute(sa.text("SELECT * FROM store"))}
    engine.dispose()
    return found, said


def said(capsys, *arguments):
    """Exit code, output and errors of a command."""
    code = command(["study", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err.splitlines()[-1] if err else ""


def of_format(path):
    with contextlib.closing(sqlite3.connect(path)) as database:
        return database.execute("SELECT value FROM store WHERE key = 'format'").fetchone()[0]


# formats


def test_every_format_has_its_migration():
    assert sorted(MIGRATIONS) == list(range(2, FORMAT + 1))


def taken_over(location, leases):
    """What an older store becomes, and that nothing in it is lost."""
    write_first_format(location, leases)
    study = tiny(*NUMBERS)
    with opened_store(location, study) as store:
        assert store.format == FORMAT
        assert store.status().counts == {"square": {"finished": 2}, "sum": {"waiting": 2}}
        assert store.status().command == "secateur study run tiny"
        assert store.settings() == study.settings.model_dump(mode="json")
        assert store.frames()["squares"]["square"].tolist() == [1.0, 4.0]
        assert [each.since for each in store.working()] == ([""] if leases else [])
        outcome = run(study, store, progress=False)
        assert (outcome.made, outcome.found) == (2, 2)
        assert store.frames()["sums"]["total"].tolist() == [1.0, 5.0]


@pytest.mark.parametrize("leases", [True, False])
def test_a_store_of_the_first_format_is_taken_over_without_loss(tmp_path, leases):
    taken_over(tmp_path / "cells.sqlite", leases)
    opened(tmp_path / "new.sqlite").close()
    assert layout(tmp_path / "cells.sqlite") == layout(tmp_path / "new.sqlite")


def test_a_migration_that_is_broken_off_leaves_the_store_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "cells.sqlite"
    write_first_format(path)
    before = layout(path)
    broken = (*MIGRATIONS[FORMAT], "ALTER TABLE nowhere ADD COLUMN nothing TEXT")
    with monkeypatch.context() as patch:
        patch.setattr("secateur.experiments.migrations.MIGRATIONS", {**MIGRATIONS, FORMAT: broken})
        with pytest.raises(Exception, match="nowhere"):
            opened(path)
    assert layout(path) == before
    opened(path).close()
    assert of_format(path) == str(FORMAT)


def test_an_older_store_that_is_only_looked_at_stays_as_it_is(tmp_path, capsys):
    for leases in (True, False):
        path = tmp_path / f"{leases}.sqlite"
        write_first_format(path, leases)
        before = layout(path)
        code, text, error = said(capsys, "status", "--store", path)
        assert (code, "sum: 2 waiting" in text) == (0, True), error
        assert ("left by host7, process 42: " in text) == leases
        assert layout(path) == before
    assert before[1] == {("format", "1"), ("study", "tiny"), ("study version", "1")}


def test_a_newer_store_is_refused_in_one_line_with_both_versions(tmp_path, capsys):
    path = tmp_path / "cells.sqlite"
    opened(path).close()
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE store SET value = '99' WHERE key = 'format'")
    for arguments in (["status"], ["results", "--to", tmp_path], ["retry"], ["run", "tiny", "--out", tmp_path]):
        code, _, error = said(capsys, *arguments, "--store", path)
        assert (code, f"newer version (format 99, this secateur has {FORMAT})" in error) == (2, True), error
    assert of_format(path) == "99"


# who works on what


def test_status_says_who_works_on_what(tmp_path, monkeypatch, capsys):
    path, study = tmp_path / "cells.sqlite", tiny()
    cells = identities(study, None)
    names = list(cells)
    with opened(path) as store:
        store.start(list(cells.items()), {})
        with monkeypatch.context() as patch:
            patch.setattr("platform.node", lambda: "host7")
            patch.setattr("os.getpid", lambda: 42)
            store.leases.take(names[:2], "first", 60.0)
            store.leases.take(names[2:3], "second", -90.0)
        with monkeypatch.context() as patch:
            patch.setattr("os.getpid", lambda: 2**22 + 1)  # more than there can be
            store.leases.take(names[3:4], "third", 60.0)
        running, out, gone = store.working()
        assert [(each.host, each.process, len(each.cells)) for each in (running, out)] == [
            ("host7", 42, 2),
            ("host7", 42, 1),
        ]
        assert (running.ended, gone.ended) == (None, "its process has ended")
        assert running.since <= out.since <= gone.since
        _, text, _ = said(capsys, "status", "--store", path)
        assert f"worked on by host7, process 42, since {running.since}: {names[0][:12]} (number=1) and 1 more\n" in text
        assert f"left by host7, process 42, since {out.since}: {names[2][:12]} (number=3); its lease ran out 9" in text
        store.leases.take(names[2:3], "fourth", 60.0)  # what was left is taken over
        assert [each.ended for each in store.working()] == [None, "its process has ended", None]


def test_what_others_work_on_is_shown_and_what_nobody_wants_is_not(tmp_path):
    cells = list(identities(tiny(), None).items())
    with opened(tmp_path / "cells.sqlite") as store:
        store.start(cells, {})
        store.leases.take([cells[0][0]], "first", 60.0)
        store.leases.take([cells[1][0]], "second", -60.0)
        store.start(cells[2:], {})
        assert [each.cells for each in store.working()] == [[(cells[0][0], "number=1")]]
        store.start(cells, {})
        assert [each.ended is None for each in store.working()] == [True, False]


def test_leases_of_finished_cells_are_none(tmp_path):
    with opened_store(tmp_path / "cells.sqlite", tiny()) as store:
        run(tiny(), store, progress=False)
        assert store.working() == []


# stores that cannot be written


def test_a_store_that_can_only_be_read_is_one_line_for_work_and_can_be_looked_at(tmp_path, monkeypatch, capsys):
    path = tmp_path / "cells.sqlite"
    with opened_store(path, tiny()) as store:
        run(tiny(), store, progress=False)
    connect = sqlite3.connect

    def write_protected(address, *arguments, **options):
        """As for somebody who may write neither the file nor its folder; the root user may always."""
        if "immutable" not in str(address) and "mode=ro" not in str(address):
            connection = connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False)
            connection.execute("PRAGMA query_only = 1")
            return connection
        return connect(address, *arguments, **options)

    monkeypatch.setattr("sqlite3.connect", write_protected)
    monkeypatch.setattr("sqlite3.dbapi2.connect", write_protected)
    with opened_cells(path) as store:
        assert store.status().total("finished") == 6
    assert said(capsys, "results", "--store", path, "--to", tmp_path / "out")[0] == 0
    with pytest.raises(RequestError, match="can only be read here .*readonly database.*choose another store"):
        opened_store(path, tiny()).__enter__()


def test_a_file_in_a_folder_without_its_log_is_read_as_it_is(tmp_path, monkeypatch):
    path = tmp_path / "cells.sqlite"
    with opened_store(path, tiny()) as store:
        run(tiny(), store, progress=False)
    connect = sqlite3.connect

    def without_log(address, *arguments, **options):
        if "mode=rw" in address:
            return connect(f"{path.parent.absolute().as_uri()}/none?mode=memory", uri=True) and Unopened()
        return connect(address, *arguments, **options)

    class Unopened:
        def execute(self, text):
            raise sqlite3.OperationalError("unable to open database file")

        def close(self):
            pass

    monkeypatch.setattr("sqlite3.connect", without_log)
    with opened_cells(path) as store:
        assert store.status().total("finished") == 6
    path.with_name("cells.sqlite-wal").write_bytes(b"more")  # what is finished is partly there
    with pytest.raises(Exception, match="unable to open"), opened_cells(path) as store:
        store.status()


# PostgreSQL


@pytest.mark.slow
def test_a_store_of_the_first_format_on_a_server_is_taken_over(tmp_path, monkeypatch):
    pytest.importorskip("psycopg")
    monkeypatch.chdir(tmp_path)
    with Server() as server:
        taken_over(server.url, True)
        migrated = layout(server.url)
        engine = sa.create_engine(store_url(server.url))
        with engine.begin() as connection:
            for name in migrated[0]:
                connection.execute(sa.text(f"DROP TABLE {name}"))
        engine.dispose()
        opened(server.url).close()
        assert layout(server.url) == migrated
