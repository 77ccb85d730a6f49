"""Watching a study: how fast its cells get done, on a terminal and in lines, by reading alone."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import sys
import time

import pytest
from rich.console import Console

from secateur.cli.main import run as command
from secateur.cli.study_status import Look, display
from secateur.experiments import Result, opened_cells, opened_store
from secateur.experiments.running import identities
from secateur.experiments.status import Pace
from tiny_study import tiny

STUDY = tiny(*range(8))


@pytest.fixture
def store(tmp_path):
    with opened_store(tmp_path / "cells.sqlite", STUDY) as opened:
        yield opened


def begun(store, ago):
    """Note the cells of a run that began so many seconds ago; identities of the squares."""
    cells = list(identities(STUDY, None).items())
    store.start(cells, STUDY.settings.model_dump(mode="json"), "secateur study run tiny")
    moved = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() - ago))
    with contextlib.closing(sqlite3.connect(store.file)) as database, database:
        database.execute("UPDATE runs SET started = ?", (moved,))
    return [name for name, cell in cells if cell.stage == "square"]


def done(store, name, ago, error=""):
    """Finish a cell so many seconds ago, or let it fail."""
    if error:
        store.fail(name, error, time.time() - ago - 1, 1.0)
    else:
        store.finish(name, Result({}), time.time() - ago - 1, 1.0)


def test_the_pace_is_that_of_the_last_minutes_of_the_last_run(store):
    names = begun(store, 1000)
    assert store.paces() == []
    for name, ago in zip(names, (900, 290, 200, 100), strict=False):
        done(store, name, ago)
    (pace,) = store.paces()
    assert (pace.stage, pace.done, pace.seconds, pace.waiting) == ("square", 3, pytest.approx(300), 4)
    assert pace.per_minute == pytest.approx(0.6)
    assert pace.remaining == pytest.approx(400)
    done(store, names[4], 10, "broken")
    assert store.paces()[0].done == 4, "those that failed took their time, too"
    assert store.paces(150.0)[0] == Pace("square", 2, 150.0, 3)
    assert store.paces(150.0)[0].remaining is None, "two cells are no rate"
    begun(store, 50)
    (pace,) = store.paces()
    assert (pace.done, pace.seconds) == (1, pytest.approx(50, abs=2)), "what was done before the run is not its pace"


def test_the_display_says_how_far_each_stage_is_and_who_works(store, monkeypatch):
    names = begun(store, 100)
    for name in names[:4]:
        done(store, name, 20)
    done(store, names[4], 20, "[red] is no markup")
    store.leases.take(names[5:6], "somebody", 60.0)
    console = Console(width=200, record=True, file=sys.stderr)
    console.print(display(Look(store)))
    first, square, sums, *rest = console.export_text().splitlines()
    assert first.startswith("study 'tiny', last run started")
    assert re.search(
        r" 4 of 8 \(1 failed, 3 waiting\) (3|2\.9\d?) cells per minute \(5 done in the last 10[0-2] s\)", square
    )
    assert re.search(r"about 6\d s for the 3 that wait", square)
    assert " 0 of 8 (8 waiting)" in sums
    assert "per minute" not in sums, "nothing is claimed without data"
    assert any("worked on by" in line and "number=5" in line for line in rest)
    assert any("[red] is no markup" in line for line in rest)


def watched(folder, capsys, *more):
    code = command(["study", "status", "--out", str(folder), "--watch", *more])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


@pytest.mark.parametrize("terminal", [False, True])
def test_watching_ends_when_the_study_is_done(store, tmp_path, monkeypatch, capsys, terminal):
    names = begun(store, 100)
    rest = [name for name, cell in identities(STUDY, None).items() if cell.stage == "sum"]
    looks, steps = [], [names[:3], names[3:], rest, []]

    def sleep(seconds):
        looks.append(seconds)
        for name in steps[len(looks) - 1]:
            done(store, name, 0)

    monkeypatch.setattr("secateur.cli.study_status.time.sleep", sleep)
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    code, text, error = watched(tmp_path, capsys, "0.5")
    assert (code, looks) == (0, [0.5] * 4), error
    assert text.splitlines()[-1].endswith("nothing is left to do: 16 cells are finished")
    if not terminal:
        assert "for the 5 that wait" in text
        counts = [line.partition(";")[0] for line in text.splitlines() if line.startswith("square: ")]
        numbers = ["8 waiting", "3 finished, 5 waiting", "8 finished", "8 finished"]
        assert counts == [f"square: {each}" for each in numbers], "the last look says what the one before said"
        assert "\x1b" not in text


def test_watching_only_reads(store, tmp_path, monkeypatch, capsys):
    begun(store, 10)
    store.close()
    statements = []
    connect = sqlite3.connect

    def watching(*arguments, **options):
        connection = connect(*arguments, **options)
        connection.set_trace_callback(statements.append)
        return connection

    monkeypatch.setattr("sqlite3.connect", watching)
    monkeypatch.setattr("secateur.cli.study_status.time.sleep", interrupted)
    assert watched(tmp_path, capsys)[0] == 130
    assert {each.split()[0].upper() for each in statements} <= {"BEGIN", "SELECT", "PRAGMA", "ROLLBACK", "COMMIT"}
    assert any(each.startswith("SELECT") for each in statements)


def interrupted(seconds):
    raise KeyboardInterrupt


def test_watching_ends_by_an_interruption(store, tmp_path, monkeypatch, capsys):
    begun(store, 10)
    monkeypatch.setattr("secateur.cli.study_status.time.sleep", interrupted)
    code, text, error = watched(tmp_path, capsys)
    assert (code, "square: 8 waiting" in text) == (130, True)
    assert error.splitlines()[-1] == "secateur: interrupted; the runs of the study go on"


def test_seconds_are_for_watching(store, tmp_path, capsys):
    begun(store, 10)
    assert command(["study", "status", "5", "--out", str(tmp_path)]) == 2
    assert "5 seconds are for --watch" in capsys.readouterr().err
    assert command(["study", "status", "0", "--watch", "--out", str(tmp_path)]) == 2
    assert command(["study", "status", "--watch", "--out", str(tmp_path / "none")]) == 2
    assert "there is no store" in capsys.readouterr().err
    with opened_cells(tmp_path / "cells.sqlite") as opened:
        assert not Look(opened).at_rest
