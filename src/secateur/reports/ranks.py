"""How alike pruning orders are: matrices of rank correlations and of shares of common units."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from secateur.core.errors import RequestError
from secateur.reports import captions
from secateur.reports.conditions import span
from secateur.reports.look import PAPER_INK, Chart, picture_path, rgb, save_chart
from secateur.reports.summary import Row, number

_NEEDED = ("dataset", "measure", "case", "a", "b", "mean")
_CORRELATIONS = {"spearman": "Spearman’s ρ", "kendall": "Kendall’s τ"}
# ColorBrewer's blue and orange for both signs of a correlation, green for shares: white numbers are legible on each.
_ABOVE, _BELOW, _SHARE = "#2166AC", "#B35806", "#2F7353"
_DARK = 0.78  # beyond this share of the full colour, numbers are written in white
_WIDE, _HIGH = 42, 32  # a cell, in pixels


@dataclass(frozen=True)
class Matrix:
    """Means of one measure for all pairs that one case compares.

    Attributes:
        dataset: the data set.
        measure: ``spearman`` or ``kendall``, -1..1; or a share of common units, 0..1: ``first``, ``last``, with the
            number of units behind it where there are several (``first-250``).
        case: what is compared.
        of: what all pairs share, as a criterion or a number of samples; may be empty.
        across: names of the columns.
        down: names of the rows.
        cells: mean and standard deviation by name of row and column.
        pairs: of runs behind the means, where known.
    """

    dataset: str
    measure: str
    case: str
    of: str
    down: tuple[str, ...]
    across: tuple[str, ...]
    cells: dict[tuple[str, str], tuple[float, float | None]]
    pairs: tuple[int, ...] = ()


def matrices(rows: Iterable[Row]) -> list[Matrix]:
    """Sort rows into matrices; names keep the order in which they come first.

    Args:
        rows: with dataset, measure, case, a, b and mean; sd, criterion, samples_per_class and pairs may be missing.
            Rows that differ in criterion or samples_per_class belong to different matrices. Where each name is
            compared only with itself, at several samples_per_class, these are the columns of one matrix.

    Raises:
        RequestError: for a row without one of these columns, or an unknown measure.

    Example:
        >>> row = {"dataset": "moon", "measure": "spearman", "case": "criteria", "a": "lrp", "b": "taylor", "mean": 0.5}
        >>> matrix, = matrices([row])
        >>> matrix.down, matrix.across, matrix.cells
        (('lrp',), ('taylor',), {('lrp', 'taylor'): (0.5, None)})
    """
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for place, row in enumerate(rows):
        absent = [name for name in _NEEDED if name not in row]
        if absent:
            raise RequestError(
                f"row {place} of the rank matrices has no {', '.join(absent)}; give {', '.join(_NEEDED)}"
            )
        measure_title(str(row["measure"]))
        groups.setdefault((str(row["case"]), str(row["dataset"]), str(row["measure"])), []).append(row)
    found = []
    for (case, dataset, measure), members in groups.items():
        counts = {row.get("samples_per_class") for row in members} - {None}
        folded = len(counts) > 1 and all(str(row["a"]) == str(row["b"]) for row in members)
        parts: dict[str, list[Row]] = {}
        for row in members:
            parts.setdefault(_shared(row, folded), []).append(row)
        for of, these in parts.items():
            pairs = [(str(row["a"]), _count(row) if folded else str(row["b"])) for row in these]
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
                        pair: (mean, number(row.get("sd")))
                        for pair, row in zip(pairs, these, strict=True)
                        if (mean := number(row["mean"])) is not None
                    },
                    pairs=tuple(int(count) for row in these if (count := number(row.get("pairs")))),
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


def ranks_chart(rows: Sequence[Row]) -> Chart:
    """One matrix as a heat map with its numbers: -1..1 from orange to blue for correlations, 0..1 green for shares.

    Args:
        rows: as for `matrices`, of one data set, measure and case.

    Raises:
        RequestError: for rows of no matrix or several.
    """
    found = matrices(rows)
    if len(found) != 1:
        raise RequestError(f"the rows make {len(found)} matrices; give those of one data set, measure and case")
    return _heat_map(found[0], title="", labels=1)


def save_ranks(rows: Sequence[Row], path: str | Path) -> Path:
    """Draw matrices as a static picture on white: columns by data set, rows by case and measure.

    Args:
        rows: as for `matrices`.
        path: ends in ``.svg``, ``.png`` (drawn at twice the size) or ``.pdf``.

    Raises:
        RequestError: for another ending, no rows, or rows without the columns needed.
        SecateurError: when the file cannot be written.
    """
    import altair as alt

    picture_path(path)
    lines: dict[tuple[str, str, str], list[Matrix]] = {}
    for matrix in matrices(rows):
        lines.setdefault((matrix.case, matrix.of, matrix.measure), []).append(matrix)
    if not lines:
        raise RequestError(f"cannot draw '{path}': there are no rows")
    room = max(7 * len(name) + 8 for found in lines.values() for matrix in found for name in matrix.down)
    drawn = []
    for (case, of, measure), found in lines.items():
        charts = [_heat_map(matrix, matrix.dataset, labels=0 if place else room) for place, matrix in enumerate(found)]
        words = " · ".join(word for word in (case, of, measure_title(measure)) if word)
        drawn.append(alt.hconcat(*charts, spacing=18, title=alt.TitleParams(words, offset=12)))
    beneath = matrices_line(matrix for found in lines.values() for matrix in found)
    return save_chart(alt.vconcat(*drawn, spacing=26), path, beneath)


def matrices_line(found: Iterable[Matrix]) -> str:
    """How many pairs of runs are behind the means of matrices, and their data sets."""
    matrices = list(found)
    counts = [count for matrix in matrices for count in matrix.pairs]
    data = ", ".join(dict.fromkeys(matrix.dataset for matrix in matrices))
    return captions.line(
        f"each number is the mean over {span(counts)} pairs of runs" if counts else "", f"data: {data}"
    )


def matrix_table(matrix: Matrix) -> str:
    """One matrix as an HTML table with coloured cells; the standard deviation is in each cell's tooltip."""
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in matrix.across)
    body = "".join(
        f'<tr><th scope="row">{escape(down)}</th>'
        f"{''.join(_cell(matrix, matrix.cells.get((down, across))) for across in matrix.across)}</tr>"
        for down in matrix.down
    )
    return f"<table><thead><tr><td></td>{heads}</tr></thead><tbody>{body}</tbody></table>"


