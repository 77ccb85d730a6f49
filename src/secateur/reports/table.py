"""Tables of the page: what is in their cells; templates/parts.html says how they look."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

LIMIT = 20
"""Lines of a table that are shown at once."""


@dataclass(frozen=True)
class Cell:
    """One cell; all of it is plain text.

    Attributes:
        text: its words or number.
        bold: the best of its column.
        note: softer, behind the text.
        below: softer, on a line of its own.
        title: shown when the pointer is on it.
        colour: CSS colour behind the text.
    """

    text: str
    bold: bool = False
    note: str = ""
    below: str = ""
    title: str = ""
    colour: str = ""


Cells: TypeAlias = Sequence[Cell | str | Sequence[Cell]]


@dataclass(frozen=True)
class Table:
    """A table in a panel of its own: of more than `LIMIT` lines the others are folded away.

    Attributes:
        head: titles of the columns.
        lines: cells of each line, the first names it; a cell may be a list of cells. ``None`` is a rule between groups.
        caption: above the table.
        words: that many columns from the left hold words, the others numbers.
        beneath: lines of text: what holds for the table.
        over: titles above the head, each with the number of columns that it spans.
        rest: in place of lines that are folded away, a link to a file with all rows; see `csv_link`.

    Example:
        >>> table = Table(("criterion", "accuracy, %"), [(f"criterion {place}", "90.0") for place in range(25)])
        >>> [len(group) for group in table.shown], table.hidden
        ([20], 5)
    """

    head: Sequence[str]
    lines: Sequence[Cells | None]
    caption: str = ""
    words: int = 1
    beneath: Sequence[str] = ()
    over: Sequence[tuple[str, int]] = ()
    rest: Mapping[str, str] | None = None

    @property
    def shown(self) -> list[list[Cells]]:
        """The first lines, in their groups."""
        return _groups(self.lines[:LIMIT])

    @property
    def folded(self) -> list[list[Cells]]:
        """The other lines."""
        return _groups(self.lines[LIMIT:])

    @property
    def hidden(self) -> int:
        """How many lines are not among the first."""
        return max(0, len(self.lines) - LIMIT)


def csv_link(rows: Sequence[Mapping[str, Any]], name: str, words: str) -> dict[str, str]:
    """A link that saves rows as a CSV file, which the page carries along.

    Args:
        rows: their columns in the order of first appearance.
        name: of the file.
        words: of the link.

    Example:
        >>> csv_link([{"a": 1}], "rows.csv", "All rows")["href"]
        'data:text/csv;base64,YQoxCg=='
    """
    columns = dict.fromkeys(column for row in rows for column in row)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _harmless(value) for key, value in row.items()} for row in rows)
    data = base64.b64encode(text.getvalue().encode()).decode("ascii")
    return {"name": name, "href": f"data:text/csv;base64,{data}", "words": words}


def _harmless(value: Any) -> Any:
    """Spreadsheets run text that begins like a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _groups(lines: Iterable[Cells | None]) -> list[list[Cells]]:
    groups: list[list[Cells]] = [[]]
    for line in lines:
        if line is None:
            groups.append([])
        else:
            groups[-1].append(line)
    return [group for group in groups if group]
