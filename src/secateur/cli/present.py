"""Terminal tables, and lines that say what will be done and what to know."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from secateur.core.addresses import argument_without_secrets
from secateur.core.figures import count, milliseconds, size
from secateur.core.memory import Memory
from secateur.core.timing import Latency
from secateur.evaluation import Evaluation
from secateur.pipeline.jobs import Job
from secateur.pipeline.run import Prepared
from secateur.selection import Plan
from secateur.structure import Structure


def command_line() -> str:
    """What was typed, without passwords in addresses."""
    return shlex.join(["secateur", *map(argument_without_secrets, sys.argv[1:])])


def show_plan(job: Job, out: Path | None) -> None:
    """What a dry run says: what would be done, and how long that takes."""
    say_notes(job.prepared)
    where = [] if out is None else [f"results: {out}"]
    show_lines(["the request is right; nothing was done", *job.description(), *where, str(job.estimate())])


def show_lines(lines: Sequence[str]) -> None:
    """Print lines as they are."""
    Console(soft_wrap=True, highlight=False).print("\n".join(lines), markup=False)


def show(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None) -> None:
    """Print a table; wide ones are not cut when the output is no terminal."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))  # names hold brackets
    console = Console() if sys.stdout.isatty() else Console(width=160)
    console.print(table)


def say_notes(prepared: Prepared) -> None:
    """Say on standard error what was done unasked, and when a network has random weights."""
    notes = list(prepared.notes)
    if not prepared.trained:
        what = "a new head with random weights" if prepared.new_head else "random weights"
        notes.append(f"'{prepared.recipe.model.name}' has {what}: what is measured says nothing of a trained one")
    for note in notes:
        Console(stderr=True, soft_wrap=True).print(f"note: {note}", markup=False)


def percent(value: float | None) -> str:
    """A share as per cent."""
    return "-" if value is None else f"{100 * value:.2f} %"


@dataclass(frozen=True)
class Units:
    """Removable units of a network: how many it had, and how many it keeps. Tied layers share theirs."""

    kept: int
    removable: int

    @classmethod
    def of(cls, structure: Structure, plan: Plan) -> Units:
        """As the plan leaves them; its share of units is the quotient."""
        return cls(int(plan.keep(structure).sum()), structure.num_units)

    def to_json(self) -> dict[str, int]:
        """Plain values."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.kept:,} ({100 * self.kept / max(1, self.removable):.1f} %)"


def alone(name: str, found: Evaluation) -> list[object]:
    """One table row of a network that is compared with none."""
    return [
        name,
        percent(found.accuracy),
        percent(found.balanced_accuracy),
        f"{found.params:,}",
        count(found.macs),
        size(found.size_bytes),
        "-" if found.latency is None else str(found.latency),
        "-" if found.memory is None else str(found.memory),
    ]


ALONE = ("", "accuracy", "balanced", "parameters", "MACs", "size", "latency", "peak memory")


def compared(name: str, found: Evaluation, whole: Evaluation, units: Units) -> list[object]:
    """One table row of a network beside the unpruned one: accuracy, then what is left."""
    return [
        name,
        percent(found.accuracy),
        percent(found.balanced_accuracy),
        str(units),
        f"{found.params:,} ({100 * found.params / whole.params:.1f} %)",
        f"{count(found.macs)} ({100 * found.macs / max(1, whole.macs):.1f} %)",
        size(found.size_bytes),
        "-" if found.latency is None else milliseconds(found.latency.median_ms),
        "-" if found.memory is None else size(found.memory.peak_bytes),
    ]


COMPARED = ("", "accuracy", "balanced", "units", "parameters", "MACs", "size", "latency", "peak memory")


def memory_lines(before: Memory | None, after: Memory | None) -> list[str]:
    """What was measured of two networks' memory, in one line."""
    if before is None or after is None:
        return []
    share = after.peak_bytes / before.peak_bytes
    peaks, weights = ([size(getattr(m, name)) for m in (before, after)] for name in ("peak_bytes", "network_bytes"))
    return [
        f"peak memory: {share:.2f} of it, {peaks[0]} before and {peaks[1]} after per batch of {after.batch_size} in "
        f"PyTorch, of which the weights are {weights[0]} and {weights[1]}"
    ]


def latency_lines(before: Latency | None, after: Latency | None) -> list[str]:
    """What was measured of two networks in turn, in one line; and a warning when the machine was busy."""
    if before is None or after is None or after.relative is None:
        return []
    lines = [
        f"latency: {after.relative}, {milliseconds(before.median_ms)} before and {milliseconds(after.median_ms)} after "
        f"per batch of {after.batch_size}, timed in turn over {after.relative.rounds} rounds"
    ]
    return lines + ([f"warning: latency {after.warning}"] if after.warning else [])
