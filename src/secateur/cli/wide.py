"""Tables of wide text that fit 100 columns."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.table import Table

WIDTH = 100
"""Columns that every table fits."""


def folded_table(columns: Iterable[tuple[str, str]]) -> Table:
    """A table of names, which wrap where they have to, and of columns that do not."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left", caption_justify="left", expand=False)
    for index, (name, side) in enumerate(columns):
        fold = index == 0
        table.add_column(
            name,
            justify="right" if side == "right" else "left",
            no_wrap=not fold,
            overflow="fold",
            max_width=40 if fold else None,
        )
    return table


def print_table(table: Table, title: str, caption: str = "") -> None:
    """Print a table between a title and a caption."""
    console = Console(highlight=False, markup=False)
    console.width = min(WIDTH, console.width) if console.is_terminal else WIDTH
    console.print(title)
    console.print(table)
    if caption:
        console.print(caption)
