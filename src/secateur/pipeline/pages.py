"""Turns results into the records of which a report consists."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel
from torch import nn

from secateur import reports as rp
from secateur.core.timing import Latency
from secateur.data import LabelledImages
from secateur.evaluation import Evaluation
from secateur.pipeline.explanation import Explanation, explain, first_of_classes
from secateur.pipeline.run import Prepared
from secateur.selection import Plan
from secateur.structure import Structure
from secateur.surgery import LayerFit

LRP_NOTE = (
    "Layer-wise relevance propagation is described as patented, free for personal and scientific use; see NOTICE."
)


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
        samples=found.samples,
        latency_threads=None if timing is None else timing.threads,
        latency_rounds=None if timing is None else timing.repeats,
        memory_bytes=None if found.memory is None else found.memory.peak_bytes,
    )


def conditions(prepared: Prepared, images: LabelledImages, split: str, **more: Any) -> rp.Conditions:
    """The conditions of figures measured on some images.

    Args:
        prepared: data and network.
        images: images on which they were measured.
        split: split of these images.
        more: further fields of `secateur.reports.Conditions`.
    """
    names, chosen = prepared.data.class_names, prepared.recipe.data.classes
    counts = {name: int((images.labels == index).sum()) for index, name in enumerate(names)}
    return rp.Conditions(
        data=prepared.data.name,
        split=split,
        samples=len(images),
        class_samples={name: count for name, count in counts.items() if count},
        labels="" if chosen is None else f"{len(chosen)} classes",
        device=str(prepared.device),
        **more,
    )


def timing_conditions(timing: Latency | None) -> dict[str, Any]:
    """How times were taken, as fields of `secateur.reports.Conditions`."""
    if timing is None:
        return {}
    return {
        "threads": timing.threads,
        "latency_batch": timing.batch_size,
        "latency_rounds": timing.repeats,
    }


def layers(structure: Structure, plan: Plan) -> rp.Layers:
    """Numbers of kept channels of every layer that can be cut."""
    keep = plan.keep(structure)
    kept = [rp.LayerKept(*row) for row in structure.kept_per_layer(keep)]
    return rp.Layers(kept, kept=int(keep.sum()), total=structure.num_units)


def refits(fits: Sequence[LayerFit]) -> list[rp.LayerRefits]:
    """The section on a refit; empty where there was none."""
    rows = [rp.LayerRefit(f.layer, f.before, f.mean, f.after, f.strength, f.reason) for f in fits]
    return [rp.LayerRefits(rows)] if rows else []


def heatmaps(before: nn.Module, after: nn.Module, prepared: Prepared, images: int = 8) -> rp.Heatmaps:
    """Heatmaps of some test images of different classes before and after."""
    test = prepared.data.test
    explanations = explain([before, after], test, first_of_classes(test, images))
    return rp.Heatmaps([heatmap(item) for item in explanations])


def heatmap(item: Explanation) -> rp.Heatmap:
    """One explanation, by one network or two, as the report's record."""
    predicted, two = item.predicted, len(item.relevance) > 1
    caption = f"the network says {predicted[0]}"
    if two:
        agreement = f"cosine {item.cosine[-1]:.2f}, rank correlation {item.rank[-1]:.2f}"
        caption = f"before: {predicted[0]}, after: {predicted[-1]}; agreement of the heatmaps: {agreement}"
    return rp.Heatmap(
        f"{item.label} (image {item.index})",
        rp.image_png(item.pixels),
        rp.heatmap_png(item.relevance[0]),
        rp.heatmap_png(item.relevance[-1]) if two else "",
        caption,
    )


def new_report(
    title: str,
    subtitle: str,
    prepared: Prepared,
    command: str = "",
    *,
    sections: Sequence[object],
    conditions: rp.Conditions,
) -> rp.Report:
    """A report with date, command, versions and settings filled in."""
    provenance = origin(prepared.recipe, command)
    return rp.Report(title=title, subtitle=subtitle, sections=sections, conditions=conditions, **provenance)


def origin(settings: BaseModel | None = None, command: str = "") -> dict[str, Any]:
    """The origin of a report: date, command, versions, settings, the note on LRP."""
    return {
        "created": datetime.date.today().isoformat(),
        "command": command,
        "settings": {} if settings is None else settings.model_dump(mode="json"),
        "versions": {name: version(name) for name in ("secateur", "torch")} | {"python": platform.python_version()},
        "notes": [LRP_NOTE],
    }
