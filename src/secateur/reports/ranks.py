"""How alike pruning orders are: matrices of rank correlations and of shares of common units."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.core.errors import RequestError
from secateur.reports import captions
from secateur.reports.conditions import Conditions, span
from secateur.reports.look import GREEN, PAPER_INK, picture_path, rgb, shade
from secateur.reports.registry import register_section
from secateur.reports.rows import ROW, STRICT, read_rows
from secateur.reports.table import Cell, Table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CORRELATIONS = {"spearman": "Spearman’s ρ", "kendall": "Kendall’s τ"}
# ColorBrewer's blue and orange for both signs of a correlation: white numbers are legible on each.
_ABOVE, _BELOW = rgb("#2166AC"), rgb("#B35806")
_DARK = 0.78  # beyond this share of the full colour, numbers are written in white
_WIDE, _HIGH = 42.0, 32.0  # of a cell, in pixels


@dataclass(frozen=True)
class RankingRow:
    """How alike two criteria's (or sample counts') pruning orders are: a mean over pairs of runs.

    Attributes:
        dataset: the data set.
        measure: ``spearman`` or ``kendall``, -1..1; or a share of common units, 0..1: ``first``, ``last``, with the
            number of units behind it where there are several (``first-250``).
        case: what is compared.
        a: name of one side.
        b: name of the other.
        mean: over pairs of runs; rows without one leave their cell empty.
        sd: standard deviation.
        criterion: that all pairs share, if they do.
        samples_per_class: likewise.
        pairs: of runs behind the mean.

    Raises:
        RequestError: for an unknown measure.
    """

    __pydantic_config__ = ROW

    dataset: str
    measure: str
    case: str
    a: str
    b: str
    mean: float | None
    sd: float | None = None
    criterion: str | None = None
    samples_per_class: int | None = None
    pairs: int | None = None

    def __post_init__(self) -> None:
        measure_title(self.measure)


@dataclass(frozen=True)
class Rankings:
    """Section of how alike pruning orders are."""

    __pydantic_config__ = STRICT

    rows: list[RankingRow]


@dataclass(frozen=True)
class Matrix:
    """Means of one measure for all pairs that one case compares.

    Attributes:
        dataset: the data set.
        measure: see `RankingRow`.
        case: what is compared.
        of: what all pairs share, as a criterion or a number of samples; may be empty.
        down: names of the rows.
        across: names of the columns.
        cells: mean and standard deviation by name of row and column.
        pairs: of runs behind the means, where known.
    """

    dataset: str
    measure: str
    case: str
    of: str
    down: tuple[str, ...]
    across: tuple[str, ...]
    cells: Mapping[tuple[str, str], tuple[float, float | None]]
    pairs: tuple[int, ...] = ()

    def colour(self, mean: float) -> tuple[int, int, int]:
        """Hue of a value: blue and orange for both signs of a correlation, green for a share."""
        return (_ABOVE if mean >= 0 else _BELOW) if self.measure in _CORRELATIONS else GREEN


def matrices(rows: Iterable[RankingRow]) -> list[Matrix]:
    """Sort rows into matrices; names keep the order in which they come first.

    Rows that differ in criterion or samples_per_class belong to different matrices. Where each name is compared only
    with itself, at several samples_per_class, these are the columns of one matrix.

    Example:
        >>> matrix, = matrices([RankingRow("moon", "spearman", "criteria", "lrp", "taylor", 0.5)])
        >>> matrix.down, matrix.across, matrix.cells
        (('lrp',), ('taylor',), {('lrp', 'taylor'): (0.5, None)})
    """
    groups: dict[tuple[str, str, str], list[RankingRow]] = {}
    for row in rows:
        groups.setdefault((row.case, row.dataset, row.measure), []).append(row)
    found = []
    for (case, dataset, measure), members in groups.items():
        counts = {row.samples_per_class for row in members} - {None}
        folded = len(counts) > 1 and all(row.a == row.b for row in members)
        parts: dict[str, list[RankingRow]] = {}
        for row in members:
            parts.setdefault(_shared(row, folded), []).append(row)
        for of, these in parts.items():
            pairs = [(row.a, str(row.samples_per_class or "–") if folded else row.b) for row in these]
            names = dict.fromkeys([a for a, _ in pairs] + [b for _, b in pairs])
            found.append(
                Matrix(
                    dataset=dataset,
                    measure=measure,
                    case=case,
                    of=of,
                    down=tuple(name for name in names if any(a == name for a, _ in pairs)),
                    across=tuple(name for name in names if any(b == name for _, b in pairs)),
                    cells={
                        pair: (row.mean, row.sd) for pair, row in zip(pairs, these, strict=True) if row.mean is not None
                    },
                    pairs=tuple(row.pairs for row in these if row.pairs),
                )
            )
    return found


def measure_title(measure: str) -> str:
    """Words for a measure.

    Raises:
        RequestError: for an unknown measure.

    Example:
        >>> measure_title("spearman"), measure_title("first-250"), measure_title("last")
        ('Spearman’s ρ', 'first 250 in common', 'last in common')
    """
    if measure in _CORRELATIONS:
        return _CORRELATIONS[measure]
    end, _, count = measure.partition("-")
    if end not in ("first", "last"):
        raise RequestError(f"unknown measure '{measure}'; known: {', '.join(_CORRELATIONS)}, first, last (first-250)")
    return f"{end} {count} in common" if count else f"{end} in common"


def _view(section: Rankings, conditions: Conditions) -> dict[str, Any]:
    found: dict[str, dict[str, list[Matrix]]] = {}
    for matrix in matrices(section.rows):
        found.setdefault(matrix.measure, {}).setdefault(matrix.case, []).append(matrix)
    return {
        "measures": {measure: measure_title(measure) for measure in found},
        "cases": [
            {
                "measure": measure,
                "open": place == 0,
                "title": f"{case} · {measure_title(measure)}",
                "matrices": [(" · ".join(filter(None, (m.dataset, m.of))), _table(m)) for m in these],
                "beneath": _held(these),
            }
            for measure, cases in found.items()
            for place, (case, these) in enumerate(cases.items())
        ],
    }


def _table(matrix: Matrix) -> Table:
    """One matrix with coloured cells; the standard deviation is in each cell's tooltip."""

    def cell(down: str, across: str) -> Cell:
        mean, sd = matrix.cells.get((down, across), (None, None))
        if mean is None:
            return Cell("")
        spread = "" if sd is None else f"± {sd:.2f}"
        return Cell(_text(mean), title=spread, colour=shade(mean, matrix.colour(mean)))

    return Table(
        ["", *matrix.across], [[down, *(cell(down, across) for across in matrix.across)] for down in matrix.down]
    )


