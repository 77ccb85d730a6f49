"""Tables of a study: columns with a type, a unit and a meaning, declared once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secateur.core.errors import SecateurError

if TYPE_CHECKING:
    import pandas as pd

Row = Mapping[str, Any]

Kind = type[str] | type[int] | type[float] | type[bool] | type[bytes]

DTYPES: dict[type, Any] = {str: "object", int: "Int64", float: "float64", bool: "boolean", bytes: "object"}
"""Of pandas columns. Columns without gaps become plain integers and booleans."""


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: of the column.
        kind: str, int, float, bool or bytes.
        meaning: in words, for the documentation.
        unit: of the values; "" for none.
        optional: whether a value may be missing; NaN is a missing value.
        timed: whether values are measured times, which differ from run to run.
    """

    name: str
    kind: Kind
    meaning: str
    unit: str = ""
    optional: bool = False
    timed: bool = False


@dataclass(frozen=True)
class Schema:
    """The columns of one table, in order.

    Attributes:
        columns: in order.
        meaning: of a row, in words.

    Example:
        >>> schema = Schema((Column("seed", int, "of the samples"), Column("accuracy", float, "right answers")))
        >>> schema.check({"seed": 0, "accuracy": 0.5})
        {'seed': 0, 'accuracy': 0.5}
        >>> schema.check({"seed": 0})
        Traceback (most recent call last):
            ...
        secateur.core.errors.SecateurError: a row lacks 'accuracy'; give a value for every column that is not optional
    """

    columns: tuple[Column, ...]
    meaning: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns."""
        return tuple(column.name for column in self.columns)

    def check(self, row: Row) -> dict[str, Any]:
        """The row with plain Python values, in the order of the columns.

        Raises:
            SecateurError: for an unknown or missing column, or a value of another type, or one that databases refuse.
        """
        unknown = [name for name in row if name not in self.names]
        if unknown:
            raise SecateurError(f"a row has a column '{unknown[0]}' that its table does not; declare it in the schema")
        return {column.name: _checked(column, row.get(column.name)) for column in self.columns}

    def frame(self, rows: Iterable[Row] | Sequence[Sequence[Any]]) -> pd.DataFrame:
        """Rows as a pandas frame with the declared types."""
        import pandas as pd

        frame = pd.DataFrame(list(rows), columns=list(self.names))
        for column in self.columns:
            values = frame[column.name].astype(DTYPES[column.kind])
            if column.kind in (int, bool) and not values.isna().any():
                values = values.astype(column.kind)
            frame[column.name] = values
        return frame

    def markdown(self) -> str:
        """Table of the columns, for the documentation."""
        lines = ["| column | type | unit | meaning |", "|---|---|---|---|"]
        for column in self.columns:
            kind = f"{column.kind.__name__}{', may be empty' if column.optional else ''}"
            lines.append(f"| `{column.name}` | {kind} | {column.unit} | {column.meaning} |")
        return "\n".join(lines)


def _checked(column: Column, value: Any) -> Any:
    if value is None:
        if not column.optional:
            raise SecateurError(f"a row lacks '{column.name}'; give a value for every column that is not optional")
        return None
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()  # NumPy's and PyTorch's numbers
    kind = column.kind
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise SecateurError(f"column '{column.name}' takes {kind.__name__}, got {value!r}")
    if isinstance(value, float) and math.isnan(value):
        if not column.optional:
            raise SecateurError(
                f"column '{column.name}' takes a number, got NaN; let it be optional if it may be missing"
            )
        return None
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise SecateurError(f"column '{column.name}' takes integers of 64 bits, got {value}; use a column of floats")
    if isinstance(value, str) and not _is_text(value):
        raise SecateurError(f"column '{column.name}' takes text, got {value!r}, which UTF-8 or databases cannot hold")
    return value


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\x00" not in value
