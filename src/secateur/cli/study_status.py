"""What `secateur study status` says of a store, once or again and again."""

from __future__ import annotations

import contextlib
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import typer

from secateur.core.interruption import keeping
from secateur.experiments import Store
from secateur.experiments.status import FAILED, FINISHED, WAITING, Failure, Pace, Status, Working

if TYPE_CHECKING:
    from rich.console import RenderableType

_MOST = 5
"""Failed cells, and groups of cells that are worked on, in a display."""


class Look:
    """What a store says at one moment.

    Args:
        store: opened to be read.
    """

    def __init__(self, store: Store) -> None:
        self.status: Status = store.status()
        self.working: list[Working] = store.working()
        self.failures: list[Failure] = store.failures()
        self.paces: dict[str, Pace] = {pace.stage: pace for pace in store.paces()}

    @property
    def at_rest(self) -> bool:
        """Whether no cell waits, and no run works on one."""
        return not self.status.total(WAITING) and all(each.ended for each in self.working)

    def head(self) -> str:
        """Which study, and its last run."""
        started = self.status.started or "never"
        return f"study '{self.status.study}', last run started {started}: {self.status.command}"

    def counts(self, stage: str) -> str:
        """Cells of a stage by state, and while some wait, how fast they get done."""
        states = self.status.counts[stage]
        text = f"{stage}: " + ", ".join(f"{number:,} {state}" for state, number in sorted(states.items()))
        return f"{text}; {self.paces[stage]}" if stage in self.paces and states.get(WAITING) else text

    def plain(self) -> list[str]:
        """In lines."""
        return [
            self.head(),
            *map(self.counts, self.status.counts),
            *map(str, self.working),
            *(f"failed {each.identity[:12]} ({each.cell}): {each.error}" for each in self.failures),
        ]


def status_lines(store: Store) -> list[str]:
    """How far the study of a store is, who works on what, and what failed."""
    return Look(store).plain()


def watch(store: Store, seconds: float) -> None:
    """Say so again and again, until the study is done or Ctrl-C: on a terminal in place, else in lines when it changes.

    Only the store is read.

    Args:
        store: opened to be read.
        seconds: between two looks.
    """
    with keeping("the runs of the study go on"), contextlib.ExitStack() as stack:
        shown = _InPlace(stack) if sys.stdout.isatty() else _Lines()
        rested = False
        while True:
            look = Look(store)
            shown.show(look)
            if look.at_rest and rested:  # a run that begins notes its cells before it takes the first ones
                break
            rested = look.at_rest
            time.sleep(seconds)
    typer.echo(f"nothing is left to do: {_ended(look.status)}")


def _ended(status: Status) -> str:
    failed = status.total(FAILED)
    return f"{status.total(FINISHED):,} cells are finished" + (f", {failed:,} failed" if failed else "")


class _Lines:
    """Lines on standard output, those of a look that differs from the one before."""

    def __init__(self) -> None:
        self._before: object = None

    def show(self, look: Look) -> None:
        lines, said = look.plain(), (look.status, look.working, look.failures)  # a rate changes by itself
        if said != self._before:
            typer.echo("\n".join([f"{datetime.now(UTC).isoformat(timespec='seconds')} {lines[0]}", *lines[1:]]))
            sys.stdout.flush()
        self._before = said


class _InPlace:
    """A display on the terminal that is drawn anew."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        from rich.live import Live

        self._live = stack.enter_context(Live(auto_refresh=False))

    def show(self, look: Look) -> None:
        self._live.update(display(look), refresh=True)


def display(look: Look) -> RenderableType:
    """A bar for each stage, who works on what, and the first failures."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    stages = Table.grid(padding=(0, 1))
    for stage, states in look.status.counts.items():
        whole, finished = sum(states.values()), states.get(FINISHED, 0)
        rest = [f"{states[state]:,} {state}" for state in (FAILED, WAITING) if states.get(state)]
        said = f"{finished:,} of {whole:,}" + (f" ({', '.join(rest)})" if rest else "")
        pace = str(look.paces[stage]) if stage in look.paces else ""
        bar = ProgressBar(total=whole, completed=finished, width=30)
        stages.add_row(Text(stage, no_wrap=True), bar, Text(said, no_wrap=True), Text(pace, style="dim"))
    lines: list[Any] = [Text(look.head(), overflow="ellipsis", no_wrap=True), stages]
    failed = [f"failed {each.identity[:12]} ({each.cell}): {each.error}" for each in look.failures]
    for style, entries in (("", list(map(str, look.working))), ("red", failed)):
        lines += [Text(entry, style=style, overflow="ellipsis", no_wrap=True) for entry in entries[:_MOST]]
        if len(entries) > _MOST:
            lines.append(Text(f"and {len(entries) - _MOST:,} more: `secateur study status` lists all", style="dim"))
    if not look.working and look.status.total(WAITING):
        lines.append(Text("no run works on the cells that wait", style="dim"))
    return Group(*lines)
