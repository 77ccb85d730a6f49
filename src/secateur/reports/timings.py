"""Time that each criterion takes before a network is ready."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from secateur.reports import captions, figures
from secateur.reports.conditions import Conditions
from secateur.reports.registry import register_section
from secateur.reports.rows import ROW, STRICT, number
from secateur.reports.summary import BLIND
from secateur.reports.table import Table

_TIMES = {"scoring_s": "scoring", "surgery_s": "surgery", "retraining_s": "training again"}
_ACCURACIES = {"accuracy": "accuracy, %", "accuracy_finetuned": "accuracy finetuned, %"}


@dataclass(frozen=True)
class TimingRow:
    """Mean times of one criterion.

    Attributes:
        criterion: its name.
        scored_on: ``all`` for class-blind scores.
        scoring_s: seconds of one scoring.
        surgery_s: seconds of cutting one network.
        retraining_s: seconds of training one network again.
        accuracy: that goes with it, 0..1.
        accuracy_finetuned: likewise after training again.
    """

    __pydantic_config__ = ROW

    criterion: str
    scored_on: str = "subset"
    scoring_s: float | None = None
    surgery_s: float | None = None
    retraining_s: float | None = None
    accuracy: float | None = None
    accuracy_finetuned: float | None = None


@dataclass(frozen=True)
class Timings:
    """Section of the time to a pruned network."""

    __pydantic_config__ = STRICT

    rows: list[TimingRow]


def _view(section: Timings, conditions: Conditions) -> dict[str, Any]:
    times, accuracies = (
        [name for name in names if any(getattr(row, name) is not None for row in section.rows)]
        for names in (_TIMES, _ACCURACIES)
    )
    head = ["criterion", *(_TIMES[name] for name in times), *["all together"] * (len(times) > 1)]
    lines = []
    for row in section.rows:
        known = [number(getattr(row, name)) for name in times]
        cells = [figures.seconds(value) for value in known]
        cells += [figures.seconds(sum(value or 0.0 for value in known))] * (len(times) > 1)
        cells += [figures.hundredths(getattr(row, name)) for name in accuracies]
        lines.append([(row.criterion + (BLIND if row.scored_on == "all" else "")) or figures.ABSENT, *cells])
    return {
        "times": Table(head + [_ACCURACIES[name] for name in accuracies], lines, beneath=[captions.of_work(conditions)])
    }


register_section(Timings, name="timings", template="timings.html", view=_view)
