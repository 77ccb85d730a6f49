"""What is asked of a study's table: which column is measured, what is compared, over what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from secateur.core.errors import RequestError

MISSING = "missing"
"""Stands where a row has no value in a column, as a budget of the unpruned network."""


@dataclass(frozen=True)
class Condition:
    """Rows that count.

    Attributes:
        column: of the table.
        value: that it has; as text, as the table shows it; ``missing``: it has none.
        equal: False: all values but this one.

    Example:
        >>> print(Condition.parse("criterion!=none"))
        criterion!=none
    """

    column: str
    value: str
    equal: bool = True

    @staticmethod
    def parse(text: str) -> Condition:
        """From ``column=value`` or ``column!=value``.

        Raises:
            RequestError: for anything else.
        """
        column, sign, value = text.partition("=")
        equal = not column.endswith("!")
        name = column.removesuffix("!").strip()
        if not sign or not name:
            raise RequestError(f"'{text}' is no condition; give column=value or column!=value")
        return Condition(name, value.strip(), equal)

    def holds(self, value: Any) -> bool:
        """Whether a value of the column is meant; numbers are compared as numbers."""
        return (_is(value, self.value)) == self.equal

    def __str__(self) -> str:
        return f"{self.column}{'=' if self.equal else '!='}{self.value}"


def _is(value: Any, text: str) -> bool:
    if text == MISSING and (value is None or str(value) in ("nan", "<NA>")):
        return True
    if isinstance(value, (int, float)) and type(value) is not bool:
        try:
            return float(text) == float(value)
        except ValueError:
            return False
    return str(value).lower() == text.lower() if str(value) in ("True", "False") else str(value) == text


@dataclass(frozen=True)
class Question:
    """Which candidates are compared by what, and over what.

    A table has one row for each value of all these columns together, after the conditions.

    Attributes:
        table: of the study, as it is written.
        measure: column that is measured.
        compare: columns whose values are the candidates.
        pairs: columns of the repetitions that candidates are paired over, such as seeds.
        blocks: columns of what candidates are ranked over, independent of each other: data sets, networks, subsets.
        average: columns over which the mean is taken, such as budgets: they are no repetitions.
        conditions: on the rows that count; all must hold.
        lower_is_better: as of losses and times.
    """

    table: str
    measure: str
    compare: tuple[str, ...]
    pairs: tuple[str, ...] = ("seed",)
    blocks: tuple[str, ...] = ()
    average: tuple[str, ...] = ()
    conditions: tuple[Condition, ...] = ()
    lower_is_better: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """That tell rows apart."""
        return (*self.compare, *self.pairs, *self.blocks, *self.average)