def _held(found: Sequence[Matrix]) -> str:
    """How many pairs of runs are behind the means of matrices, and their data sets."""
    counts = [count for matrix in found for count in matrix.pairs]
    data = ", ".join(dict.fromkeys(matrix.dataset for matrix in found))
    return captions.line(
        f"each number is the mean over {span(counts)} pairs of runs" if counts else "", f"data: {data}"
    )


def save_ranks(rows: Iterable[Mapping[str, Any] | RankingRow] | pd.DataFrame, path: str | Path) -> Path:
    """Draw matrices as a static picture on white: columns by data set, rows by case and measure.

    Args:
        rows: `RankingRow`, dictionaries, or a frame.
        path: ends in ``.svg``, ``.png`` (drawn at twice the size) or ``.pdf``.

    Raises:
        RequestError: for another ending, no rows, or rows without the columns needed.
        SecateurError: when the file cannot be written.
    """
    from secateur.reports.drawing import paper_style, save_figure

    picture_path(path)
    lines: dict[tuple[str, str, str], list[Matrix]] = {}
    for matrix in matrices(read_rows(RankingRow, rows)):
        lines.setdefault((matrix.case, matrix.of, matrix.measure), []).append(matrix)
    if not lines:
        raise RequestError(f"cannot draw '{path}': there are no rows")
    with paper_style():
        figure = _figure({_title(*key): found for key, found in lines.items()})
    return save_figure(figure, path)


def _title(case: str, of: str, measure: str) -> str:
    return " · ".join(word for word in (case, of, measure_title(measure)) if word)


def _figure(lines: Mapping[str, Sequence[Matrix]]) -> Figure:
    """Lines of matrices, each under its title; only the first of a line names its rows. Lengths are pixels."""
    from secateur.reports.drawing import Canvas

    canvas, top = Canvas(), 0.0
    names = max(len(name) for found in lines.values() for matrix in found for name in matrix.down)
    for title, found in lines.items():
        canvas.text(0, top, title, size=14, weight="bold")
        left, low = 6.2 * names + 10, top
        for place, matrix in enumerate(found):
            width = _WIDE * len(matrix.across)
            axes = canvas.axes(left, top + 32, width, _HIGH * len(matrix.down))
            _draw(axes, matrix, named=place == 0)
            left, low = left + width + 18, max(low, canvas.bottom(axes))
        top = low + 34
    canvas.text(0, top - 8, _held([matrix for found in lines.values() for matrix in found]))
    return canvas.figure


def _draw(axes: Axes, matrix: Matrix, named: bool) -> None:
    import numpy as np

    cells = np.full((len(matrix.down), len(matrix.across), 3), 1.0)
    for (down, across), (mean, _) in matrix.cells.items():
        place = matrix.down.index(down), matrix.across.index(across)
        strength = min(1.0, abs(mean))
        cells[place] = 1 + strength * (np.array(matrix.colour(mean)) / 255 - 1)
        ink = "#FFFFFF" if strength > _DARK else PAPER_INK
        axes.text(place[1], place[0], _text(mean), color=ink, size=12, ha="center", va="center")
    axes.imshow(cells, aspect="auto", interpolation="nearest")
    tilted = max(map(len, matrix.across)) > 6
    axes.set_xticks(
        range(len(matrix.across)),
        list(matrix.across),
        rotation=40 if tilted else 0,
        ha="right" if tilted else "center",
        rotation_mode="anchor" if tilted else "default",
    )
    axes.set_yticks(range(len(matrix.down)), list(matrix.down) if named else [""] * len(matrix.down))
    # white lines between cells
    axes.set_xticks(np.arange(len(matrix.across) - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(matrix.down) - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="#FFFFFF", linewidth=2)
    axes.tick_params(which="both", length=0, labelsize=11)
    axes.spines[:].set_visible(False)
    axes.set_title(matrix.dataset, size=12, weight="bold", loc="left", pad=6)
    if all(map(str.isdigit, matrix.across)):
        axes.set_xlabel("samples per class")


def _text(mean: float) -> str:
    return f"{mean:.2f}".replace("-0.00", "0.00").replace("-", "−")


def _shared(row: RankingRow, folded: bool) -> str:
    own = row.criterion is not None and not (folded and row.criterion == row.a)
    words = [row.criterion or ""] if own else []
    if row.samples_per_class is not None and not folded:
        words.append(f"{row.samples_per_class} samples per class")
    return ", ".join(words)


register_section(Rankings, name="rankings", template="rankings.html", view=_view)
