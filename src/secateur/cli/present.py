"""Terminal tables, and the records that reports are made of."""

from __future__ import annotations

import datetime
import platform
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import nn

from secateur import report as rp
from secateur.evaluation import Evaluation
from secateur.pipeline import Explanation, Prepared, explain
from secateur.pipeline.explain import first_of_classes
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


def figures(name: str, found: Evaluation, shares: dict[str, float] | None) -> list[object]:
    """One table row: accuracy, then what is left."""
    whole = shares or {"units": 1.0, "params": 1.0, "macs": 1.0}
    latency = "-" if found.latency is None else f"{found.latency.median_ms:.2f} ms / {found.latency.batch_size}"
    return [
        name,
        percent(found.accuracy),
        percent(found.balanced_accuracy),
        f"{100 * whole['units']:.1f} %",
        f"{found.params:,} ({100 * whole['params']:.1f} %)",
        f"{found.macs / 1e6:,.2f} M ({100 * whole['macs']:.1f} %)",
        f"{found.size_bytes / 1024:,.0f} KiB",
        latency,
    ]


FIGURES = ("", "accuracy", "balanced", "units", "parameters", "MACs", "size", "latency / batch")


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
        per_class=found.per_class,
    )


def layers(structure: Structure, plan: Plan) -> list[rp.LayerKept]:
    """Kept channels of every layer that can be cut."""
    return [rp.LayerKept(*row) for row in structure.kept_per_layer(plan.keep(structure))]


def heatmaps(before: nn.Module, after: nn.Module, prepared: Prepared, count: int = 8) -> list[rp.Heatmap]:
    """Relevance of some test images before and after, spread over the classes."""
    test = prepared.data.test
    found = explain([before, after], test, first_of_classes(test, count))
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
