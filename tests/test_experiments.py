"""What all studies share: cells and their identities, tables, stores, executors, and the commands on studies."""

from __future__ import annotations

import contextlib
import json
import pickle
import re
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny_study
from secateur.cli.main import run as command
from secateur.core.errors import RequestError, SecateurError, TimeLimitError
from secateur.experiments import (
    Cell,
    Column,
    Effect,
    Here,
    Processes,
    Resource,
    Resources,
    Result,
    Schema,
    Section,
    Store,
    StudySettings,
    canonical,
    check_study,
    fingerprint,
    identities,
    identity,
    known_studies,
    leases,
    opened_store,
    register_study,
    run,
    stored_study,
    study_class,
    study_of,
)
from secateur.experiments.executors import Job, limited
from secateur.experiments.running import _Work
from tiny_study import Grid, SquareCell, SumCell, TinySettings, TinyStudy, tiny

SQUARES = [1.0, 4.0, 9.0]


@pytest.fixture(autouse=True)
def _healthy(monkeypatch):
    for name in ("TINY_BROKEN", "TINY_DEADLY", "TINY_SECONDS", "TINY_LOG"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def log(tmp_path, monkeypatch):
    """What is worked on, line by line."""
    path = tmp_path / "log.txt"
    path.touch()
    monkeypatch.setenv("TINY_LOG", str(path))
    return lambda: path.read_text().splitlines()


def worked(study, path, executor=None):
    """Run a study; the outcome and its frames."""
    with opened_store(path, study) as store:
        return run(study, store, executor), store.frames()


class Leaving(TinyStudy):
    """One of its cells calls `sys.exit`."""

    def work(self, cell, resources, earlier):
        if cell == SquareCell(number=2):
            sys.exit(0)
        return super().work(cell, resources, earlier)


# cells


class Point(Cell):
    name: str
    seed: int
    share: float
    flags: tuple[bool, ...]


POINTS = st.builds(
    Point,
    name=st.text(max_size=5),
    seed=st.integers(),
    share=st.floats(allow_nan=False, allow_infinity=False).map(lambda value: value + 0.0),
    flags=st.lists(st.booleans(), max_size=3).map(tuple),
)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def named(point, settings=None, inputs=None, study="s", version=1):
    return identity(study, version, point, settings or {}, inputs or {})


@given(POINTS, st.dictionaries(st.text(max_size=3), PLAIN, max_size=4))
def test_equal_settings_give_equal_identities(point, settings):
    again = Point.model_validate_json(point.model_dump_json())
    backwards = dict(reversed(settings.items()))
    assert named(point, settings) == named(again, backwards)
    assert json.loads(canonical(settings)) == settings


@given(POINTS, POINTS)
def test_identities_differ_where_a_coordinate_does(one, other):
    assert (named(one) == named(other)) == (one == other)


@given(POINTS, st.integers(), st.text(max_size=3))
def test_every_part_of_an_identity_counts(point, number, text):
    usual = named(point, {"grid": number}, {"weights": text})
    assert len(usual) == 64
    assert usual not in {
        named(point, {"grid": number + 1}, {"weights": text}),
        named(point, {"grid2": number}, {"weights": text}),
        named(point, {"grid": number}, {"weights": text + "0"}),
        named(point, {"grid": number}, {"weights": text}, study="t"),
        named(point, {"grid": number}, {"weights": text}, version=2),
    }


def test_stages_with_the_same_coordinates_have_identities_of_their_own():
    class Later(Point):
        stage: ClassVar[str] = "later"

    values = {"name": "a", "seed": 0, "share": 0.5, "flags": ()}
    assert named(Point(**values)) != named(Later(**values))


def test_numbers_that_json_lacks_are_refused():
    with pytest.raises(RequestError, match="NaN or infinite .*give a number"):
        named(Point(name="a", seed=0, share=float("nan"), flags=()))


@given(st.lists(st.text(max_size=3), max_size=3), st.lists(st.text(max_size=3), max_size=3))
def test_fingerprints_tell_parts_from_their_neighbours(one, other):
    assert (fingerprint(*one) == fingerprint(*other)) == (one == other)


# tables

EVERY = Schema(
    (
        Column("text", str, "a text"),
        Column("number", int, "an integer"),
        Column("share", float, "a float", optional=True),
        Column("flag", bool, "a truth value", optional=True),
        Column("data", bytes, "bytes", optional=True),
    )
)


def test_rows_become_plain_values():
    row = EVERY.check({"text": "a", "number": np.int32(3), "share": torch.tensor(0.5), "flag": np.bool_(True)})
    assert row == {"text": "a", "number": 3, "share": 0.5, "flag": True, "data": None}
    assert [type(value) for value in row.values()] == [str, int, float, bool, type(None)]
    assert EVERY.check({"text": "a", "number": 1, "share": 2})["share"] == 2.0
    assert EVERY.check({"text": "a", "number": 1, "share": float("nan")})["share"] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"other": 1}, "a column 'other'"),
        ({"text": None}, "lacks 'text'"),
        ({"number": 1.5}, "'number' takes int, got 1.5"),
        ({"number": True}, "'number' takes int, got True"),
        ({"number": 2**63}, "64 bits"),
        ({"share": "0.5"}, "'share' takes float"),
        ({"text": "a\x00b"}, "'text' takes text"),
        ({"text": "\ud800"}, "'text' takes text"),
    ],
)
def test_rows_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(SecateurError, match=message):
        EVERY.check({"text": "a", "number": 1} | changes)


