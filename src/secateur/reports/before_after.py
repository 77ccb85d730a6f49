"""The network as it came and as it goes: accuracy, size, speed, and what became of each class."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from secateur.core.timing import LatencyShare, busy_warning
from secateur.reports import captions, figures
from secateur.reports.conditions import Conditions
from secateur.reports.look import INK, KEPT, PLAIN_AXIS
from secateur.reports.registry import register_section
from secateur.reports.rows import STRICT, Figure, number
from secateur.reports.table import Table

if TYPE_CHECKING:
    from secateur.reports.look import Chart

MOST_CLASSES = 40


@dataclass(frozen=True)
class Measurement:
    """How good, how large and how fast one network is.

    Attributes:
        accuracy: share of right answers, 0..1.
        balanced_accuracy: mean over classes of the share of right answers, 0..1.
        calibration_error: expected calibration error, 0..1.
        loss: mean loss per sample.
        units: removable units (channels, neurons, heads) that it has; those of layers that are cut together count
            once.
        params: number of parameters.
        macs: multiply-accumulate operations for one input (1 MAC = 2 FLOPs).
        size_bytes: size of the stored weights.
        latency_ms: median time for one batch in milliseconds; ``None`` when not measured.
        latency_quartiles: first and third quartile of that time.
        latency_batch: samples per batch.
        latency_spread: interquartile range over median of the times of the network that others are compared with.
        latency_relative: time as a share of the network's before pruning, timed in turn; ``None`` for that network.
        per_class: accuracy by class name, 0..1.
        samples: that accuracy was measured on; ``None`` where it is not known.
        latency_threads: of PyTorch, or of the runtime.
        latency_rounds: how often it was timed.
        memory_bytes: peak memory of one batch, weights included; ``None`` when not measured.
    """

    __pydantic_config__ = STRICT

    accuracy: Figure
    balanced_accuracy: Figure
    calibration_error: Figure
    loss: Figure
    units: int
    params: int
    macs: int
    size_bytes: int
    latency_ms: float | None = None
    latency_quartiles: tuple[float, float] | None = None
    latency_batch: int | None = None
    latency_spread: float | None = None
    latency_relative: LatencyShare | None = None
    per_class: dict[str, Figure] = field(default_factory=dict)
    samples: int | None = None
    latency_threads: int | None = None
    latency_rounds: int | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True)
class BeforeAfter:
    """Section of the key figures: of a network before and after pruning, or of one network alone."""

    __pydantic_config__ = STRICT

    before: Measurement | None = None
    after: Measurement | None = None

    @property
    def stages(self) -> dict[str, Measurement]:
        """What is there, by name."""
        named = {"before": self.before, "after": self.after}
        return {name: stage for name, stage in named.items() if stage is not None}


@dataclass(frozen=True)
class _Line:
    """One figure: its line in the table, and its card where it has one; ``less`` says that less is better."""

    name: str
    field: str
    show: Callable[[float | None], str]
    card: str = ""
    less: str = ""


_LINES = (
    _Line("Accuracy", "accuracy", figures.percent, card="Accuracy"),
    _Line("Balanced accuracy", "balanced_accuracy", figures.percent),
    _Line("Calibration error", "calibration_error", figures.percent),
    _Line("Loss", "loss", figures.plain),
    _Line("Units", "units", figures.count, less="fewer"),
    _Line("Parameters", "params", figures.count, card="Parameters", less="fewer"),
    _Line("MACs for one input", "macs", figures.count, card="MACs", less="fewer"),
    _Line("Size on disk", "size_bytes", figures.size, card="Size", less="smaller"),
    _Line("Peak memory of a batch", "memory_bytes", figures.size, less="smaller"),
    _Line("Latency, median", "latency_ms", figures.milliseconds, card="Latency"),
)


def class_changes(before: Mapping[str, float], after: Mapping[str, float]) -> list[tuple[str, float, float]]:
    """Classes measured both times, greatest loss first; of many, the `MOST_CLASSES` with the greatest change.

    Example:
        >>> class_changes({"cat": 0.9, "dog": 0.8, "owl": 1.0}, {"cat": 0.8, "dog": 0.9})
        [('cat', 0.9, 0.8), ('dog', 0.8, 0.9)]
    """
    found = [
        (name, value, after[name])
        for name, value in before.items()
        if name in after and math.isfinite(value) and math.isfinite(after[name])
    ]
    kept = sorted(found, key=lambda change: -abs(change[2] - change[1]))[:MOST_CLASSES]
    return sorted(kept, key=lambda change: change[2] - change[1])


def _changes(section: BeforeAfter) -> list[tuple[str, float, float]]:
    before, after = section.before, section.after
    if before is None or after is None or not captions.comparable(before, after):
        return []
    return class_changes(before.per_class, after.per_class)


def _charts(section: BeforeAfter, conditions: Conditions) -> dict[str, Chart]:
    changes = _changes(section)
    return {"classes": _class_chart(changes)} if changes else {}


def _class_chart(changes: Sequence[tuple[str, float, float]]) -> Chart:
    """Accuracy of each class before and after as paired bars."""
    import altair as alt

    values = [
        {"class": name, "stage": stage, "accuracy": value, "change": new - old}
        for name, old, new in changes
        for stage, value in (("before", old), ("after", new))
    ]
    stages = ["before", "after"]
    across = alt.X("accuracy:Q", title="accuracy", axis=alt.Axis(format="%", tickCount=6, labelFlush=False))
    bars = alt.Chart(alt.InlineData(values=values)).mark_bar().encode(
        x=across.scale(domain=[0, 1]),
        y=alt.Y("class:N", sort=None, title=None, axis=alt.Axis(**PLAIN_AXIS)),
        yOffset=alt.YOffset("stage:N", sort=stages),
        color=alt.Color("stage:N", title=None, scale=alt.Scale(domain=stages, range=[INK, KEPT])).legend(orient="top"),
        opacity=alt.Opacity("stage:N", scale=alt.Scale(domain=stages, range=[0.3, 1.0]), legend=None),
        tooltip=[
            "class:N",
            "stage:N",
            alt.Tooltip("accuracy:Q", format=".1%"),
            alt.Tooltip("change:Q", format="+.1%", title="change"),
        ],
    )  # fmt: skip
    return alt.layer(bars).properties(
        width="container", height=alt.Step(12), description="Accuracy of each class before and after pruning"
    )


def _view(section: BeforeAfter, conditions: Conditions) -> dict[str, Any]:
    stages, changes = section.stages, _changes(section)
    spreads = [stage.latency_spread for stage in stages.values() if stage.latency_spread is not None]
    several = len(changes) == MOST_CLASSES
    return {
        "title": "Before and after" if len(stages) == 2 else "Measured",
        "cards": [
            _card(line, list(stages.values()), alone=section.after is None) for line in _shown(section) if line.card
        ],
        "warning": busy_warning(max(spreads, default=None)),
        "figures": _table(section, conditions) if stages else None,
        "class_hint": f"The {len(changes)} classes that changed most, largest drop on top."
        if several
        else "Largest drop on top.",
        "class_line": captions.of_classes([name for name, _, _ in changes], list(stages.values()), conditions),
    }


def _shown(section: BeforeAfter) -> list[_Line]:
    """Figures that some network has."""
    stages = section.stages.values()
    return [line for line in _LINES if any(number(getattr(stage, line.field)) is not None for stage in stages)]


def _card(line: _Line, stages: Sequence[Measurement], *, alone: bool) -> dict[str, str]:
    values = [number(getattr(stage, line.field)) for stage in stages]
    text, look = _change(line, *stages) if len(stages) == 2 else ("", "")
    was = "before pruning" if alone else f"from {line.show(values[0])}" if len(stages) == 2 else ""
    return {"title": line.card, "value": line.show(values[-1]), "was": was, "change": text, "look": look}


def _change(line: _Line, before: Measurement, after: Measurement) -> tuple[str, str]:
    """What became of one figure, and its look: green or red only where it is known to have changed."""
    old, new = number(getattr(before, line.field)), number(getattr(after, line.field))
    if line.field == "latency_ms":  # nothing is claimed of times that were not measured in turn
        share = after.latency_relative
        look = "" if share is None or share.faster else "worse" if share.measurable else "unclear"
        return "" if share is None else str(share), look
    if old is None or new is None:
        return "", ""
    if line.less:
        return figures.gain(old, new, line.less), "worse" if new > old else "unclear" if new == old else ""
    if not captions.comparable(before, after):
        return "", ""
    if line.field == "accuracy":
        text, clear = figures.accuracy_change(old, new, after.samples or before.samples)
        return text, "unclear" if not clear else "worse" if new < old else ""
    return f"{new - old:+.3f}".replace("-", "−") if line.field == "loss" else figures.change(old, new), ""


def _table(section: BeforeAfter, conditions: Conditions) -> Table:
    """All figures."""
    both = list(section.stages.values())
    lines: list[list[str]] = []
    for line in _shown(section):
        change = [_change(line, *both)[0] or figures.ABSENT] if len(both) == 2 else []
        lines.append([line.name, *(line.show(getattr(stage, line.field)) for stage in both), *change])
        batch = both[-1].latency_batch
        if line.field == "latency_ms" and batch is not None:
            lines[-1][0] = f"Latency per batch of {batch}, median"
    quartiles = [stage.latency_quartiles for stage in both]
    if any(quartiles):
        ends = [" to ".join(map(figures.milliseconds, pair)) if pair else figures.ABSENT for pair in quartiles]
        lines.append(["Latency, quartiles", *ends, *[""] * (len(both) == 2)])
    intervals = any("[" in line[-1] and "points" in line[-1] for line in lines)
    how = "intervals at 95 %; that of accuracy is binomial, at most as wide where both saw the same samples"
    beneath = captions.line(captions.of_stages(both, conditions), how if intervals else "")
    return Table(["figure", *section.stages, *["change"] * (len(both) == 2)], lines, beneath=[beneath])


register_section(BeforeAfter, name="before-after", template="before_after.html", charts=_charts, view=_view)
