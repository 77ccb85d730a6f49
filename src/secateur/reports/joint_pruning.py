"""What is left of prototype networks that were pruned in several ways."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from secateur.reports import captions, figures
from secateur.reports.conditions import Conditions
from secateur.reports.registry import register_section
from secateur.reports.rows import STRICT
from secateur.reports.table import Table


@dataclass(frozen=True)
class JointPruningLine:
    """One way to prune at one budget, means over seeds.

    Attributes:
        way: what was pruned, by what.
        macs: share that stays.
        params: share that stays.
        prototypes: that are left, and ``of`` how many.
        of: prototypes of the unpruned network.
        pruned: accuracy after the cut.
        last: accuracy after the last layer's training.
        trained: accuracy after all training.
        change: of that, from the unpruned network.
        interval: of the change over seeds, 95 %; None: of one seed.
        purity: share of a prototype's nearest training patches that are of its class, after all training.
        runs: seeds.
    """

    __pydantic_config__ = STRICT

    way: str
    macs: float
    params: float
    prototypes: float
    of: float
    pruned: float
    last: float
    trained: float
    change: float
    interval: tuple[float, float] | None
    purity: float
    runs: int


@dataclass(frozen=True)
class JointPruning:
    """Section of the ways side by side.

    Attributes:
        lines: of ways and budgets.
        unpruned: accuracy of the unpruned network, mean over seeds.
        purity: of its prototypes.
    """

    __pydantic_config__ = STRICT

    lines: list[JointPruningLine]
    unpruned: float
    purity: float


HEAD = ("pruned", "MACs, %", "params, %", "prototypes", "cut, %", "last layer, %", "trained, %", "change", "purity, %")
"""Heads of the table's columns."""


def joint_cells(line: JointPruningLine) -> list[str]:
    """A line as the cells of a table."""
    change = f"{100 * line.change:+.1f}"
    if line.interval is not None:
        change += f" [{100 * line.interval[0]:+.1f}, {100 * line.interval[1]:+.1f}]"
    return [
        line.way,
        f"{100 * line.macs:.0f}",
        f"{100 * line.params:.0f}",
        f"{line.prototypes:.0f} of {line.of:.0f}",
        figures.hundredths(line.pruned),
        figures.hundredths(line.last),
        figures.hundredths(line.trained),
        change,
        f"{100 * line.purity:.0f}",
    ]


def _view(section: JointPruning, conditions: Conditions) -> dict[str, Any]:
    runs = max((line.runs for line in section.lines), default=0)
    beneath = captions.line(
        conditions.measured(),
        f"mean over {runs} trained networks" if runs > 1 else "",
        "accuracy after the cut, after training of the last layer, and of all; change: points from the unpruned network"
        + (", with its 95 % interval over them" if runs > 1 else ""),
    )
    purity = "purity: share of a prototype's nearest training patches that are of its class, after all training"
    lines = [joint_cells(line) for line in section.lines]
    return {
        "ways": Table(list(HEAD), lines, words=1, beneath=[beneath, purity]),
        "unpruned": figures.hundredths(section.unpruned),
        "purity": f"{100 * section.purity:.0f}",
    }


register_section(JointPruning, name="joint-pruning", template="joint_pruning.html", view=_view)