def test_a_missing_number_is_refused_where_a_column_must_have_one():
    with pytest.raises(SecateurError, match="'loss' takes a number, got NaN"):
        Schema((Column("loss", float, "of the network"),)).check({"loss": float("nan")})


def test_frames_have_the_declared_types():
    frame = EVERY.frame([["a", 1, None, True, b"x"], ["b", 2, 0.5, None, None]])
    assert list(frame.dtypes.astype(str)) == ["object", "int64", "float64", "boolean", "object"]
    assert EVERY.frame([]).columns.tolist() == list(EVERY.names)
    assert EVERY.markdown().count("\n") == 6


# settings


def test_settings_say_what_they_change():
    with pytest.raises(TypeError, match=r"Silent\.seeds has no effect; annotate it"):

        class Silent(StudySettings):
            seeds: tuple[int, ...] = (0,)

    class Inner(Section):
        seeds: tuple[int, ...] = (0,)

    with pytest.raises(TypeError, match=r"Half\.other has no effect"):

        class Half(StudySettings):
            grid: Annotated[Inner, Effect.CELLS] = Inner()
            other: int = 0


# resources


def test_resources_are_made_once_and_kept_up_to_their_limit():
    made = []

    @dataclass(frozen=True)
    class Two(Resource[int]):
        limit: ClassVar[int] = 2
        number: int

        def make(self, resources):
            made.append(self.number)
            return self.number

    resources = Resources()
    for number in (1, 2, 1, 3, 1, 2):  # 3 takes the place of 2, which was not used for longest
        assert resources.get(Two(number)) == number
    assert made == [1, 2, 3, 2]


# running


def test_a_run_works_out_what_is_missing(tmp_path, log):
    outcome, frames = worked(tiny(), tmp_path / "cells.sqlite")
    assert (outcome.made, outcome.found, outcome.failures) == (6, 0, [])
    assert frames["squares"]["square"].tolist() == SQUARES
    assert frames["sums"]["total"].tolist() == [1.0, 5.0, 14.0]
    outcome, _ = worked(tiny(1, 2, 3, 4), tmp_path / "cells.sqlite")
    assert (outcome.made, outcome.found) == (2, 6)
    assert len(log()) == 8
    _, frames = worked(tiny(2), tmp_path / "cells.sqlite")  # what others asked for stays, and is not in the table
    assert frames["squares"]["number"].tolist() == [2]
    assert len(log()) == 8 + 1  # the same coordinates, but another sum up to 2: of this run's numbers
    assert frames["sums"]["total"].tolist() == [4.0]


def test_a_changed_setting_is_another_result(tmp_path, log):
    worked(tiny(), tmp_path / "cells.sqlite")
    _, frames = worked(tiny(exponent=3.0), tmp_path / "cells.sqlite")
    assert frames["squares"]["square"].tolist() == [1.0, 8.0, 27.0]
    assert len(log()) == 12
    worked(tiny(), tmp_path / "cells.sqlite")
    assert len(log()) == 12


def test_a_failed_cell_is_kept_with_its_reason_and_blocks_what_needs_it_alone(tmp_path, monkeypatch, log):
    monkeypatch.setenv("TINY_BROKEN", "2")
    study = tiny()
    with opened_store(tmp_path / "cells.sqlite", study) as store:
        outcome = run(study, store)
        assert outcome.made == 3
        assert [(each.cell, each.error) for each in outcome.failures] == [
            ("number=2", "ArithmeticError: 2 is broken"),
            ("up_to=2", "it needs the result of (number=2), which is not finished"),
            ("up_to=3", "it needs the result of (number=2), which is not finished"),
        ]
        assert store.status().counts == {"square": {"finished": 2, "failed": 1}, "sum": {"finished": 1, "failed": 2}}
        with pytest.raises(SecateurError, match=r"3 of 6 cells failed, the first \(number=2\).* study retry .*--cell"):
            outcome.raise_failures(store)
        monkeypatch.delenv("TINY_BROKEN")
        begun = len(log())
        outcome = run(study, store, only=[outcome.failures[0].identity[:12]])
        assert (outcome.made, len(log()) - begun) == (1, 1)
        assert run(study, store).made == 2
        assert store.frames()["sums"]["total"].tolist() == [1.0, 5.0, 14.0]
        with pytest.raises(RequestError, match="cell 'ffff' is none of this run's"):
            run(study, store, only=["ffff"])


