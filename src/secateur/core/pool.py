"""Processes that work side by side, end with the one that started them, and leave Ctrl-C to it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for
from typing import Any, TypeVar

from secateur.core.errors import SecateurError

J = TypeVar("J")
R = TypeVar("R")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Pool:
    """Processes that take one job at a time; with one worker or one job, the work is done here unless ``always``.

    Use it as a context: processes start with the first work, and end with the context.

    Args:
        workers: how many processes.
        setup: called in each process before its first job, not in this one.
        arguments: for ``setup``.
        always: never work in this process.
    """

    def __init__(
        self,
        workers: int,
        setup: Callable[..., None] | None = None,
        arguments: tuple[Any, ...] = (),
        *,
        always: bool = False,
    ) -> None:
        self.workers, self._always = workers, always
        self._setup, self._arguments = setup, arguments
        self._executor: ProcessPoolExecutor | None = None
        self._others = set(multiprocessing.active_children())

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        if self._executor is None:
            return
        if kind is not None:  # an interruption: what is under way is found unfinished by the next run
            for process in set(multiprocessing.active_children()) - self._others:
                process.terminate()
        self._executor.shutdown(cancel_futures=True)

    def work(self, function: Callable[[J], R], jobs: Iterable[J]) -> Iterator[tuple[J, R]]:
        """Finished jobs with their results, in any order."""
        if not self._always:
            jobs = list(jobs)
            if self.workers == 1 or len(jobs) < 2:
                for job in jobs:
                    yield job, function(job)
                return
        waiting = iter(jobs)
        running: dict[Future[R], J] = {}
        # few at a time, so that an interruption has little to wait for
        while True:
            for job in waiting:
                with _uninterrupted():  # a process may start with any of the first jobs
                    running[self._started().submit(function, job)] = job
                if len(running) >= 2 * self.workers:
                    break
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), _result(future)

    def _started(self) -> ProcessPoolExecutor:
        if self._executor is None:
            context = multiprocessing.get_context("spawn")  # threads of libraries do not survive a fork
            arguments = (self._setup, self._arguments)
            self._executor = ProcessPoolExecutor(self.workers, context, initializer=_begin, initargs=arguments)
        return self._executor


def _result(future: Future[R]) -> R:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise SecateurError(
            "a worker process ended before its work did (out of memory, or a script without its main guard?); finished "
            "runs are kept: run the same command again, with one process"
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


def _begin(setup: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    """Let a worker end with the process that started it, however that ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # also where signals are not inherited

    def watch(sentinel: int) -> None:
        wait_for([sentinel])
        os._exit(1)

    threading.Thread(target=watch, args=(parent.sentinel,), daemon=True).start()
    if setup is not None:
        setup(*arguments)
