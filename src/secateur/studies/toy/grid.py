"""All runs of a grid on one or more processes; what is finished is found again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import signal
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import TypeVar

from torch import nn

from secateur.core.errors import SecateurError
from secateur.core.progress import track
from secateur.studies.toy.network import place, trained
from secateur.studies.toy.ranks import Run
from secateur.studies.toy.runs import Bench, Outcome
from secateur.studies.toy.settings import NetworkSettings, ToySettings
from secateur.studies.toy.store import Store, key_of
from secateur.studies.toy.tables import write_ranks, write_rows

T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """Runs of one data set and seed, which share their noisy points and passes."""

    dataset: str
    seed: int
    wanted: dict[int, tuple[str, ...]]

    @property
    def runs(self) -> list[Run]:
        """Its runs."""
        return [Run(self.dataset, c, n, self.seed) for n, criteria in self.wanted.items() for c in criteria]


@dataclass(frozen=True)
class Written:
    """What a grid has written.

    Attributes:
        rows: the table as CSV; the same rows are beside it as Parquet.
        ranks: the pruning orders, if they were kept.
        done: runs that were made now.
        found: runs that were there already.
    """

    rows: Path
    ranks: Path | None
    done: int
    found: int


def run_grid(settings: ToySettings, folder: str | Path) -> Written:
    """Make all runs of a grid, and write ``results.csv``, ``results.parquet`` and ``ranks.parquet``.

    Finished runs are kept in ``runs.sqlite`` and not made again, also after a kill; results do not depend on the number
    of processes, as each works on one thread and each run is computed on its own.

    Args:
        settings: the grid.
        folder: for results; of this grid or of none.

    Raises:
        RequestError: for unknown names, or a store of another version.
        SecateurError: when files cannot be written.
    """
    settings.check()
    target = Path(folder)
    store = Store(target / "runs.sqlite")
    try:
        workers = settings.processes or _cores()
        with _Pool(workers) as pool:
            models = dict(zip(settings.datasets, pool.train(settings), strict=True))
            identities = {name: identity(model, settings) for name, model in models.items()}
            jobs, keys = _jobs(settings, identities, store.known(settings.ranks))
            missing = sum(len(job.runs) for job in jobs)
            for job, outcomes in track(pool.work(jobs, settings), f"{missing} prunings", total=len(jobs)):
                pairs = zip((key_of(identities[job.dataset], item.run) for item in outcomes), outcomes, strict=True)
                store.add(pairs, settings.ranks)
        rows = write_rows([row for item in store.read(keys) for row in item.rows(settings)], target)
        ranks = target / "ranks.parquet"
        ranks.unlink(missing_ok=True)  # an earlier grid's must not stand beside this one's table
        if settings.ranks:
            write_ranks(store.read(keys), ranks)
        return Written(rows, ranks if settings.ranks else None, missing, len(keys) - missing)
    finally:
        store.close()


def untrained(settings: ToySettings) -> list[str]:
    """Data sets whose network is not in the cache."""
    return [name for name in settings.datasets if not place(name, settings.network).exists()]


def prepare(settings: ToySettings) -> None:
    """See to it that all networks are trained, side by side where several are missing."""
    with _Pool(settings.processes or _cores()) as pool:
        pool.train(settings)


def identity(model: nn.Module, settings: ToySettings) -> str:
    """Hash of the weights and of all settings that a run's result depends on, but its own coordinates."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    digest.update(json.dumps([1, settings.network.hash, sorted(settings.noise), settings.remove]).encode())
    return digest.hexdigest()


def _jobs(settings: ToySettings, identities: dict[str, str], known: set[str]) -> tuple[list[Job], list[str]]:
    """What is still to do, and the keys of all runs in the table's order."""
    keys, wanted = [], defaultdict[tuple[str, int], dict[int, tuple[str, ...]]](dict)
    for dataset in settings.datasets:
        for criterion in settings.criteria:
            for count in settings.samples_per_class:
                for seed in settings.seeds:
                    key = key_of(identities[dataset], Run(dataset, criterion, count, seed))
                    keys.append(key)
                    if key not in known:
                        job = wanted[dataset, seed]
                        job[count] = (*job.get(count, ()), criterion)
    return [Job(dataset, seed, counts) for (dataset, seed), counts in wanted.items()], keys


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Pool:
    """Processes that keep the last network they worked with; with one, the work is done here."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._executor: ProcessPoolExecutor | None = None
        self._others = set(multiprocessing.active_children())

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        if self._executor is None:
            return
        if kind is not None:  # an interruption: what is under way is found unfinished by the next run
            for process in set(multiprocessing.active_children()) - self._others:
                process.terminate()
        self._executor.shutdown(cancel_futures=True)

    def train(self, settings: ToySettings) -> list[nn.Sequential]:
        """The networks of all data sets; those that the cache lacks are trained side by side."""
        missing = untrained(settings)
        if self.workers > 1 and len(missing) > 1:
            futures = [self._started().submit(_train, name, settings.network) for name in missing]
            for future in track(futures, f"training on {', '.join(missing)}", total=len(missing)):
                _result(future)
        return [trained(name, settings.network) for name in settings.datasets]

    def work(self, jobs: Sequence[Job], settings: ToySettings) -> Iterator[tuple[Job, list[Outcome]]]:
        """Finished jobs, in any order."""
        if self.workers == 1 or len(jobs) < 2:
            for job in jobs:
                yield job, _work(job, settings)
            return
        waiting = iter(jobs)
        running: dict[Future[list[Outcome]], Job] = {}
        # few at a time, so that an interruption has little to wait for
        while True:
            for job in waiting:
                running[self._started().submit(_work, job, settings)] = job
                if len(running) >= 2 * self.workers:
                    break
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), _result(future)

    def _started(self) -> ProcessPoolExecutor:
        if self._executor is None:
            context = multiprocessing.get_context("spawn")  # threads of libraries do not survive a fork
            self._executor = ProcessPoolExecutor(self.workers, context, initializer=_begin)
            with _uninterrupted():
                self._executor.submit(int)  # starts the processes
        return self._executor


def _result(future: Future[T]) -> T:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise SecateurError(
            "a worker process ended before its work did (out of memory?); finished runs are kept: run the same command "
            "again, with --processes 1"
        ) from error


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Processes started inside ignore Ctrl-C, which goes to all: it is the parent's to handle."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _begin() -> None:
    """Let a worker end with the process that started it, however that ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # also where signals are not inherited

    def watch(sentinel: int) -> None:
        wait_for([sentinel])
        os._exit(1)

    threading.Thread(target=watch, args=(parent.sentinel,), daemon=True).start()


def _train(name: str, settings: NetworkSettings) -> None:
    trained(name, settings)


def _work(job: Job, settings: ToySettings) -> list[Outcome]:
    return _bench(job.dataset, settings.network).outcomes(job.wanted, job.seed, settings.noise, settings.remove)


@lru_cache(maxsize=1)
def _bench(dataset: str, network: NetworkSettings) -> Bench:
    return Bench(dataset, network)
