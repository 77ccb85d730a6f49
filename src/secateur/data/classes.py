"""Selection of classes by index or name, in the same way everywhere."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from secateur.core.errors import RequestError
from secateur.core.names import did_you_mean

if TYPE_CHECKING:
    import numpy as np

LISTED = 20
"""Number of known classes that a message names."""


def class_indices(
    classes: Sequence[int | str] | np.ndarray, names: Sequence[str], present: Iterable[int] | None = None
) -> tuple[int, ...]:
    """Indices of the requested classes, ascending.

    Args:
        classes: indices, names, or digits as text; a class with the name "3" takes precedence over the one at index 3.
        names: names of the classes by index; empty where they have none.
        present: existing indices, for classes without names, or in addition to the named ones.

    Raises:
        RequestError: for an unknown class, a name that several classes have, an empty list, or a class named twice.

    Example:
        >>> class_indices(["dog", 0], ("cat", "cow", "dog"))
        (0, 2)
        >>> class_indices(["dgo"], ("cat", "cow", "dog"))
        Traceback (most recent call last):
            ...
        secateur.core.errors.RequestError: unknown class 'dgo' (did you mean 'dog'?); known: cat, cow, dog
    """
    return tuple(sorted(indices_in_order(classes, names, present)))


def indices_in_order(
    classes: Sequence[int | str] | np.ndarray, names: Sequence[str], present: Iterable[int] | None = None
) -> list[int]:
    """Like `class_indices`, in the order of the request."""
    if isinstance(classes, str) or not len(classes):
        raise RequestError(f"classes must be a non-empty list of names or indices, got {classes!r}")
    names = tuple(names)
    known = {*range(len(names)), *(() if present is None else map(int, present))}
    requests: dict[int, object] = {}
    for item in classes:
        index = _index(item, names, known)
        if index in requests:
            raise RequestError(
                f"class {label_of(index, names)} is asked for twice (as {requests[index]!r} and {item!r}); "
                "give classes without repeats"
            )
        requests[index] = item
    return list(requests)


def label_of(index: int, names: Sequence[str]) -> str:
    """A class in messages: its name in quotes, or its index.

    Example:
        >>> label_of(1, ("cat", "dog")), label_of(2, ())
        ("'dog'", '2')
    """
    return f"'{names[index]}'" if 0 <= index < len(names) else str(index)


def _index(item: object, names: tuple[str, ...], known: set[int]) -> int:
    if isinstance(item, str) and item in names:
        if names.count(item) > 1:
            several = [str(i) for i, name in enumerate(names) if name == item]
            raise RequestError(f"class name {item!r} belongs to classes {' and '.join(several)}; give the index")
        return names.index(item)
    index = _number(item)
    if index is None or index not in known:
        shown = names or tuple(map(str, sorted(known)))
        hint = did_you_mean(item, shown) if isinstance(item, str) else ""
        more = f" ... and {len(shown) - LISTED} more" if len(shown) > LISTED else ""
        shown_item = repr(item) if isinstance(item, str) or index is None else index
        raise RequestError(f"unknown class {shown_item}{hint}; known: {', '.join(shown[:LISTED])}{more}")
    return index


def _number(item: object) -> int | None:
    """An index, as a Python or NumPy integer or as digits; None for anything else."""
    if isinstance(item, str):
        return int(item) if item.isdecimal() else None
    try:
        return None if isinstance(item, bool) else operator.index(item)  # type: ignore[arg-type]
    except TypeError:
        return None
