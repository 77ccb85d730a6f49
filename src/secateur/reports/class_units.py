"""The units that are most relevant for each class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from secateur.reports import captions, figures
from secateur.reports.conditions import Conditions
from secateur.reports.registry import register_section
from secateur.reports.rows import STRICT, Figure
from secateur.reports.table import Cell, Cells, Table

MOST_CLASSES = 40


@dataclass(frozen=True)
class ClassUnit:
    """How much one unit speaks for a class.

    Attributes:
        class_name: the class.
        layer: the layer that makes the unit.
        unit: its index in the layer.
        relevance: mean over images of the class.
        rank: 1 for the strongest unit of the layer.
    """

    __pydantic_config__ = STRICT

    class_name: str
    layer: str
    unit: int
    relevance: Figure
    rank: int


@dataclass(frozen=True)
class ClassUnits:
    """Section of the strongest units of each class, in the order of the forward pass."""

    __pydantic_config__ = STRICT

    units: list[ClassUnit]


def _view(section: ClassUnits, conditions: Conditions) -> dict[str, Any]:
    layers = list(dict.fromkeys(unit.layer for unit in section.units))
    cells: dict[str, dict[str, list[ClassUnit]]] = {}
    for unit in section.units:
        cells.setdefault(unit.class_name, {}).setdefault(unit.layer, []).append(unit)
    lines: list[Cells] = [
        [name, *([_cell(u) for u in sorted(found.get(layer, []), key=lambda u: u.rank)] for layer in layers)]
        for name, found in list(cells.items())[:MOST_CLASSES]
    ]
    hint = "Index of the units with the largest relevance for each class, and their mean relevance in brackets."
    hint += f" The first {MOST_CLASSES} of {len(cells)} classes." if len(cells) > MOST_CLASSES else ""
    beneath = captions.line(captions.of_maps(conditions), captions.seeds(conditions.seeds))
    return {"hint": hint, "units": Table(["class", *layers], lines, words=1 + len(layers), beneath=[beneath])}


def _cell(unit: ClassUnit) -> Cell:
    return Cell(str(unit.unit), note=f"({figures.plain(unit.relevance, 2)})")


register_section(ClassUnits, name="class-units", template="class_units.html", view=_view)