def test_rows_that_do_not_fit_fail_their_cell_and_no_other(tmp_path, monkeypatch):
    def work(self, cell, resources, earlier):
        rows = [{"number": cell.number, "square": "many" if cell.number == 2 else 1.0}]
        return Result({"cubes" if cell.number == 3 else "squares": rows})

    monkeypatch.setattr(TinyStudy, "work", work)
    study = TinyStudy(TinySettings(grid={"sums": False}))
    outcome, frames = worked(study, tmp_path / "cells.sqlite")
    assert [each.error for each in outcome.failures] == [
        "column 'square' takes float, got 'many'",
        "the work gave rows of a table 'cubes'; known: squares, sums",
    ]
    assert frames["squares"]["number"].tolist() == [1]


@pytest.mark.parametrize("executor", [Here(), pytest.param(Processes(1), marks=pytest.mark.slow)])
def test_work_that_ends_its_process_in_python_fails_its_cell_and_no_other(executor, tmp_path):
    with executor if isinstance(executor, Processes) else contextlib.nullcontext():
        outcome, frames = worked(Leaving(TinySettings()), tmp_path / "cells.sqlite", executor)
    assert (outcome.failures[0].cell, outcome.failures[0].error) == ("number=2", "SystemExit: 0")
    assert frames["squares"]["number"].tolist() == [1, 3]


NO_NAMES = ("..", "", "a\x00", "\ud800", "b/a.txt")


@pytest.mark.parametrize(
    ("artefacts", "message"),
    [
        ({"a.txt": "text"}, "the work gave a file 'a.txt' as str; give bytes"),
        *(({name: b""}, "the work gave a file '.*'; give a name without a folder") for name in NO_NAMES),
    ],
)
def test_files_that_cannot_be_kept_fail_their_cell_and_no_other(artefacts, message, tmp_path, monkeypatch):
    def work(study, cell, resources, earlier):
        return Result({}, artefacts if cell == SquareCell(number=2) else {"a.txt": b""})

    monkeypatch.setattr(TinyStudy, "work", work)
    study = TinyStudy(TinySettings(grid=Grid(sums=False)))
    outcome, _ = worked(study, tmp_path / "cells.sqlite", Here())
    (failure,) = outcome.failures
    assert outcome.made == 2
    assert failure.cell == "number=2"
    assert re.match(message, failure.error)


def test_a_run_tells_its_own_failures_and_tables_when_another_has_begun_since(tmp_path, monkeypatch):
    path = tmp_path / "cells.sqlite"
    monkeypatch.setenv("TINY_BROKEN", "3")

    class Later(Here):
        def work(self, study, jobs):
            with opened_store(path, tiny(2, 7)) as other:  # it asks for a cell of the first one, and for another
                run(tiny(2, 7), other, Here())
            return super().work(study, jobs)

    with opened_store(path, tiny(3, 2, 1)) as store:
        outcome = run(tiny(3, 2, 1), store, Later())
        assert outcome.failures[0].cell == "number=3"
        assert outcome.made == 4, "the squares of 2 and 1, and the sums up to them"
        assert store.frames()["squares"]["number"].tolist() == [2, 1]
        assert store.failures() == outcome.failures
    with opened_store(path, tiny(2, 7)) as store:
        assert store.frames()["squares"]["number"].tolist() == [2, 7]


def test_a_finished_cell_that_is_named_is_worked_on_again(tmp_path, log):
    path = tmp_path / "cells.sqlite"
    worked(tiny(), path)
    (lost,) = {file.parent.name for file in path.with_suffix(".files").rglob("square.txt") if file.read_text() == "4.0"}
    kept = path.with_suffix(".files") / lost[:2] / lost / "square.txt"
    kept.unlink()
    with opened_store(path, tiny()) as store:
        with pytest.raises(SecateurError, match=f"cannot be read .* run cell {lost[:12]} again"):
            store.artefact(lost, "square.txt")
        assert run(tiny(), store, only=[lost[:12]]).made == 1
        assert store.artefact(lost, "square.txt") == b"4.0"
        assert store.frames()["squares"]["square"].tolist() == SQUARES
    assert log().count("square 2") == 2
    assert log().count("square 1") == 1


def test_two_cells_of_one_identity_are_refused(tmp_path):
    with pytest.raises(RequestError, match="two cells with the same identity: number=1; leave one out"):
        worked(tiny(1, 1), tmp_path / "cells.sqlite")


def test_an_interruption_keeps_what_is_finished(tmp_path, monkeypatch):
    class Interrupted(Here):
        def work(self, study, jobs):
            yield next(super().work(study, jobs))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as raised:
        worked(tiny(), tmp_path / "cells.sqlite", Interrupted())
    assert raised.value.__notes__[0].startswith("1 of 6 cells are finished and kept in")
    outcome, _ = worked(tiny(), tmp_path / "cells.sqlite")
    assert (outcome.made, outcome.found) == (5, 1)


