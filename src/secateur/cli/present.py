"""Terminal tables, and the records that reports are made of."""

from __future__ import annotations

import datetime
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import nn

from secateur import report as rp
from secateur.core.figures import count, milliseconds, size
from secateur.core.timing import Latency
from secateur.evaluation import Evaluation
from secateur.pipeline import Explanation, Prepared, explain
from secateur.pipeline.explanation import first_of_classes
from secateur.selection import Plan
from secateur.structure import Structure

LRP_NOTE = (
    "Layer-wise relevance propagation is described as patented, free for personal and scientific use; see NOTICE."
)


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
    """Say on standard error what was done unasked, and when a network was built by name and has random weights."""
    notes = list(prepared.notes)
    if not prepared.trained:
        name = prepared.recipe.model.name
        notes.append(f"'{name}' has random weights; give --weights FILE or a bundle folder as --model")
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
    ]


ALONE = ("", "accuracy", "balanced", "parameters", "MACs", "size", "latency")


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
    ]


COMPARED = ("", "accuracy", "balanced", "units", "parameters", "MACs", "size", "latency")


def latency_lines(before: Latency | None, after: Latency | None) -> list[str]:
    """What was measured of two networks in turn, in one line; and a warning when the machine was busy."""
    if before is None or after is None or after.relative is None:
        return []
    lines = [
        f"latency: {after.relative}, {milliseconds(before.median_ms)} before and {milliseconds(after.median_ms)} after "
        f"per batch of {after.batch_size}, timed in turn over {after.relative.rounds} rounds"
    ]
    return lines + ([f"warning: latency {after.warning}"] if after.warning else [])


def measurement(found: Evaluation, units: int) -> rp.Measurement:
    """An evaluation as the report's record."""
    timing = found.latency
    return rp.Measurement(
        accuracy=found.accuracy,
        balanced_accuracy=found.balanced_accuracy,
        calibration_error=found.calibration_error,
        loss=found.loss,
        units=units,
        params=found.params,
        macs=found.macs,
        size_bytes=found.size_bytes,
        latency_ms=None if timing is None else timing.median_ms,
        latency_quartiles=None if timing is None else timing.quartiles_ms,
        latency_batch=None if timing is None else timing.batch_size,
        latency_spread=None if timing is None else timing.spread,
        latency_relative=None if timing is None else timing.relative,
        per_class=found.per_class,
    )


def layers(structure: Structure, plan: Plan) -> list[rp.LayerKept]:
    """Kept channels of every layer that can be cut."""
    return [rp.LayerKept(*row) for row in structure.kept_per_layer(plan.keep(structure))]


def heatmaps(before: nn.Module, after: nn.Module, prepared: Prepared, images: int = 8) -> list[rp.Heatmap]:
    """Relevance of some test images before and after, spread over the classes."""
    test = prepared.data.test
    found = explain([before, after], test, first_of_classes(test, images))
    return [heatmap(item) for item in found]


def heatmap(item: Explanation) -> rp.Heatmap:
    """One explanation, by one network or two, as the report's record."""
    said, two = item.predicted, len(item.relevance) > 1
    caption = f"the network says {said[0]}"
    if two:
        agreement = f"cosine {item.cosine[-1]:.2f}, rank correlation {item.rank[-1]:.2f}"
        caption = f"before: {said[0]}, after: {said[-1]}; agreement of the heatmaps: {agreement}"
    return rp.Heatmap(
        f"{item.label} (image {item.index})",
        rp.image_png(item.pixels),
        rp.heatmap_png(item.relevance[0]),
        rp.heatmap_png(item.relevance[-1]) if two else "",
        caption,
    )


def new_report(title: str, subtitle: str, prepared: Prepared, **parts: Any) -> rp.Report:
    """A report with date, command, versions and settings filled in."""
    return rp.Report(title=title, subtitle=subtitle, **origin(prepared.recipe), **parts)


def origin(settings: BaseModel | None = None) -> dict[str, Any]:
    """What a report says of its making: date, command, versions, settings, the note on LRP."""
    return {
        "created": datetime.date.today().isoformat(),
        "command": shlex.join(["secateur", *sys.argv[1:]]),
        "settings": {} if settings is None else settings.model_dump(mode="json"),
        "versions": {name: version(name) for name in ("secateur", "torch", "torchvision")}
        | {"python": platform.python_version()},
        "notes": [LRP_NOTE],
    }
