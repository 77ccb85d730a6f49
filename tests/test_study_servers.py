"""Stores on servers: connections that break, passwords, and several drivers at once."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Annotated

import pytest
import sqlalchemy as sa
import yaml
from pandas.testing import assert_frame_equal

from postgres_server import Server
from secateur.cli.main import run as command
from secateur.cli.present import command_line
from secateur.core.addresses import (
    HIDDEN,
    argument_without_secrets,
    hidden_secrets,
    settings_without_secrets,
    without_secrets,
)
from secateur.core.errors import RequestError, SecateurError
from secateur.experiments import Effect, Here, Processes, Store, database, opened_store, run
from secateur.experiments.database import Database, store_url
from tiny_study import SquareCell, TinySettings, TinyStudy, tiny

SECRET = "pass-w0rd-42"
AWAY = f"postgresql://me:{SECRET}@localhost:1/name"
"""Where nobody listens."""


@pytest.fixture(autouse=True)
def _driver():
    pytest.importorskip("psycopg")


def opened(path, **options):
    return Store(path, "tiny", 1, TinyStudy.tables, **options)


def said(capsys, *arguments):
    """Exit code, and all that a command says."""
    code = command(list(map(str, arguments)))
    out, err = capsys.readouterr()
    return code, out + err


def hold(path, text):
    """Whether a text is in any file of a folder."""
    return [each for each in path.rglob("*") if each.is_file() and text.encode() in each.read_bytes()]


@pytest.fixture
def log(tmp_path, monkeypatch):
    path = tmp_path / "log.txt"
    path.touch()
    monkeypatch.setenv("TINY_LOG", str(path))
    monkeypatch.chdir(tmp_path)
    return path


def lines(path):
    return path.read_text().splitlines()


# connections


class Broken:
    """A database that is away for some calls."""

    def __init__(self, monkeypatch, calls):
        self.left, self.pauses = calls, []
        self.database = Database(store_url("sqlite://"))
        monkeypatch.setattr(Database, "_is_away", lambda _, error: True)
        monkeypatch.setattr(database.time, "sleep", self.pauses.append)

    def work(self, connection):
        if self.left:
            self.left -= 1
            raise sa.exc.OperationalError("SELECT", {}, Exception("server closed the connection"))
        return 42


def test_a_server_that_comes_back_costs_pauses_alone(monkeypatch):
    broken = Broken(monkeypatch, 9)
    assert broken.database.write(broken.work) == 42
    assert broken.pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0])


def test_a_run_that_waits_says_so_and_others_do_not(monkeypatch):
    from secateur.core.progress import reporting

    for patience, count in ((None, 1), (5.0, 0)):
        told = []
        broken = Broken(monkeypatch, 3)
        with reporting(told.append):
            broken.database.write(broken.work, patience)
        assert {each.description for each in told} == {"'sqlite://' is away, waited for 5 min 0 s at most"} or not count
        assert bool(told) == bool(count)


def test_a_server_that_stays_away_ends_the_run_with_what_is_kept(tmp_path, monkeypatch):
    class Ended(Here):
        def work(self, study, jobs):
            for number, done in enumerate(super().work(study, jobs)):
                if number == 2:
                    monkeypatch.setattr(database, "PATIENCE", 0.3)
                    monkeypatch.setattr(Database, "_is_away", lambda _, error: True)
                    monkeypatch.setattr(sa.Engine, "begin", gone)
                yield done

    def gone(self):
        raise sa.exc.OperationalError("UPDATE", {}, Exception("server closed the connection unexpectedly"))

    begin = time.monotonic()
    with opened_store(tmp_path / "cells.sqlite", tiny()) as store, pytest.raises(SecateurError) as raised:
        run(tiny(), store, Ended(), progress=False)
    assert time.monotonic() - begin < 10  # its leases are not waited for
    assert (
        "cannot be reached, and was waited for 0 s (server closed the connection unexpectedly); what it holds is "
        "whole, 2 of 6 cells are finished: see that the database runs, and run the same command again"
    ) in str(raised.value)
    monkeypatch.undo()
    with contextlib.closing(sqlite3.connect(tmp_path / "cells.sqlite")) as file, file:
        file.execute("UPDATE leases SET until = 0")  # they run out, since this process goes on
    with opened_store(tmp_path / "cells.sqlite", tiny()) as store:
        assert run(tiny(), store, progress=False).found == 2


def test_an_interruption_while_the_server_is_away_says_what_is_kept_at_once(tmp_path, monkeypatch):
    class Interrupted(Here):
        def work(self, study, jobs):
            yield next(super().work(study, jobs))
            monkeypatch.setattr(Database, "_is_away", lambda _, error: True)
            for name in ("begin", "connect"):
                monkeypatch.setattr(sa.Engine, name, gone)
            raise KeyboardInterrupt

    def gone(self):
        raise sa.exc.OperationalError("UPDATE", {}, Exception("server closed the connection unexpectedly"))

    begin = time.monotonic()
    with opened_store(tmp_path / "cells.sqlite", tiny()) as store, pytest.raises(KeyboardInterrupt) as raised:
        run(tiny(), store, Interrupted(), progress=False)
    assert raised.value.__notes__[0].startswith("1 of 6 cells are finished and kept in")
    assert time.monotonic() - begin < 10


def test_a_server_that_is_not_there_is_named_before_any_work(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(database, "OPENING", 0.2)
    monkeypatch.setattr("secateur.experiments.store.OPENING", 0.2)
    code, text = said(capsys, "study", "run", "tiny", "--store", AWAY, "--out", tmp_path)
    assert code == 1
    assert "'postgresql://me:***@localhost:1/name' cannot be reached, and was waited for" in text
    assert SECRET not in text


# passwords


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://me:{SECRET}@host/name",
        f"see (postgresql+psycopg://me:{SECRET}@host:5432/name?a=b)",
        f"postgresql://me:a@{SECRET}/@host/name",
        f"postgresql://host/name?user=me&password={SECRET}",
        f"postgresql://host/name?sslpassword={SECRET}&user=me",
        f"https://me:{SECRET}@host/file?X-Amz-Signature={SECRET}",
        f"s3://bucket/x?access_token={SECRET} s3://:{SECRET}@bucket",
        f"simplecache::ftp://me:{SECRET}@host/folder",
    ],
)
def test_passwords_of_addresses_are_hidden(text):
    hidden = without_secrets(text)
    assert SECRET not in hidden
    assert HIDDEN in hidden
    kept = settings_without_secrets({"a": [text, 1, None]})
    assert kept == {"a": [argument_without_secrets(text), 1, None]}, "a setting is one address, up to its end"
    assert SECRET not in str(kept)


@pytest.mark.parametrize("text", ["a@b.c: d", "https://host:80/a?b=c", "C:\\data", "12:30@noon", "s3://bucket/key=1"])
def test_what_is_no_password_stays(text):
    assert without_secrets(text) == text


@pytest.mark.parametrize(
    "option", [["--store", AWAY], [f"--store={AWAY}"], ["--store", f"postgresql://me:a {SECRET}@h/n"]]
)
def test_the_command_of_pages_and_runs_has_no_password(option, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["secateur", "study", "run", "tiny", *option])
    assert SECRET not in command_line()
    assert "postgresql://me:***@" in command_line()


@pytest.mark.parametrize(
    "location",
    [AWAY, f"postgresql://me:se/{SECRET}@host:x/name", f"postgresql://localhost:1/name?user=me&password={SECRET}"],
)
def test_errors_and_tracebacks_of_stores_have_no_password(location, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("secateur.experiments.store.OPENING", 0.1)
    monkeypatch.setattr("secateur.experiments.opening.OPENING", 0.1)
    with pytest.raises(SecateurError) as raised:
        opened(location)
    assert SECRET not in "".join(traceback.format_exception(raised.value))
    for arguments in (
        ["status"],
        ["results", "--to", tmp_path],
        ["retry"],
        ["run", "tiny"],
        ["run", "tiny", "--dry-run"],
    ):
        more = [] if arguments[0] != "run" else ["--out", tmp_path]
        code, text = said(capsys, "study", *arguments, *more, "--store", location)
        assert (code in (0, 1, 2), SECRET in text) == (True, False), text
    assert not hold(tmp_path, SECRET)


def test_errors_of_a_file_keep_their_words(tmp_path):
    folder = tmp_path / "a:b@c"
    folder.mkdir()
    (folder / "cells.sqlite").write_text("not a database, but long enough to be taken for one " * 50)
    with pytest.raises(RequestError, match="a:b@c/cells.sqlite' is not a SQLite file .file is not a database"):
        opened(folder / "cells.sqlite")
    assert hidden_secrets("a bad b", f"sqlite:///{folder}") == "a bad b"
    assert hidden_secrets("a bad b", "simplecache::ftp://me:bad@host") == "a *** b"
    assert hidden_secrets("a b/d b", "ftp://me:b%2Fd@host") == "a *** b"


def test_an_error_of_the_driver_that_names_the_password_hides_it(monkeypatch):
    class Talking:
        def begin(self):
            raise sa.exc.OperationalError(None, {}, Exception(f"no entry for me with password {SECRET}"))

    away = Database(store_url(AWAY))
    away.close()
    monkeypatch.setattr(away, "_engine", Talking())
    with pytest.raises(SecateurError, match="no entry for me with password ...") as raised:
        away.write(lambda connection: None, 0.0)
    shown = traceback.TracebackException.from_exception(raised.value)
    assert SECRET not in str(shown)
    assert shown.__cause__ is None


def test_what_a_run_stores_has_no_password(tmp_path, monkeypatch, capsys):
    address = f"https://me:{SECRET}@host/numbers?token={SECRET}"

    def work(self, cell, resources, earlier):
        raise ArithmeticError(f"cannot read {address}")

    monkeypatch.setattr(TinyStudy, "work", work)
    path, study = tmp_path / "cells.sqlite", tiny(1)
    with opened_store(path, study) as store:
        outcome = run(study, store, command=f"secateur study run tiny --store {AWAY}", progress=False)
        settings = study.settings.model_dump(mode="json") | {"source": {"of": [address]}}
        store.start([("abc", SquareCell(number=1))], settings, f"secateur --store {AWAY}")
        with pytest.raises(SecateurError) as raised:
            outcome.raise_failures(store)
        assert store.settings()["source"] == {"of": ["https://me:***@host/numbers?token=***"]}
    assert SECRET not in str(raised.value)
    assert "ArithmeticError: cannot read https://me:***@host/numbers?token=***" in str(raised.value)
    assert not hold(tmp_path, SECRET)
    with contextlib.closing(sqlite3.connect(path)) as file:
        commands = [each for (each,) in file.execute("SELECT command FROM runs ORDER BY number")]
    assert commands[1] == "secateur --store postgresql://me:***@localhost:1/name"
    code, text = said(capsys, "study", "status", "--store", path)
    assert (code, SECRET in text) == (0, False)


def test_a_study_whose_settings_had_a_password_is_not_retried_without_it(tmp_path, monkeypatch, capsys, log):
    class Sourced(TinySettings):
        source: Annotated[str, Effect.PRESENTATION] = ""

    monkeypatch.setattr(TinyStudy, "settings_type", Sourced)
    study = TinyStudy(Sourced(source=f"https://me:{SECRET}@host/numbers"))
    monkeypatch.setenv("TINY_BROKEN", "2")
    with opened_store(tmp_path / "cells.sqlite", study) as store:
        run(study, store, progress=False)
    begun = len(lines(log))
    code, text = said(capsys, "study", "retry", "--out", tmp_path)
    assert (code, len(lines(log))) == (2, begun)
    assert "an address whose password is not kept; repeat the `secateur study run`" in text
    assert said(capsys, "study", "results", "--out", tmp_path)[0] == 0
    assert not hold(tmp_path, SECRET)


def test_printed_settings_have_no_password(capsys, monkeypatch):
    settings = [f"data.source=https://me:{SECRET}@host/images.npz", "model.name=resnet20"]
    code, text = said(capsys, "prune", "--set", settings[0], "--set", settings[1], "--print-config")
    assert (code, SECRET in text) == (0, False)
    assert yaml.safe_load(text)["data"]["source"] == "https://me:***@host/images.npz"
    code, text = said(capsys, "study", "run", "tiny", "--store", AWAY, "--print-config")
    assert (code, SECRET in text) == (0, False)


# on a server


DRIVER = """
import sys, tiny_study
from secateur.experiments import Processes, opened_store, run

