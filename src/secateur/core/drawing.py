"""Draws what is under way on standard error: a bar that is erased at the end, or a plain line every ten seconds.

A thread of its own draws, so that steps cost nothing and a step without end is shown as well.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from secateur.core.progress import Task

DELAY = 2.0
"""Nothing is drawn of calls that take less, in seconds."""

LINES = 10.0
"""Seconds between two plain lines."""

_TICK = 0.25
_INNER = 0.5
_ROWS = 3


class Screen:
    """The one place that draws; safe to use from several threads."""

    def __init__(self) -> None:
        self._last_line = self._last_tick = -LINES
        self._broken: TextIO | None = None
        self.forget()

    def forget(self) -> None:
        """Begin anew; in a forked process, what was under way is the other's to show, and the thread is not there."""
        self._lock = threading.RLock()
        self._tasks: list[Task] = []
        self._live: Any = None
        self._ticker: threading.Thread | None = None
        self._wake, self._ends = threading.Event(), threading.Event()

    def add(self, task: Task) -> None:
        """A task has begun."""
        with self._lock:
            self._tasks.append(task)
        self._start()

    def remove(self, task: Task) -> None:
        """A task has ended."""
        with self._lock:
            if task in self._tasks:  # not in a process that was forked meanwhile
                self._tasks.remove(task)
        self.settle()

    def settle(self) -> None:
        """Erase the bar when nothing is left to show."""
        if self._live is not None:
            with self._lock:
                if not self._shown():
                    self._erase()

    def stepped(self, task: Task, now: float) -> None:
        """A task has done a step; where times are measured, this is when to draw."""
        if task.steady and now - self._last_tick >= _TICK:
            self.tick()
        elif self._ticker is None:  # it ended for a fork
            self._start()

    def tick(self) -> None:
        """Draw what there is."""
        with self._lock:
            now = self._last_tick = time.monotonic()
            shown = self._shown()
            if not shown or now - min(task.scope.begin for task in shown) < DELAY:
                return
            stream = shown[0].stream
            if stream is self._broken:
                return
            try:
                if stream.isatty() and os.environ.get("TERM") != "dumb":
                    self._draw(stream, shown, now)
                elif now - self._last_line >= LINES:
                    self._last_line = now
                    stream.write(_line(shown, now) + "\n")
                    stream.flush()
            except (OSError, ValueError):  # closed, or nobody at the other end
                self._broken = stream

    def end(self) -> None:
        """End the thread, so that none is there when the process forks; it starts again with the next step."""
        ticker = self._ticker
        if ticker is None or ticker is threading.current_thread():
            return
        self._ends.set()
        self._wake.set()
        ticker.join(timeout=5)
        self._ticker = None
        self._ends.clear()

    def close(self) -> None:
        """Leave the terminal as it was."""
        with self._lock:
            self._tasks.clear()
            self._erase()

    def _shown(self) -> list[Task]:
        return [task for task in self._tasks if not task.scope.suspended]

    def _start(self) -> None:
        with self._lock:
            if self._ticker is None and self._tasks:
                self._ticker = threading.Thread(target=self._run, name="secateur-progress", daemon=True)
                self._ticker.start()
        self._wake.set()

    def _run(self) -> None:
        while not self._ends.is_set():
            self._wake.wait()
            if self._ends.wait(_TICK):
                return
            with self._lock:
                if not self._tasks:
                    self._wake.clear()
                elif not any(task.steady for task in self._tasks):
                    self.tick()

    def _draw(self, stream: TextIO, shown: Sequence[Task], now: float) -> None:
        from rich.console import Console
        from rich.live import Live

        if self._live is None:
            console = Console(file=stream, force_terminal=True)
            # standard output and error stay as they are: what others write there must arrive there
            self._live = Live(
                console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
            )
            self._live.start()
        self._live.update(_table(shown, now), refresh=True)

    def _erase(self) -> None:
        if self._live is not None:
            live, self._live = self._live, None
            with contextlib.suppress(OSError, ValueError):
                live.stop()


def _chosen(tasks: Sequence[Task], now: float) -> list[Task]:
    """The outermost task whose steps are known in number, if there is one, and what has been done in it for a while."""
    first = next((place for place, task in enumerate(tasks) if (task.total or 0) > 1), 0)
    inner = [task for task in tasks[first + 1 :] if now - task.begin >= _INNER]
    return [tasks[first], *(inner if len(inner) < _ROWS else (inner[0], inner[-1]))]


def _line(tasks: Sequence[Task], now: float) -> str:
    """What is done, in one line: the main task with its times, the innermost one in brackets."""
    first, *inner = _chosen(tasks, now)
    if not inner:
        return str(first.progress())
    last = inner[-1].progress()
    return f"{first.progress()} ({last.description}{': ' if last.count else ''}{last.count})"


def _table(tasks: Sequence[Task], now: float) -> Any:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    from secateur.core.progress import duration

    table = Table.grid(padding=(0, 1))
    for place, task in enumerate(_chosen(tasks, now)):
        found = task.progress()
        known = bool(found.total)
        bar = ProgressBar(
            total=found.total if known else None, completed=found.done, width=30, pulse=not known, animation_time=now
        )
        left = f"{duration(found.elapsed)}{', ' if found.left else ''}{found.left}"
        table.add_row(Text("  " * place + found.description, no_wrap=True), bar, found.count, Text(left, style="dim"))
    return table


screen = Screen()
atexit.register(screen.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=screen.end, after_in_child=screen.forget)
