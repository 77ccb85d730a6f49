"""Searches that are killed, and that several commands do together: the winner is that of a search without trouble."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from pandas.testing import assert_frame_equal

from postgres_server import Server
from secateur.experiments import opened_store
from secateur.studies.search import SearchStudy

KILLS, TRIALS = 20, 70

SMALL = {
    "data": {"source": "mnist5k", "limit": 200},
    "model": {"name": "resnet20", "arguments": {"width": 4}, "allow_untrained": True},
    "space": {"per_class": [1], "softmax": ["attnlrp"]},
    "objective": {"rates": [0.0, 0.3, 0.6]},
    "sampler": {"kind": "tpe", "startup": 14, "together": 3},
    "trials": {"count": TRIALS},
    "search": {"limit": 40},
    "measure": {"criteria": ["weight"], "seeds": [0]},
    "measured": {"limit": 40, "per_class": 1},
    "device": "cpu",
}


def begun(folder, store):
    recipe = folder / "search.yaml"
    recipe.write_text(yaml.safe_dump({"schema_version": 1, **SMALL}))
    words = ["optimise", "--recipe", str(recipe), "--store", store, "--out", str(folder / f"out-{random.random()}")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    with (folder / "said.txt").open("ab") as said:
        return subprocess.Popen([sys.executable, "-m", "secateur", *words], env=environment, stdout=said, stderr=said)


def done(driver, folder):
    assert driver.wait() == 0, (folder / "said.txt").read_text()[-2000:]


def tables(store):
    with opened_store(store, SearchStudy) as opened:
        return opened.frames()


def finished(path):
    if not path.is_file():
        return {}
    with contextlib.closing(sqlite3.connect(path)) as database, contextlib.suppress(sqlite3.OperationalError):
        found = database.execute("SELECT identity, started, finished FROM cells WHERE state = 'finished'")
        return {name: times for name, *times in found}
    return {}


def same(first, second):
    for name, schema in SearchStudy.tables.items():
        kept = [column.name for column in schema.columns if not column.timed]
        assert_frame_equal(first[name][kept], second[name][kept], check_exact=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    pytest.importorskip("mlxtend")
    folder = tmp_path_factory.mktemp("undisturbed")
    done(begun(folder, str(folder / "cells.sqlite")), folder)
    return tables(folder / "cells.sqlite")


@pytest.mark.slow
def test_a_search_killed_again_and_again_loses_nothing(tmp_path, undisturbed):
    path, draw, before, killed = tmp_path / "cells.sqlite", random.Random(0), {}, 0
    while True:
        begin = len(finished(path)) + draw.randint(0, 1)
        driver = begun(tmp_path, str(path))
        if killed == KILLS:
            break
        while len(finished(path)) <= begin and driver.poll() is None:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.2))
        driver.send_signal(signal.SIGKILL)
        assert driver.wait() == -signal.SIGKILL, "it ended before the kill: by an error, or there are too few trials"
        killed += 1
        after = finished(path)
        assert before.items() <= after.items()  # none is lost, and none is done again
        before = after
    done(driver, tmp_path)
    same(tables(path), undisturbed)


def together(folder, store, undisturbed):
    drivers = [begun(folder, store) for _ in range(2)]
    for driver in drivers:
        done(driver, folder)
    same(tables(store), undisturbed)


@pytest.mark.slow
def test_two_searches_share_a_sqlite_file(tmp_path, undisturbed):
    path = tmp_path / "cells.sqlite"
    together(tmp_path, str(path), undisturbed)
    with contextlib.closing(sqlite3.connect(path)) as database:
        seconds = pd.read_sql("SELECT started, finished FROM cells ORDER BY started", database)
    assert (seconds["started"].shift(-1) < seconds["finished"]).any()  # both have worked


@pytest.mark.slow
def test_two_searches_share_a_postgresql_server(tmp_path, undisturbed, monkeypatch):
    pytest.importorskip("psycopg")
    monkeypatch.chdir(tmp_path)
    with Server() as server:
        together(tmp_path, server.url, undisturbed)