if __name__ == "__main__":
    study = tiny_study.TinyStudy(tiny_study.TinySettings(grid={"numbers": range(int(sys.argv[2]))}))
    with opened_store(sys.argv[1], study) as store, Processes(int(sys.argv[3])) as executor:
        outcome = run(study, store, executor, progress=False)
        print(outcome.made, outcome.found, len(outcome.failures))
"""


def whole(study, tmp_path, monkeypatch):
    """The tables of a run without trouble."""
    with monkeypatch.context() as patch:
        patch.delenv("TINY_LOG")
        patch.delenv("TINY_SECONDS", raising=False)
        with opened_store(tmp_path / "whole.sqlite", study) as store:
            run(study, store, progress=False)
            return store.frames()


def begun(tmp_path, url, count, processes):
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    folders = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, str(script), url, str(count), str(processes)]
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def same(server, study, tmp_path, monkeypatch):
    with opened_store(server.url, study) as store:
        assert store.status().total("finished") == len(study.cells())
        assert store.working() == []
        for name, frame in whole(study, tmp_path, monkeypatch).items():
            assert_frame_equal(frame, store.frames()[name], check_exact=True)


@pytest.mark.slow
def test_two_drivers_on_one_server_share_the_work(tmp_path, monkeypatch, log):
    monkeypatch.setenv("TINY_SECONDS", "0.05")
    study = TinyStudy(TinySettings(grid={"numbers": range(100)}))
    with Server() as server:
        drivers = [begun(tmp_path, server.url, 100, 2) for _ in range(2)]
        ends = [driver.communicate(timeout=300) for driver in drivers]
        assert [driver.returncode for driver in drivers] == [0, 0], ends
        assert len(lines(log)) == len(set(lines(log))) == 200  # none was done twice
        query = sa.text("SELECT count(*), count(DISTINCT _cell) FROM rows_squares")
        with contextlib.closing(Database(store_url(server.url))) as opened_:
            assert opened_.read(lambda connection: connection.execute(query).one()) == (100, 100)
        same(server, study, tmp_path, monkeypatch)


@pytest.mark.slow
def test_a_cell_that_two_drivers_finish_is_kept_once(tmp_path, monkeypatch, log):
    with Server() as server:
        study = tiny(1, 2)
        with opened_store(server.url, study) as store:
            run(study, store, progress=False)
        with opened_store(server.url, study) as first, opened_store(server.url, study) as second:
            names = list(first.start([("abc", SquareCell(number=7))], {}))
            result = study.work(SquareCell(number=7), None, {})
            threads = [
                threading.Thread(target=lambda each=each: [each.finish("abc", result, 0.0, 1.0) for _ in range(50)])
                for each in (first, second)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            assert names == ["abc"]
            assert len(first.frames()["squares"]) == 1
            assert second.artefact("abc", "square.txt") == b"49.0"


@pytest.mark.slow
def test_a_server_stopped_again_and_again_under_eight_processes_loses_nothing(tmp_path, monkeypatch, log):
    monkeypatch.setenv("TINY_SECONDS", "0.2")
    count, draw, errors = 200, random.Random(0), []
    study = TinyStudy(TinySettings(grid={"numbers": range(count)}))
    with Server() as server:

        def trouble():
            try:
                for stop in range(5):
                    while len(lines(log)) < 40 + 60 * stop:
                        time.sleep(0.01)
                    server.stop("immediate" if stop % 2 else "fast")
                    time.sleep(draw.uniform(0.2, 3.0))
                    server.start()
            except Exception as error:  # noqa: BLE001 - shown by the test's thread
                errors.append(error)

        thread = threading.Thread(target=trouble)
        thread.start()
        with opened_store(server.url, study) as store, Processes(8) as executor:
            outcome = run(study, store, executor, progress=False)
        thread.join()
        assert not errors
        assert (outcome.made, outcome.found, outcome.failures) == (2 * count, 0, [])
        assert len(lines(log)) == len(set(lines(log))) == 2 * count  # nothing was lost, and nothing done twice
        same(server, study, tmp_path, monkeypatch)


@pytest.mark.slow
def test_dry_runs_and_rates_on_a_server(tmp_path, monkeypatch, capsys, log):
    """A dry run leaves an empty database empty, and refuses another study's; rates go by the clock of the database."""
    monkeypatch.chdir(tmp_path)
    with Server() as server:
        more = ["--store", server.url, "--out", tmp_path / "out"]
        assert said(capsys, "study", "run", "tiny", *more, "--dry-run")[0] == 0
        with contextlib.closing(Database(store_url(server.url), True)) as opened_:
            assert opened_.read(lambda connection: sa.inspect(connection).get_table_names()) == []
        assert said(capsys, "study", "run", "tiny", *more)[0] == 0
        with opened_store(server.url, tiny(), reading=True) as store:
            assert [(pace.stage, pace.done, pace.waiting) for pace in sorted(store.paces(), key=str)] == [
                ("square", 3, 0),
                ("sum", 3, 0),
            ]
        code, text = said(capsys, "study", "status", "0.1", "--watch", "--store", server.url)
        assert (code, text.splitlines()[-1]) == (0, "nothing is left to do: 6 cells are finished")
        engine = sa.create_engine(store_url(server.url))
        with engine.begin() as connection:
            connection.execute(sa.text("UPDATE store SET value = 'another' WHERE key = 'study'"))
        engine.dispose()
        code, text = said(capsys, "study", "run", "tiny", *more, "--dry-run")
        assert (code, "holds the study 'another'" in text) == (2, True), text