def test_processes_give_the_same_and_outlive_one_study(tmp_path):
    with Processes(2) as executor:
        _, frames = worked(tiny(), tmp_path / "cells.sqlite", executor)
        assert frames["squares"]["square"].tolist() == SQUARES
        _, frames = worked(tiny(exponent=3.0), tmp_path / "cells.sqlite", executor)
        assert frames["squares"]["square"].tolist() == [1.0, 8.0, 27.0]


def test_needs_that_no_earlier_stage_meets_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(TinyStudy, "needs", lambda self, cell: [SquareCell(number=99)])
    with pytest.raises(
        RequestError, match=r"cell \(number=1\) of study 'tiny' needs \(number=99\), which is not before it"
    ):
        worked(tiny(), tmp_path / "cells.sqlite")


@pytest.mark.slow
def test_a_process_that_dies_is_one_line_and_loses_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setenv("TINY_DEADLY", "8")
    numbers = range(1, 9)
    with pytest.raises(SecateurError, match="a worker process ended before its work did"), Processes(2) as executor:
        worked(tiny(*numbers), tmp_path / "deadly.sqlite", executor)
    monkeypatch.delenv("TINY_DEADLY")
    outcome, frames = worked(tiny(*numbers), tmp_path / "deadly.sqlite")
    assert outcome.found > 0
    assert frames["squares"]["square"].tolist() == [float(n**2) for n in numbers]


def test_studies_that_cannot_be_sent_are_refused(tmp_path):
    study = tiny()
    study.helper = lambda: None
    with pytest.raises(RequestError, match="'tiny' cannot be sent to processes .*use one process"), Processes(2) as two:
        worked(study, tmp_path / "cells.sqlite", two)


def test_check_study_accepts_a_good_one(tmp_path):
    check_study(tiny(), tmp_path, processes=1, wrong={"grid.numbers": (-1,)})


@pytest.mark.parametrize(
    ("method", "broken", "message"),
    [
        ("sections", lambda self, stage: {}, r"power\.exponent \(RESULTS\) can change without changing the identity"),
        ("check", lambda self: None, r"takes grid\.numbers=\(-1,\) without a word"),
        ("sections", lambda self, stage: self.settings.model_dump(), "execution.processes is declared PRESENTATION"),
        ("findings", lambda self, tables: ["squares grow"], "is no Finding"),
        ("write", lambda self, tables, folder: {"figure": folder / "none.svg"}, "wrote no figure"),
    ],
)
def test_check_study_says_what_is_wrong(method, broken, message, tmp_path, monkeypatch):
    monkeypatch.setattr(TinyStudy, method, broken)
    with pytest.raises(AssertionError, match=message):
        check_study(tiny(), tmp_path, processes=1, wrong={"grid.numbers": (-1,)})


def test_check_study_sees_results_that_depend_on_the_order(tmp_path, monkeypatch):
    count = iter(range(100))
    whole = TinyStudy.work

    def work(self, cell, resources, earlier):
        found = whole(self, cell, resources, earlier)
        return (
            Result({"squares": [{"number": cell.number, "square": float(next(count))}]})
            if "squares" in found.rows
            else found
        )

    monkeypatch.setattr(TinyStudy, "work", work)
    with pytest.raises(AssertionError, match="table 'squares' of a run that was interrupted and resumed differs"):
        check_study(tiny(), tmp_path, processes=1)


# the store


def small(path, study="tiny", version=1, tables=TinyStudy.tables, files=None):
    return Store(path, study, version, tables, files)


CELL = SquareCell(number=1)
ROWS = Result({"squares": [{"number": 1, "square": 1.0}]}, {"square.txt": b"1.0"})


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"study": "other"}, "holds the study 'tiny', not 'other'"),
        ({"version": 2}, "written by version 1 of the study 'tiny', this is 2"),
        ({"tables": {"squares": EVERY}}, None),
    ],
)
def test_stores_of_something_else_are_refused(tmp_path, asked, message):
    path = tmp_path / "cells.sqlite"
    small(path).close()
    if message:
        with pytest.raises(RequestError, match=message):
            small(path, **asked)
    else:  # the same version, but other columns: seen when they are read
        with small(path, **asked) as store, pytest.raises(RequestError, match="has other columns"):
            store.frames()


def test_a_store_of_another_format_is_refused(tmp_path):
    path = tmp_path / "cells.sqlite"
    small(path).close()
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE store SET value = '99' WHERE key = 'format'")
    with pytest.raises(RequestError, match=r"a newer version \(format 99, this secateur has 2\); install"):
        small(path)


