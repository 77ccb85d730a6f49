"""Progress of long work, for whoever watches: a bar on a terminal, a line now and then elsewhere, or a function.

Long work says where it is by `track` or `task`. Who is told is decided by the outermost public call, by its parameter
``progress``: `reported` reads it there, and a context variable carries it downwards. PyTorch is not imported here.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from secateur.core.drawing import screen
from secateur.core.errors import RequestError

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")

INTERVAL = 0.1
"""Seconds between two calls of a function that watches one piece of work."""

SWITCH = "SECATEUR_PROGRESS"
"""Environment variable; ``off``: nothing is drawn or written, functions are called all the same."""


@dataclass(frozen=True)
class Progress:
    """Where a piece of work is.

    Attributes:
        description: what is being done.
        done: steps.
        total: steps there are; None: not known.
        elapsed: seconds since it began.
        remaining: seconds it will take yet, if the steps go on as fast as so far; None: not known.
        level: 0 for the outermost work of a call, 1 for work within that, and so on.

    Example:
        >>> print(Progress("re-scoring by lrp", 12, 25, 31.2, 33.8))
        re-scoring by lrp: 12 of 25, 31 s, about 34 s left
    """

    description: str
    done: int
    total: int | None
    elapsed: float
    remaining: float | None
    level: int = 0

    @property
    def count(self) -> str:
        """How many steps are done, as text.

        Example:
            >>> Progress("", 12, 25, 1.0, None).count, Progress("", 12, None, 1.0, None).count
            ('12 of 25', '12')
        """
        if self.total is None:
            return str(self.done) if self.done else ""
        return f"{self.done} of {self.total}"

    @property
    def left(self) -> str:
        """Seconds that remain, as text."""
        return "" if self.remaining is None else f"about {duration(self.remaining)} left"

    def __str__(self) -> str:
        parts = [self.count, duration(self.elapsed), self.left]
        return f"{self.description}: {', '.join(filter(None, parts))}"


ProgressOption = bool | Callable[[Progress], None]
"""Who is told of progress: True, whoever reads standard error (within another call: whom that one tells); False,
nobody; or a function, which is called with a `Progress` when a piece of work begins and ends and about ten times a
second in between. What the function raises ends the work."""


def duration(seconds: float) -> str:
    """Seconds as people say them.

    Example:
        >>> duration(31.2), duration(190), duration(7500)
        ('31 s', '3 min 10 s', '2 h 5 min')
    """
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


@dataclass(eq=False)
class Scope:
    """What one outermost call has under way, and who is told."""

    option: ProgressOption
    begin: float = field(default_factory=time.monotonic)
    suspended: bool = False
    tasks: list[Task] = field(default_factory=list)

    def close(self) -> None:
        """End what was left open, e.g. by loops that were broken off."""
        for open_ in reversed(self.tasks[:]):
            open_.close()


_scope: ContextVar[Scope | None] = ContextVar("secateur_progress", default=None)


class Task:
    """A piece of work with steps; see `task`."""

    def __init__(self, description: str, total: int | None = None, done: int = 0, steady: bool = False) -> None:
        self.description, self.total, self.done, self._first = description, total, done, done
        self.scope = _scope.get() or Scope(True)
        self.level = len(self.scope.tasks)
        self.begin = self._stepped = self._told = time.monotonic()
        self.steady = steady
        self.stream = sys.stderr
        self._function = None if isinstance(self.scope.option, bool) else self.scope.option
        self._drawn = self.scope.option is True and _is_watched()
        self.scope.tasks.append(self)
        if self._drawn:
            screen.add(self)
        elif self._function is not None:
            self._tell()

    def advance(self, steps: int = 1) -> None:
        """Steps were done."""
        self.done += steps
        if self._drawn:
            self._stepped = time.monotonic()
            screen.stepped(self, self._stepped)
        elif self._function is not None:
            self._stepped = time.monotonic()
            if self._stepped - self._told >= INTERVAL:
                self._tell()

    def progress(self) -> Progress:
        """Where it is now."""
        elapsed = time.monotonic() - self.begin
        remaining = None
        if self.total is not None and self.done > self._first:
            pace = (self._stepped - self.begin) / (self.done - self._first)
            remaining = max(0.0, pace * (self.total - self._first) - elapsed)
        return Progress(self.description, self.done, self.total, elapsed, remaining, self.level)

    def close(self, finished: bool = False) -> None:
        """It has ended; ``finished``: as it should, so that a function is told."""
        if self not in self.scope.tasks:
            return
        self.scope.tasks.remove(self)
        if self._drawn:
            screen.remove(self)
        elif finished and self._function is not None:
            self._tell()

    def _tell(self) -> None:
        assert self._function is not None
        self._told = time.monotonic()
        token = _scope.set(Scope(False))  # what the function itself calls is not reported to it
        try:
            self._function(self.progress())
        finally:
            _scope.reset(token)


@contextlib.contextmanager
def task(description: str, total: int | None = None, *, done: int = 0, steady: bool = False) -> Iterator[Task]:
    """A piece of work, while the context lasts.

    Args:
        description: what is being done, e.g. "re-scoring by lrp".
        total: steps; None: not known.
        done: steps that were done before, by a run that this one goes on from.
        steady: times are measured in it: nothing is drawn but in `Task.advance`, by this thread.

    Example:
        >>> with reporting(print), task("folding", total=2) as work:
        ...     work.advance()
        folding: 0 of 2, 0 s
        folding: 1 of 2, 0 s, about 0 s left
    """
    work = Task(description, total, done, steady)
    try:
        yield work
    except BaseException:
        work.close()
        raise
    work.close(finished=True)


def track(
    items: Iterable[T], description: str, total: int | None = None, *, done: int = 0, steady: bool = False
) -> Iterator[T]:
    """Iterate, with each item a step of a `task`.

    Args:
        items: what to go through.
        description: what is being done.
        total: how many; None: their length, where they have one.
        done: see `task`.
        steady: see `task`.

    Example:
        >>> list(track([1, 2], "counting"))
        [1, 2]
    """
    if total is None and isinstance(items, Sized):
        with contextlib.suppress(TypeError):  # loaders of endless data have no length after all
            total = len(items)
    work = Task(description, total, done, steady)
    try:
        for item in items:
            yield item
            work.advance()
        work.close(finished=True)
    finally:
        work.close()


@contextlib.contextmanager
def reporting(progress: ProgressOption = True) -> Iterator[None]:
    """Who is told of progress within the context; what is still under way at its end is closed.

    Args:
        progress: see `ProgressOption`. True within another such context leaves everything as that one says.

    Raises:
        RequestError: for anything else.
    """
    _check(progress)
    if progress is True and _scope.get() is not None:
        yield
        return
    scope = Scope(progress)
    token = _scope.set(scope)
    try:
        yield
    finally:
        _scope.reset(token)
        scope.close()


def reported(description: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator of public functions: their keyword argument ``progress`` says who is told of what they do.

    The function declares ``progress: ProgressOption = True`` after ``*`` and need not look at it. While generators wait
    for the next ``next``, nothing of theirs is shown.

    Args:
        description: what the function does.

    Example:
        >>> @reported("counting")
        ... def count(to: int, *, progress: ProgressOption = True) -> int:
        ...     return sum(1 for _ in track(range(to), "one by one"))
        >>> seen = []
        >>> count(2, progress=seen.append), [(each.description, each.level, each.done) for each in seen]
        (2, [('counting', 0, 0), ('one by one', 1, 0), ('one by one', 1, 2), ('counting', 0, 0)])
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        parameter = inspect.signature(function).parameters["progress"]
        assert parameter.kind is parameter.KEYWORD_ONLY

        def option(given: dict[str, Any]) -> Any:
            return given.get("progress", True)

        if inspect.isgeneratorfunction(function):

            @wraps(function)
            def resumed(*args: P.args, **kwargs: P.kwargs) -> Any:
                return _resumed(function(*args, **kwargs), option(kwargs), description)

            return resumed

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            with reporting(option(kwargs)), task(description):
                return function(*args, **kwargs)

        return call

    return decorate


def _resumed(items: Generator[T, None, None], progress: ProgressOption, description: str) -> Iterator[T]:
    """A generator's items; the option holds while it works, and not in between, where the caller does."""
    _check(progress)
    if progress is True and _scope.get() is not None:
        with task(description):
            yield from items
        return
    scope = Scope(progress)
    work: Task | None = None
    try:
        while True:
            scope.suspended = False
            token = _scope.set(scope)
            try:
                work = work or Task(description)
                item = next(items)
            except StopIteration:
                if work is not None:
                    work.close(finished=True)
                return
            finally:
                _scope.reset(token)
                scope.suspended = True
                screen.settle()
            yield item
    finally:
        items.close()
        scope.close()


def announce(text: str) -> None:
    """Write one line to standard error at once, before work that cannot say where it is, such as an import.

    Args:
        text: e.g. "loading PyTorch".
    """
    if os.environ.get(SWITCH, "").lower() != "off" and sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):  # nobody reads it
            sys.stderr.write(f"{text} ...\n")
            sys.stderr.flush()


def _check(progress: object) -> None:
    if not isinstance(progress, bool) and not callable(progress):
        raise RequestError(f"progress must be True, False or a function of a Progress, got {progress!r}")


def _is_watched() -> bool:
    """Whether this process may write to standard error: workers leave that to the process that started them."""
    from multiprocessing import parent_process

    wanted = os.environ.get(SWITCH, "").lower() != "off"
    first = os.environ.get("RANK", "0") == "0" and parent_process() is None  # launchers of PyTorch number processes
    return wanted and first and sys.stderr is not None
