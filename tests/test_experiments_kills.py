"""Runs that are killed, and databases that go away in the middle: nothing that was finished is lost or done again."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from pandas.testing import assert_frame_equal

from postgres_server import Server
from secateur.core.errors import RequestError, SecateurError
from secateur.experiments import Result, Store, opened_store, run
from tiny_study import SquareCell, TinySettings, TinyStudy

KILLS = 30
IN_FLIGHT = 4
"""Cells that two processes have at most, worked on or waiting to be written."""

DRIVER = """
import sys, tiny_study
from secateur.experiments import Processes, opened_store, run

if __name__ == "__main__":
    study = tiny_study.tiny(*range(int(sys.argv[2])))
    with opened_store(sys.argv[1], study) as store, Processes(2) as executor:
        run(study, store, executor, progress=False)
"""


@pytest.fixture
def log(tmp_path, monkeypatch):
    path = tmp_path / "log.txt"
    path.touch()
    monkeypatch.setenv("TINY_LOG", str(path))
    return path


def lines(path):
    return path.read_text().count("\n")


def finished(path):
    """When each finished cell was finished."""
    if not path.is_file():
        return {}
    with contextlib.closing(sqlite3.connect(path)) as database:
        found = database.execute("SELECT identity, started, finished FROM cells WHERE state = 'finished'")
        return {name: times for name, *times in found}


def whole(study, tmp_path, monkeypatch):
    """The tables of a run without trouble."""
    with monkeypatch.context() as patch:
        patch.delenv("TINY_LOG", raising=False)
        patch.delenv("TINY_SECONDS", raising=False)
        with opened_store(tmp_path / "whole.sqlite", study) as store:
            run(study, store)
            return store.frames()


def same(first, second):
    assert first.keys() == second.keys()
    for name, frame in first.items():
        assert_frame_equal(frame, second[name], check_exact=True)


@pytest.mark.slow
def test_kills_lose_nothing_that_was_finished(tmp_path, monkeypatch, log):
    count, path, script = 150, tmp_path / "cells.sqlite", tmp_path / "driver.py"
    script.write_text(DRIVER)
    study = TinyStudy(TinySettings(grid={"numbers": range(count)}))
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "TINY_SECONDS": "0.04",
        "OMP_NUM_THREADS": "1",
    }
    draw, before, killed = random.Random(0), {}, 0
    while True:
        begun = lines(log)
        driver = subprocess.Popen([sys.executable, str(script), str(path), str(count)], env=environment)
        if killed == KILLS:
            assert driver.wait() == 0
            break
        while lines(log) == begun and driver.poll() is None:  # points are spread over the work, not the imports
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.25))
        driver.send_signal(signal.SIGKILL)
        assert driver.wait() == -signal.SIGKILL, "it ended before the kill: by an error, or the grid is too small"
        killed += 1
        after = finished(path)
        assert before.items() <= after.items()  # none is lost, and none is written anew
        before = after
    with opened_store(path, study) as store:
        assert store.status().total("finished") == 2 * count
        same(store.frames(), whole(study, tmp_path, monkeypatch))
    assert before.items() <= finished(path).items()
    assert 2 * count <= lines(log) <= 2 * count + KILLS * IN_FLIGHT


@pytest.mark.slow
def test_a_server_that_goes_away_costs_time_alone(tmp_path, monkeypatch, log):
    pytest.importorskip("psycopg")
    monkeypatch.setenv("TINY_SECONDS", "0.02")
    monkeypatch.chdir(tmp_path)
    study = TinyStudy(TinySettings(grid={"numbers": range(60)}))
    with Server() as server:
        errors = []

        def trouble():
            try:
                for at, mode in ((20, "fast"), (50, "immediate"), (80, "fast")):
                    while lines(log) < at:
                        time.sleep(0.01)
                    server.stop(mode)
                    time.sleep(0.5)
                    server.start()
            except Exception as error:  # noqa: BLE001 - shown by the test's thread
                errors.append(error)

        thread = threading.Thread(target=trouble)
        thread.start()
        with opened_store(server.url, study) as store:
            outcome = run(study, store)
            thread.join()
            assert not errors
            assert (outcome.made, outcome.failures) == (120, [])
            assert lines(log) == 120  # nothing was done twice
            same(store.frames(), whole(study, tmp_path, monkeypatch))
        with opened_store(server.url, study) as store:
            assert run(study, store).found == 120


@pytest.mark.slow
def test_a_store_on_a_server_is_like_one_in_a_file(tmp_path, monkeypatch):
    pytest.importorskip("psycopg")
    monkeypatch.chdir(tmp_path)
    cells = [("abc", SquareCell(number=1)), ("def", SquareCell(number=2))]
    with Server() as server:
        errors = []

        def opened():
            try:
                with Store(server.url, "tiny", 1, TinyStudy.tables) as store:
                    store.start(cells, {})
            except SecateurError as error:
                errors.append(error)

        threads = [threading.Thread(target=opened) for _ in range(6)]  # of which one makes the tables
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        with Store(server.url, "tiny", 1, TinyStudy.tables) as store:
            row = {"number": 2**40, "square": float("inf")}
            store.finish("abc", Result({"squares": [row]}, {"a.txt": b"1"}), 0.0, 1.0)
            assert store.start(cells, {}) == {"def"}
            assert store.frames()["squares"].to_dict("records") == [row]
        monkeypatch.chdir(tmp_path.parent)
        with Store(server.url, "tiny", 1, TinyStudy.tables) as store:
            assert store.artefact("abc", "a.txt") == b"1"  # found from another folder, too
        with pytest.raises(RequestError, match="holds the study 'tiny', not 'other'"):
            Store(server.url, "other", 1, TinyStudy.tables)
        begin = time.monotonic()
        with pytest.raises(RequestError, match='cannot be opened .*database "none" does not exist.*check its URL'):
            Store(server.url.replace("/postgres?", "/none?"), "tiny", 1, TinyStudy.tables)
        assert time.monotonic() - begin < 2  # no use waiting for that
    with pytest.raises(SecateurError, match="see that the database runs") as raised:
        Store(server.url, "tiny", 1, TinyStudy.tables)
    assert "\n" not in str(raised.value)