def test_what_is_no_store_is_refused_and_left_alone(tmp_path):
    text, foreign = tmp_path / "notes.txt", tmp_path / "foreign.sqlite"
    text.write_text("not a database, but long enough to be taken for one " * 50)
    with contextlib.closing(sqlite3.connect(foreign)) as database, database:
        database.execute("CREATE TABLE people (name TEXT)")
    before = {path: path.read_bytes() for path in (text, foreign)}
    for path, message in (
        (text, "is not a SQLite file"),
        (foreign, "is a database, but no store"),
        (tmp_path, "a folder"),
    ):
        with pytest.raises(RequestError, match=message):
            small(path)
    with pytest.raises(RequestError, match="is not a SQLite file"):
        study_of(text)
    with pytest.raises(RequestError, match="there is no store"):
        study_of(tmp_path / "none.sqlite")
    with pytest.raises(RequestError, match="cannot write to folder"):
        small(text / "cells.sqlite")
    with pytest.raises(RequestError, match="cannot be on mysql"):
        small("mysql://me@here/data")
    assert {path: path.read_bytes() for path in before} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["foreign.sqlite", "notes.txt"]


def test_artefacts_are_found_again_and_damage_is_seen(tmp_path):
    with small(tmp_path / "cells.sqlite") as store:
        store.start([("abc", CELL)], {})
        store.finish("abc", ROWS, 0.0, 1.0)
        assert store.artefact("abc", "square.txt") == b"1.0"
    (tmp_path / "moved").mkdir()
    for name in ("cells.sqlite", "cells.files"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    with small(tmp_path / "moved" / "cells.sqlite") as store:
        assert store.artefact("abc", "square.txt") == b"1.0"
        (path,) = (tmp_path / "moved" / "cells.files").rglob("square.txt")
        path.write_bytes(b"2.0")
        with pytest.raises(SecateurError, match="is not what was written; delete it and run cell abc again"):
            store.artefact("abc", "square.txt")
        path.unlink()
        with pytest.raises(SecateurError, match="cannot be read"):
            store.artefact("abc", "square.txt")
        with pytest.raises(SecateurError, match="has no file 'cube.txt' of cell abc"):
            store.artefact("abc", "cube.txt")


def test_later_cells_are_given_the_files_of_those_that_they_need(tmp_path):
    with small(tmp_path / "cells.sqlite") as store:
        store.start([("abc", CELL)], {})
        store.finish("abc", ROWS, 0.0, 1.0)
        found = pickle.loads(pickle.dumps(store.results(["abc"])["abc"]))  # as it comes to another process
        assert dict(found.artefacts) == {"square.txt": b"1.0"}
        assert found.rows["squares"] == ROWS.rows["squares"]
        (path,) = (tmp_path / "cells.files").rglob("square.txt")
        path.write_bytes(b"2.0")
        with pytest.raises(SecateurError, match="is not what was written"):
            found.artefacts["square.txt"]


def test_artefacts_lie_where_they_are_wanted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for location in ("sqlite://", tmp_path / "cells.sqlite"):
        with small(location, files="shared") as store:
            store.start([("abc", CELL)], {})
            store.finish("abc", ROWS, 0.0, 1.0)
            assert store.artefact("abc", "square.txt") == b"1.0"
    with small("sqlite://") as store:  # in memory: nothing stays
        store.start([("abc", CELL)], {})
        store.finish("abc", ROWS, 0.0, 1.0)
        assert store.artefact("abc", "square.txt") == b"1.0"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells.sqlite", "shared"]


def test_a_finished_cell_stays_finished_and_is_replaced_as_a_whole(tmp_path):
    with small(tmp_path / "cells.sqlite") as store:
        assert store.start([("abc", CELL)], {}) == {"abc"}
        store.finish("abc", Result({"squares": [{"number": 1, "square": 1.0}] * 3}), 0.0, 1.0)
        store.finish("abc", ROWS, 0.0, 1.0)
        store.fail("abc", "another run was slower", 0.0, 1.0)
        assert store.start([("abc", CELL)], {}) == set()
        assert len(store.frames()["squares"]) == 1
        with pytest.raises(SecateurError, match="does not know cell xyz"):
            store.finish("xyz", ROWS, 0.0, 1.0)
        assert store.results(["abc", "xyz"]).keys() == {"abc"}


def test_two_runs_on_one_store_at_once_lose_nothing(tmp_path):
    path, errors = tmp_path / "cells.sqlite", []
    studies = [tiny(*range(10)), tiny(*range(5, 15))]

    def work(study):
        try:
            worked(study, path)
        except BaseException as error:  # noqa: BLE001 - shown by the test's thread
            errors.append(error)

    threads = [threading.Thread(target=work, args=(study,)) for study in studies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    outcome, frames = worked(TinyStudy(TinySettings(grid={"numbers": range(12), "sums": False})), path)
    assert outcome.made == 0
    assert frames["squares"]["square"].tolist() == [float(n**2) for n in range(12)]


def test_settings_of_the_last_run_are_kept(tmp_path):
    study = tiny(4, 5, exponent=3.0)
    with opened_store(tmp_path / "cells.sqlite", study) as store:
        with pytest.raises(RequestError, match="holds no run"):
            store.settings()
        run(study, store, command="secateur study run tiny")
        assert stored_study(store, TinyStudy).settings == study.settings
        assert store.status().command == "secateur study run tiny"
        assert store.status().started <= store.status().finished_at
    with contextlib.closing(sqlite3.connect(tmp_path / "cells.sqlite")) as database, database:
        database.execute("""UPDATE runs SET settings = '{"grid": {"digits": [1]}}'""")
    message = pytest.raises(RequestError, match=r"another version of secateur: .*grid\.digits")
    with opened_store(tmp_path / "cells.sqlite", study) as store, message:
        stored_study(store, TinyStudy)


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path):
    """The size of files is limited, which databases report as a full disk."""
    study, path = tiny(*range(300)), tmp_path / "cells.sqlite"
    worked(tiny(0, 1), path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))
    try:
        with pytest.raises(
            SecateurError, match="cannot read or write .*what it holds is whole, .* cells are finished: free space"
        ) as raised:
            worked(study, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(raised.value)
    outcome, frames = worked(study, path)
    assert outcome.found >= 3
    assert frames["squares"]["square"].tolist() == [float(n**2) for n in range(300)]


# the registry and the commands


def test_studies_are_known_by_name():
    assert "tiny" in known_studies()
    assert study_class("tiny") is TinyStudy
    with pytest.raises(RequestError, match="unknown study 'tinny'.*'tiny'"):
        study_class("tinny")
    with pytest.raises(RequestError, match="tiny"):
        register_study(type("Again", (TinyStudy,), {}))


def said(capsys, *arguments):
    """Exit code, output and errors of a command."""
    code = command(["study", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err.splitlines()[-1] if err else ""


def test_cells_that_took_too_long_are_repeated_with_more_time(tmp_path, monkeypatch, capsys, log):
    out, limit = tmp_path / "out", "execution.time_limit"
    monkeypatch.setenv("TINY_SECONDS", "0.4")
    code, _, error = said(capsys, "run", "tiny", "--out", out, "--set", "grid.numbers=[3]", "--set", f"{limit}=0.1")
    assert (code, "2 of 2 cells failed, the first (number=3): it took longer than" in error) == (1, True)
    assert f"{limit}, 0.1 s; for more time: secateur study retry --set {limit}=SECONDS (null: no limit)" in error
    assert said(capsys, "retry", "--out", out)[0] == 1, "with the limit that it had"
    begun = len(log())
    for other, message in (
        ("grid.numbers=[3, 4]", "'grid.numbers' changes which pieces of work there are"),
        ("power.exponent=3", "'power.exponent' changes the result of each piece of work; it is part of its identity"),
        ("execution.time_limt=9", "has no key 'time_limt' (did you mean 'time_limit'?)"),
        ("execution.time_limit=-1", "greater than 0"),
    ):
        code, _, error = said(capsys, "retry", "--out", out, "--set", other)
        assert (code, message in error) == (2, True), error
    assert len(log()) == begun, "nothing was worked on"
    code, _, error = said(capsys, "retry", "--out", out, "--set", f"{limit}=60", "--set", "execution.processes=1")
    assert code == 0, error
    states = [line.partition(";")[0] for line in said(capsys, "status", "--out", out)[1].splitlines()[1:]]
    assert states == ["square: 1 finished", "sum: 1 finished"]
    with opened_store(out / "cells.sqlite", tiny()) as store:
        assert store.settings()["execution"]["time_limit"] == 60
    monkeypatch.delenv("TINY_SECONDS")
    code, text, _ = said(capsys, "run", "tiny", "--out", out, "--set", "grid.numbers=[3]")
    assert (code, "0 cells worked on, 2 found" in text) == (0, True), "the limit is no part of identities"


def swallowing():
    try:
        time.sleep(5)
    except Exception:  # noqa: BLE001 - as code of others does
        return "result"


def renaming():
    try:
        time.sleep(5)
    except Exception as error:
        raise ValueError("the model is broken") from error


@pytest.mark.parametrize("work", [swallowing, renaming])
def test_work_that_hides_the_time_limit_gives_no_result(work):
    before, begin = signal.getsignal(signal.SIGALRM), time.monotonic()
    with pytest.raises(TimeLimitError, match=r"it took longer than some\.limit, 0\.05 s"), limited(0.05, "some.limit"):
        work()
    assert time.monotonic() - begin < 4
    assert signal.getsignal(signal.SIGALRM) == before
    with limited(5.0):
        pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_commands_run_show_and_repeat_a_study(tmp_path, monkeypatch, capsys, log):
    out = tmp_path / "out"
    code, text, _ = said(capsys, "list")
    assert (code, "Squares of numbers" in text) == (0, True)
    code, text, _ = said(capsys, "run", "tiny", "--out", out, "--dry-run")
    assert (code, "6 cells of study 'tiny'" in text, out.exists()) == (0, True, False)
    monkeypatch.setenv("TINY_BROKEN", "2")
    code, text, error = said(capsys, "run", "tiny", "--out", out)
    assert code == 1
    assert "3 cells worked on" in text
    assert "3 of 6 cells failed, the first (number=2): ArithmeticError: 2 is broken" in error
    name = error.rpartition("--cell ")[2]
    code, text, _ = said(capsys, "status", "--out", out)
    assert code == 0
    assert f"failed {name} (number=2): ArithmeticError: 2 is broken" in text
    assert "square: 1 failed, 2 finished" in text
    begun = len(log())
    assert said(capsys, "retry", "--out", out, "--cell", name)[0] == 1  # it is still broken
    monkeypatch.delenv("TINY_BROKEN")
    assert said(capsys, "retry", "--out", out, "--cell", name)[0] == 0
    assert len(log()) == begun + 2
    assert said(capsys, "retry", "--out", out)[0] == 0
    assert said(capsys, "retry", "--out", out)[1] == "no cell has failed\n"
    assert pd.read_csv(out / "squares.csv")["square"].tolist() == SQUARES
    begun = len(log())
    code, text, _ = said(capsys, "results", "--out", out, "--to", tmp_path / "again")
    assert (code, "holds: squares grow" in text, len(log())) == (0, True, begun)
    assert (tmp_path / "again" / "report.html").is_file()
    assert (tmp_path / "again" / "sums.parquet").read_bytes() == (out / "sums.parquet").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "tinny"], "unknown study 'tinny'"),
        (["run", "tiny", "--set", "grid.number=[1]"], "section 'grid' has no key 'number' (did you mean 'numbers'?)"),
        (["run", "tiny", "--set", "grid.numbers=[-1]"], "-1 is no number of this study"),
        (["run", "tiny", "--set", "grid.numbers=[one]"], "grid.numbers"),
        (["status"], "give --out"),
        (["status", "--store", "none.sqlite"], "there is no store 'none.sqlite'"),
        (["run", "tiny", "--store", "mysql://me@here/data"], "cannot be on mysql"),
    ],
)
def test_wrong_requests_are_one_line_before_any_work(arguments, message, tmp_path, monkeypatch, capsys, log):
    monkeypatch.chdir(tmp_path)
    code, _, error = said(capsys, *arguments)
    assert (code, message in error, log()) == (2, True, []), error


