"""What the experiments layer costs: overhead per cell, and a store with many finished cells.

    python benchmarks/experiments.py [--cells 2000] [--finished 1000000] [--processes 2] [--ray] [--busy 0.5]

Overhead: a study whose cells do nothing but give eight rows, run in this process and in several; seconds of the whole
run by number of cells, less the start of the processes. Many cells: a store of finished ones is asked for its status,
and a run on it finds that nothing is missing. Overheads
are also given as multiples of committing one row to SQLite in the same run, since disks differ.
"""

from __future__ import annotations

import argparse
import contextlib
import sqlite3
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).parent))  # processes import this file by its name

from secateur.experiments import (
    Cell,
    Column,
    Effect,
    Execution,
    Processes,
    RayCluster,
    Resources,
    Result,
    Schema,
    Section,
    Store,
    Study,
    StudySettings,
    identities,
    run,
)

ROWS = 8
"""Of a cell, as many as a comparison of seven budgets and the unpruned network has."""


class Grid(Section):
    """Which cells."""

    first: int = 0
    count: int = 100
    together: int = 32
    busy: float = 0.0
    asleep: float = 0.0


class Settings(StudySettings):
    """Of the empty study."""

    grid: Annotated[Grid, Effect.CELLS] = Grid()
    execution: Annotated[Execution, Effect.PRESENTATION] = Execution()


class Number(Cell):
    """One cell."""

    number: int


class Empty(Study[Settings, Number]):
    """Cells that do nothing."""

    name = "empty"
    version = 1
    summary = "Nothing."
    settings_type = Settings
    tables = {"rows": Schema((Column("place", int, "of the row"), Column("value", float, "a number")))}

    def __reduce__(self):
        """Processes get what work depends on: they go on with other cells, while those of another study are started."""
        kept = {"busy": self.settings.grid.busy, "asleep": self.settings.grid.asleep}
        return Empty, (Settings(grid=Grid(**kept)),)

    def cells(self):
        grid = self.settings.grid
        return [Number(number=number) for number in range(grid.first, grid.first + grid.count)]

    def batch(self, cell):
        return cell.number // self.settings.grid.together

    def work(self, cell, resources, earlier):
        end = time.process_time() + self.settings.grid.busy
        while time.process_time() < end:
            pass
        time.sleep(self.settings.grid.asleep)
        return Result({"rows": [{"place": place, "value": 0.5 * cell.number} for place in range(ROWS)]})

    def page(self, tables):
        raise NotImplementedError


def study(count: int, first: int = 0, **grid: float) -> Empty:
    """The empty study with so many cells."""
    return Empty(Settings(grid=Grid(first=first, count=count, **grid)))


def seconds(work) -> float:
    """That a call takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def commit(folder: Path, times: int = 200) -> float:
    """Median seconds of one committed row, with the store's own settings."""
    database = sqlite3.connect(folder / "commit.sqlite", isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")
    database.execute("CREATE TABLE IF NOT EXISTS rows (value)")
    found = [seconds(lambda: database.execute("INSERT INTO rows VALUES (1)")) for _ in range(times)]
    database.close()
    return statistics.median(found)


def opened(path: Path) -> Store:
    """A store of the empty study."""
    return Store(path, Empty.name, Empty.version, Empty.tables)


def overhead(folder: Path, cells: int, processes: int) -> None:
    """Print seconds per cell here and in processes."""
    one = commit(folder)
    with opened(folder / "here.sqlite") as store:
        here = seconds(lambda: run(study(cells), store)) / cells
    with opened(folder / "processes.sqlite") as store, Processes(processes) as executor:
        run(study(64, first=10_000_000), store, executor)  # the processes start, and load PyTorch
        there = seconds(lambda: run(study(cells), store, executor)) / cells
    for name, spent in (("this process", here), (f"{processes} processes", there)):
        print(f"overhead per cell in {name}: {1000 * spent:.2f} ms, {spent / one:.1f} times one committed row")  # noqa: T201


def cluster(folder: Path, cells: int) -> None:
    """Print seconds per cell on a Ray cluster of this machine."""
    with RayCluster() as executor:
        for together in (32, 1):
            with opened(folder / f"ray-{together}.sqlite") as store:
                run(study(64, first=10_000_000, together=together), store, executor)
                spent = seconds(lambda: run(study(cells, together=together), store, executor)) / cells  # noqa: B023
            print(f"overhead per cell through Ray, {together} to a task: {1000 * spent:.2f} ms")  # noqa: T201


def sharing(folder: Path, busy: float, ray: bool) -> None:
    """Print what two workers take of the time that one takes, for cells that keep a core busy; three times in turn."""
    shares: dict[str, list[float]] = {}
    for turn in range(3):
        with Processes(1) as one, Processes(2) as two, contextlib.ExitStack() as stack:
            others = {"two processes": two} | ({"Ray": stack.enter_context(RayCluster())} if ray else {})
            spent = {}
            for name, executor in {"one process": one, **others}.items():
                with opened(folder / f"{name} {turn}.sqlite") as store:
                    run(study(8, first=10_000_000, together=1), store, executor)  # it starts
                    spent[name] = seconds(lambda: run(study(30, together=1, busy=busy), store, executor))  # noqa: B023
            for name in others:
                shares.setdefault(name, []).append(spent[name] / spent["one process"])
    for name, found in shares.items():
        print(f"{name}: {statistics.median(found):.2f} of the time of one ({min(found):.2f} to {max(found):.2f})")  # noqa: T201


def many(folder: Path, count: int) -> None:
    """Print how long a store of many finished cells takes for its status, and to find what is missing."""
    path, whole = folder / "many.sqlite", study(count)
    with opened(path) as store:
        store.start(list(identities(whole, Resources()).items()), {})
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("UPDATE cells SET state = 'finished', finished = started")
    database.close()
    with opened(path) as store:
        indexed = seconds(store.status)
        database = sqlite3.connect(path, isolation_level=None)
        for statement in ("DROP INDEX ix_cells_status", "CREATE INDEX ix_cells_run ON cells (run)"):
            database.execute(statement)  # as in the first format
        before = seconds(store.status)
        database.execute("CREATE INDEX ix_cells_status ON cells (run, state, stage, finished)")
        database.close()
        faster = f"{before / indexed:.1f} times as fast as with the index of the first format"
        print(f"{count:,} finished cells: status in {indexed:.2f} s, {faster}")  # noqa: T201
        cells = {}

        def name() -> None:
            cells.update(identities(whole, Resources()))

        naming, missing = seconds(name), 0

        def find() -> None:
            nonlocal missing
            missing = len(store.start(list(cells.items()), {}))

        finding = seconds(find)
        print(f"finding what is missing ({missing}): {naming + finding:.2f} s, of that {naming:.2f} s naming the cells")  # noqa: T201


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=2000)
    parser.add_argument("--finished", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--ray", action="store_true", help="through Ray, too")
    parser.add_argument("--busy", type=float, default=0.5, help="seconds of a core for each cell of two workers")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        overhead(Path(folder), asked.cells, asked.processes)
        if asked.ray:
            cluster(Path(folder), asked.cells)
        sharing(Path(folder), asked.busy, asked.ray)
        many(Path(folder), asked.finished)


if __name__ == "__main__":
    main()
