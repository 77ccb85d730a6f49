"""Progress of long work, on standard error; silent where nobody watches."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import track as rich_track

T = TypeVar("T")

_drawing = False


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Iterate with a progress bar on standard error when it is a terminal.

    Example:
        >>> list(track([1, 2], "counting"))
        [1, 2]
    """
    global _drawing
    # rich allows one live display at a time: nested work, and work nobody watches, goes without
    if _drawing or not sys.stderr.isatty():
        yield from items
        return
    _drawing = True
    try:
        yield from rich_track(items, description, total=total, console=Console(stderr=True), transient=True)
    finally:
        _drawing = False