def test_a_store_of_another_version_is_one_line_for_every_command_but_status(tmp_path, monkeypatch, capsys):
    worked(tiny(), tmp_path / "cells.sqlite")
    monkeypatch.setattr(TinyStudy, "version", 2)
    code, printed, _ = said(capsys, "status", "--out", tmp_path)
    assert (code, "finished" in printed) == (0, True)
    for arguments in (["results"], ["retry"], ["run", "tiny"]):
        code, _, error = said(capsys, *arguments, "--out", tmp_path)
        assert (code, "was written by version 1 of the study 'tiny', this is 2" in error) == (2, True), error


def test_the_command_for_a_cell_names_every_sum(tmp_path):
    assert str(SumCell(up_to=3)) == "up_to=3"
    assert tiny_study.TinySettings().grid.numbers == (1, 2, 3)


def test_status_needs_neither_the_study_nor_pytorch(tmp_path):
    worked(tiny(), tmp_path / "cells.sqlite")
    code = (
        "import sys; from secateur.cli.main import run; "
        f"assert run(['study', 'status', '--out', {str(tmp_path)!r}]) == 0; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_two_runs_on_one_store_do_each_cell_once(tmp_path, monkeypatch):
    log, path = tmp_path / "log.txt", tmp_path / "cells.sqlite"
    monkeypatch.setenv("TINY_LOG", str(log))
    monkeypatch.setenv("TINY_SECONDS", "0.02")
    outcomes = []

    def one():
        with opened_store(path, tiny(*range(20))) as store:
            outcomes.append(run(tiny(*range(20)), store, Here(), progress=False))

    threads = [threading.Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    with opened_store(path, tiny(*range(20))) as store:
        assert store.status().total("finished") == len(tiny(*range(20)).cells())
        assert store.frames()["squares"]["square"].tolist() == [float(number**2) for number in range(20)]
    assert len(outcomes) == 3
    assert log.read_text().count("\n") == len(tiny(*range(20)).cells())


def leased(store, owner, seconds=60.0):
    return store.leases.take([identity for identity, _ in store_cells(store)], owner, seconds)


def store_cells(store):
    study = tiny()
    return list(identities(study, None).items())


def started(path):
    store = Store(path, "tiny", TinyStudy.version, TinyStudy.tables)
    store.start(store_cells(store), {})
    return store


def test_a_lease_keeps_others_away_until_it_ends(tmp_path):
    with started(tmp_path / "cells.sqlite") as store:
        every = {identity for identity, _ in store_cells(store)}
        assert leased(store, "first") == every
        assert leased(store, "first") == every
        assert leased(store, "second") == set()
        store.leases.give_up("first")
        assert leased(store, "second", -1.0) == every
        assert leased(store, "third") == every  # the second one's are over


def test_a_lease_that_is_renewed_goes_on(tmp_path):
    with started(tmp_path / "cells.sqlite") as store:
        leased(store, "first", -1.0)
        store.leases.renew("first", 60.0)
        assert leased(store, "second") == set()


def test_cells_that_are_finished_are_nobodys(tmp_path):
    with started(tmp_path / "cells.sqlite") as store:
        (name, cell), *rest = store_cells(store)
        leased(store, "first")
        assert store.leases.ended([name]) == set()
        store.finish(name, TinyStudy(TinySettings()).work(cell, Resources(), {}), 0.0, 1.0)
        assert store.leases.ended([name, rest[0][0]]) == {name}
        store.fail(rest[0][0], "broken", 0.0, 1.0)
        assert store.leases.ended([name, rest[0][0]]) == {name, rest[0][0]}
        store.leases.give_up("first")
        assert leased(store, "second") == {identity for identity, _ in rest}  # one that has failed may be tried again


def test_cells_of_a_process_that_was_killed_are_taken_over_at_once(tmp_path, monkeypatch):
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    with started(tmp_path / "cells.sqlite") as store:
        with monkeypatch.context() as patch:
            patch.setattr("os.getpid", lambda: int(gone.stdout))
            every = leased(store, "killed")
        assert leased(store, "next") == every
        with monkeypatch.context() as patch:
            patch.setattr("platform.node", lambda: "elsewhere")
            leased(store, "far")
        assert leased(store, "next") == every
    with started(tmp_path / "other.sqlite") as store:
        with monkeypatch.context() as patch:
            patch.setattr("os.getpid", lambda: int(gone.stdout))
            patch.setattr("platform.node", lambda: "elsewhere")
            leased(store, "far")
        assert leased(store, "next") == set()  # of another host nobody knows
    with started(tmp_path / "container.sqlite") as store:
        with monkeypatch.context() as patch:  # with the network, and so the name, of the host
            patch.setattr("os.getpid", lambda: int(gone.stdout))
            patch.setattr(leases, "_process_space", lambda: "pid:[4026532441]")
            leased(store, "contained")
        assert leased(store, "next") == set()


def test_a_run_passes_over_what_others_have_in_one_transaction(tmp_path):
    with started(tmp_path / "cells.sqlite") as store:
        names = [identity for identity, _ in store_cells(store)]
        groups = [[name] for name in names[:3]] + [names[3:5], names[5:]]
        store.leases.take(names[:3], "first", 60.0)
        assert store.leases.take_first(groups, "second", 60.0) == (3, set(names[3:5]))
        assert store.leases.take_first(groups, "third", 60.0) == (4, {names[5]})
        assert store.leases.take_first(groups, "fourth", 60.0) == (5, set())


@pytest.mark.parametrize(("runs", "most"), [(1, 60), (8, 90)])
def test_many_runs_do_not_ask_the_store_for_each_job_each(runs, most, tmp_path, monkeypatch):
    study = TinyStudy(TinySettings(grid=Grid(numbers=tuple(range(60)), sums=False)))
    cells, calls = identities(study, None), 0
    original = leases.Leases.take_first

    def counted(self, *arguments):
        nonlocal calls
        calls += 1
        return original(self, *arguments)

    monkeypatch.setattr(leases.Leases, "take_first", counted)
    jobs = [Job(((name, cell),)) for name, cell in cells.items()]
    with opened_store(tmp_path / "cells.sqlite", study) as store, contextlib.ExitStack() as stack:
        store.start(list(cells.items()), {})
        holders = [stack.enter_context(leases.Holder(store.leases)) for _ in range(runs)]
        turns = [_Work(study, store, Here(), cells, holder)._taken(jobs) for holder in holders]
        taken = []
        while turns:  # one job each, in turn
            found = [(turn, next(turn, None)) for turn in turns]
            taken += [job for _, job in found if job is not None]
            turns = [turn for turn, job in found if job is not None]
    assert sorted(job.cells[0][0] for job in taken) == sorted(cells)
    assert calls <= most


def test_a_run_waits_for_cells_of_another_and_takes_what_that_leaves(tmp_path):
    path = tmp_path / "cells.sqlite"
    with started(path) as store:
        leased(store, "other")
        found = []

        def one():
            with opened_store(path, tiny()) as mine:
                found.append(run(tiny(), mine, Here(), progress=False))

        thread = threading.Thread(target=one)
        thread.start()
        thread.join(1.0)
        assert thread.is_alive()
        store.leases.give_up("other")
        thread.join(60)
        assert found[0].made == len(store_cells(store))