def _cell(matrix: Matrix, cell: tuple[float, float | None] | None) -> str:
    if cell is None:
        return "<td></td>"
    mean, sd = cell
    colour, strength = _look(matrix.measure, mean)
    red, green, blue = rgb(colour)
    spread = "" if sd is None else f' title="± {sd:.2f}"'
    return f'<td style="background:rgb({red} {green} {blue}/{0.65 * strength:.2f})"{spread}>{_text(mean)}</td>'


def _look(measure: str, mean: float) -> tuple[str, float]:
    """Hue of a value, and how much of it, 0..1."""
    hue = (_ABOVE if mean >= 0 else _BELOW) if measure in _CORRELATIONS else _SHARE
    return hue, min(1.0, abs(mean))


def _text(mean: float) -> str:
    return f"{mean:.2f}".replace("-0.00", "0.00").replace("-", "−")


def _heat_map(matrix: Matrix, title: str, labels: int) -> Chart:
    """Draw a matrix; ``labels`` is the least room for the names of its rows, in pixels, 0 to leave them out."""
    import altair as alt

    values: list[dict[str, Any]] = []
    for (down, across), (mean, sd) in matrix.cells.items():
        ink = "#FFFFFF" if _look(matrix.measure, mean)[1] > _DARK else PAPER_INK
        values.append({"down": down, "across": across, "mean": mean, "sd": sd, "text": _text(mean), "ink": ink})
    colours = (_BELOW, "#FFFFFF", _ABOVE) if matrix.measure in _CORRELATIONS else ("#FFFFFF", _SHARE)
    scale = alt.Scale(domain=[-1, 0, 1][-len(colours) :], range=list(colours), interpolate="rgb")
    bare: dict[str, Any] = {"ticks": False, "domain": False, "labelLimit": 160}
    counts = "samples per class" if all(map(str.isdigit, matrix.across)) else None
    angle = 0 if max(map(len, matrix.across)) <= 6 else -40
    base = alt.Chart(alt.InlineData(values=values)).encode(
        x=alt.X("across:N", sort=list(matrix.across), title=counts).axis(labelAngle=angle, labelPadding=6, **bare),
        y=alt.Y("down:N", sort=list(matrix.down), title=None).axis(
            labels=labels > 0, labelPadding=8, minExtent=labels, **bare
        ),
    )
    cells = base.mark_rect(stroke="#FFFFFF", strokeWidth=2, cornerRadius=3).encode(
        color=alt.Color("mean:Q", scale=scale, legend=None)
    )
    numbers = base.mark_text(fontSize=12).encode(text="text:N", color=alt.Color("ink:N", scale=None))
    chart: Chart = alt.layer(cells, numbers, description=f"{measure_title(matrix.measure)}: {matrix.case}")
    chart = chart.resolve_scale(color="independent")
    return chart.properties(
        width=_WIDE * len(matrix.across),
        height=_HIGH * len(matrix.down),
        title=alt.TitleParams(title, frame="group", fontSize=12),
    )


def _shared(row: Row, folded: bool) -> str:
    own = row.get("criterion") is not None and not (folded and str(row["criterion"]) == str(row["a"]))
    words = [str(row["criterion"])] if own else []
    if row.get("samples_per_class") is not None and not folded:
        words.append(f"{_count(row)} samples per class")
    return ", ".join(words)


def _count(row: Row) -> str:
    count = number(row.get("samples_per_class"))
    return "–" if count is None else f"{count:g}"
