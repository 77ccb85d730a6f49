"""Where cells are worked on: in this process, or in several.

An executor gets a study and jobs, and gives finished cells in any order. Studies, cells and results of earlier cells
travel; resources are made where the work is. An executor for a cluster needs no more than `Executor` says.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import platform
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from secateur.core.errors import RequestError, SecateurError, TimeLimitError
from secateur.core.pool import Pool, cores
from secateur.core.sections import Execution, sections
from secateur.experiments.artefacts import check_name
from secateur.experiments.cells import Cell
from secateur.experiments.resources import Resource, Resources
from secateur.experiments.study import Result, Study


@dataclass(frozen=True)
class Job:
    """Cells that one process works on, one after another.

    Attributes:
        cells: with their identities.
        earlier: results that they need.
    """

    cells: tuple[tuple[str, Cell], ...]
    earlier: Mapping[Cell, Result] = field(default_factory=dict)


@dataclass(frozen=True)
class Done:
    """A cell that was worked on.

    Attributes:
        identity: of the cell.
        result: what it gave; None: it failed.
        error: why, in one line.
        started: seconds since the epoch.
        seconds: that it took.
        host: where.
    """

    identity: str
    result: Result | None
    error: str
    started: float
    seconds: float
    host: str


class Executor(Protocol):
    """Works on cells somewhere."""

    def prepare(self, study: Study[Any, Any], resources: Sequence[Resource[Any]]) -> Iterator[Resource[Any]]:
        """Make and store resources, side by side; gives each when it is stored."""

    def work(self, study: Study[Any, Any], jobs: Iterable[Job]) -> Iterator[list[Done]]:
        """Work on jobs, in any order; gives the cells of a job when they are done.

        A job is another run's until it is taken from ``jobs``: take few before their turn.
        """


class Here:
    """Works in this process, with all threads that PyTorch has.

    Args:
        resources: of this process.
    """

    def __init__(self, resources: Resources | None = None) -> None:
        self.resources = resources or Resources()

    def prepare(self, study: Study[Any, Any], resources: Sequence[Resource[Any]]) -> Iterator[Resource[Any]]:
        """See `Executor.prepare`."""
        for resource in resources:
            self.resources.get(resource)
            yield resource

    def work(self, study: Study[Any, Any], jobs: Iterable[Job]) -> Iterator[list[Done]]:
        """See `Executor.work`; gives each cell as it is done."""
        for job in jobs:
            for done in work_on(study, job, self.resources):
                yield [done]


class Processes:
    """Works in processes of this machine, with one thread each; as a context, they end with it.

    Args:
        count: how many; 0: as many as there are cores.
    """

    def __init__(self, count: int) -> None:
        self.count = count or cores()
        self._pool: Pool | None = None
        self._study: bytes = b""

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self._pool is not None:
            self._pool.__exit__(kind, error, trace)

    def prepare(self, study: Study[Any, Any], resources: Sequence[Resource[Any]]) -> Iterator[Resource[Any]]:
        """See `Executor.prepare`."""
        for resource, _ in self._started(study).work(_make, resources):
            yield resource

    def work(self, study: Study[Any, Any], jobs: Iterable[Job]) -> Iterator[list[Done]]:
        """See `Executor.work`."""
        for _, done in self._started(study).work(_work, jobs):
            yield done

    def _started(self, study: Study[Any, Any]) -> Pool:
        try:
            packed = pickle.dumps(study)
        except Exception as error:  # whatever a class of the user's own raises, the remedy is the same
            raise RequestError(
                f"the study '{study.name}' cannot be sent to processes ({' '.join(str(error).split())}); use one "
                "process"
            ) from error
        if self._pool is not None and packed != self._study:  # they work on one study
            self._pool.__exit__(None)
            self._pool = None
        if self._pool is None:
            self._pool, self._study = Pool(self.count, _receive, (packed,), always=True), packed
        return self._pool


@contextlib.contextmanager
def executor_for(execution: Execution | None, resources: Resources | None = None) -> Iterator[Executor]:
    """The executor that settings ask for.

    Args:
        execution: None: this process. One process is this one, 0 as many as there are cores.
        resources: of this process.
    """
    if execution is not None and execution.executor == "ray":
        from secateur.experiments.ray_cluster import RayCluster

        with RayCluster(execution.ray) as cluster:
            yield cluster
        return
    count = 1 if execution is None else execution.processes or cores()
    if count == 1:
        yield Here(resources)
        return
    with Processes(count) as executor:
        yield executor


def execution_of(study: Study[Any, Any]) -> Execution | None:
    """How a study asks for its cells to be worked on; None: it has no such settings."""
    found = _execution_in(study)
    return None if found is None else found[1]


def _execution_in(study: Study[Any, Any]) -> tuple[str, Execution] | None:
    """Likewise with its path in the settings."""
    found = [(each.path, each.value) for each in sections(study.settings) if isinstance(each.value, Execution)]
    return found[0] if found else None


def work_on(study: Study[Any, Any], job: Job, resources: Resources) -> Iterator[Done]:
    """Work on the cells of a job; one that fails does not stop the others."""
    path, execution = _execution_in(study) or ("execution", Execution())
    for identity, cell in job.cells:
        started, begin = time.time(), time.perf_counter()
        result: Result | None = None
        error = ""
        try:
            with limited(execution.time_limit, f"{path}.time_limit"):
                result = checked(study, study.work(cell, resources, job.earlier))
        except SecateurError as problem:
            error = str(problem)
        except MemoryError:
            error = "out of memory; use a smaller batch size, or fewer processes"
        except (Exception, SystemExit) as problem:  # noqa: BLE001 - whatever it is, it must not stop the other cells
            error = f"{type(problem).__name__}: {problem}"
        seconds = time.perf_counter() - begin
        yield Done(identity, result, " ".join(error.split()), started, seconds, platform.node())


@contextlib.contextmanager
def limited(seconds: float | None, setting: str = "execution.time_limit") -> Iterator[None]:
    """Inside, work that takes longer is interrupted, between two steps of Python.

    Args:
        seconds: that it may take; None: as many as it needs.
        setting: that says so, for messages.

    Raises:
        TimeLimitError: when time is up; at the end, where the work caught that error and went on.
        RequestError: for a limit where there is no timer: outside of the main thread, or on Windows.
    """
    if seconds is None:
        yield
        return
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        raise RequestError(f"{setting} needs the main thread of a process on Linux or macOS; leave it out")

    error = TimeLimitError(
        f"it took longer than {setting}, {seconds:g} s; for more time: secateur study retry --set {setting}=SECONDS "
        "(null: no limit)"
    )
    ended = False

    def up(*_: object) -> None:
        nonlocal ended
        ended = True
        raise error

    before = signal.signal(signal.SIGALRM, up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except Exception:
        if ended:  # also where the work made another error of it
            raise error from None
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    if ended:  # whatever came of it depends on the machine
        raise error


def checked(study: Study[Any, Any], result: Result) -> Result:
    """A result with plain values, as the schemas of the study's tables have them.

    Raises:
        SecateurError: for rows that do not fit, a table that the study does not have, or a name that no file can have.
    """
    unknown = [name for name in result.rows if name not in study.tables]
    if unknown:
        raise SecateurError(f"the work gave rows of a table '{unknown[0]}'; known: {', '.join(study.tables)}")
    for name, data in result.artefacts.items():
        check_name(name)
        if not isinstance(data, bytes):
            raise SecateurError(f"the work gave a file {name!r} as {type(data).__name__}; give bytes")
    rows = {name: [study.tables[name].check(row) for row in each] for name, each in result.rows.items()}
    return Result(rows, result.artefacts)


_study: Study[Any, Any] | None = None
_resources: Resources | None = None


def _receive(packed: bytes) -> None:
    """In a process that works: unpack the study, and take one thread, as the others take theirs."""
    global _study, _resources
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # PyTorch reads them when it is imported, if it is
        os.environ[name] = "1"
    _study, _resources = pickle.loads(packed), Resources()
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


def _make(resource: Resource[Any]) -> None:
    assert _resources is not None
    _resources.get(resource)


def _work(job: Job) -> list[Done]:
    assert _study is not None
    assert _resources is not None
    return list(work_on(_study, job, _resources))
