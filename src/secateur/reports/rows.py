"""Rows of a report's tables: each kind is declared once, as a frozen dataclass, and read from dictionaries."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError

from secateur.core.errors import RequestError

if TYPE_CHECKING:
    import pandas as pd

R = TypeVar("R")

STRICT = ConfigDict(extra="forbid")
ROW = ConfigDict(extra="forbid", coerce_numbers_to_str=True)

# JSON has no NaN: a diverged loss is written as null and read back as NaN.
Figure = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]


def read_rows(kind: type[R], rows: Iterable[Mapping[str, Any] | R] | pd.DataFrame) -> list[R]:
    """Typed rows from dictionaries, or from the lines of a pandas frame.

    Columns that ``kind`` does not declare are left out; gaps (``None``, NaN, "") take its defaults.

    Args:
        kind: one of the row types, as `secateur.reports.GainRow`; a field whose column has another name says so in its
            metadata (``column``).
        rows: dictionaries by column; rows that are of this kind already stay as they are.

    Raises:
        RequestError: for a row that lacks a column without default, or a value of another type.

    Example:
        >>> from secateur.reports import TimingRow
        >>> read_rows(TimingRow, [{"criterion": "lrp", "scoring_s": 0.5, "host": "a"}])[0].scoring_s
        0.5
        >>> read_rows(TimingRow, [{"scoring_s": 0.5}])
        Traceback (most recent call last):
            ...
        secateur.core.errors.RequestError: row 0 (TimingRow) has no criterion; give criterion
    """
    items: Iterable[Any] = rows.to_dict("records") if hasattr(rows, "to_dict") else rows
    columns = {field.metadata.get("column", field.name): field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    needed = [name for name, field in columns.items() if not _has_default(field)]
    found = []
    for place, row in enumerate(items):
        if isinstance(row, kind):
            found.append(row)
            continue
        absent = [name for name in needed if name not in row]
        if absent:
            raise RequestError(f"row {place} ({kind.__name__}) has no {', '.join(absent)}; give {', '.join(needed)}")
        values = {field.name: plain(row[name]) for name, field in columns.items() if name in row}
        optional = {field.name for field in columns.values() if _has_default(field)}
        values = {name: value for name, value in values.items() if name not in optional or value not in (None, "")}
        try:
            found.append(_adapter(kind).validate_python(values))  # type: ignore[arg-type]
        except ValidationError as error:
            raise RequestError(f"row {place} ({kind.__name__}): {first_error(error)}") from error
    return found


def plain(value: Any) -> Any:
    """JSON-ready dictionaries, lists and numbers; numbers that are not finite become ``None``."""
    if hasattr(value, "tolist"):  # NumPy's scalars and arrays, without loading it
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def number(value: Any) -> float | None:
    """Return a finite float, or ``None`` for everything else.

    Example:
        >>> number(3), number(float("nan")), number("3"), number(None)
        (3.0, None, None, None)
    """
    if isinstance(value, bool | str) or value is None:
        return None
    try:
        result = float(value)
    except (TypeError, ValueError):
        return None
    return result if math.isfinite(result) else None


def first_error(error: ValidationError) -> str:
    """Where the first thing is wrong, and what."""
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


@cache
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
