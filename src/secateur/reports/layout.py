"""Tables and figures of the page as HTML: short ones whole, of long ones the first lines and the rest on demand."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

LIMIT = 20
"""Lines of a table that are shown at once."""


def section(title: str, content: str) -> str:
    """One section of the page; ``content`` is HTML."""
    return f"<section><h2>{title}</h2>{content}</section>"


def table(caption: str, head: str, lines: Sequence[str], beneath: str = "", rest: str = "") -> str:
    """A table in a panel of its own; all arguments are HTML.

    Args:
        caption: above the table; may be empty.
        head: cells of the head.
        lines: ``<tr>`` elements, or what stands between them; of more than `LIMIT` the others are folded away.
        beneath: what holds for the table.
        rest: in place of the lines beyond `LIMIT`, as a link to a file that holds them all.
    """
    title = f"<caption>{caption}</caption>" if caption else ""
    first = _rows(title, head, lines[:LIMIT])
    more = len(lines) - LIMIT
    if more > 0:
        first += rest or f"<details><summary>{more} more lines</summary>{_rows('', head, lines[LIMIT:])}</details>"
    return f'<div class="panel scroll">{first}{beneath}</div>'


def row(head: str, cells: Iterable[str], text: int = 0) -> str:
    """One line of a table; ``text`` cells from the left are words, the others numbers."""
    inner = "".join(f"<td{' class=text' if place < text else ''}>{cell}</td>" for place, cell in enumerate(cells))
    return f"<tr>{head}{inner}</tr>"


def csv_link(rows: Sequence[Mapping[str, Any]], name: str, words: str) -> str:
    """A link that saves rows as a CSV file, which the page carries along.

    Args:
        rows: their columns in the order of first appearance.
        name: of the file.
        words: of the link, as HTML.

    Example:
        >>> csv_link([{"a": 1}], "rows.csv", "All rows").split(",")[-1]
        'YQoxCg==">All rows</a></p>'
    """
    columns = dict.fromkeys(column for row in rows for column in row)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _harmless(value) for key, value in row.items()} for row in rows)
    data = base64.b64encode(text.getvalue().encode()).decode("ascii")
    return f'<p class="file"><a download="{name}" href="data:text/csv;base64,{data}">{words}</a></p>'


def _harmless(value: Any) -> Any:
    """Spreadsheets run text that begins like a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _rows(caption: str, head: str, lines: Sequence[str]) -> str:
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