@pytest.mark.slow
def test_a_server_where_one_may_only_read_shows_its_store(tmp_path, monkeypatch, capsys, log):
    with Server() as server:
        with opened_store(server.url, tiny()) as store:
            run(tiny(), store, progress=False)
        engine = sa.create_engine(store_url(server.url), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for statement in ("CREATE ROLE guest LOGIN", "GRANT SELECT ON ALL TABLES IN SCHEMA public TO guest"):
                connection.execute(sa.text(statement))
        engine.dispose()
        guest = server.url.replace("postgres@", "guest@")
        code, text = said(capsys, "study", "status", "--store", guest)
        assert (code, "square: 3 finished" in text) == (0, True), text
        assert said(capsys, "study", "results", "--store", guest, "--to", tmp_path / "out")[0] == 0
        with pytest.raises(RequestError, match="can only be read here .*permission denied for.*choose another store"):
            opened(guest)


@pytest.mark.slow
def test_a_password_opens_a_server_and_is_seen_nowhere(tmp_path, monkeypatch, capsys, log):
    monkeypatch.setenv("TINY_BROKEN", "2")
    with Server() as server:
        engine = sa.create_engine(store_url(server.url), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(sa.text(f"CREATE ROLE guest LOGIN SUPERUSER PASSWORD '{SECRET}'"))
        engine.dispose()
        rules = server._folder / "data" / "pg_hba.conf"
        rules.write_text("local all guest scram-sha-256\n" + rules.read_text())
        server.stop()
        server.start()
        url = server.url.replace("postgres@", f"guest:{SECRET}@")
        monkeypatch.setattr(
            sys, "argv", ["secateur", "study", "run", "tiny", "--store", url]
        )  # for the command it keeps
        more = ["--store", url, "--out", tmp_path / "out"]
        code, text = said(capsys, "study", "run", "tiny", *more)
        assert (code, SECRET in text) == (1, False), text
        assert "secateur study retry --store 'postgresql://guest:***@/postgres?host=" in text
        for arguments, expected in ((["status"], 0), (["retry"], 1), (["results"], 0), (["run", "tiny"], 1)):
            out = more if arguments != ["status"] else more[:2]
            code, text = said(capsys, "study", *arguments, *out)
            assert (code, SECRET in text) == (expected, False), text
        code, text = said(capsys, "study", "status", "--store", url.replace(SECRET, f"{SECRET}x"))
        assert (code, SECRET in text, "password authentication failed" in text) == (2, False, True), text
        with engine.connect() as connection:
            names = [
                name
                for (name,) in connection.execute(
                    sa.text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
                )
            ]
            kept = str([connection.execute(sa.text(f"SELECT * FROM {name}")).all() for name in names])
        engine.dispose()
        assert "guest:***@" in kept
        assert SECRET not in kept
        assert not hold(tmp_path, SECRET)
