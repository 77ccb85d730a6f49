"""Integers that remember where they come from."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, ClassVar

from secateur.structure.source import PASSED_OVER

PASSED_OVER.add(__file__)


class Size(int):
    """An integer that remembers where it comes from.

    Where code makes a factor of it (``head_dim ** -0.5``), ``noticed`` is told, with the operand that it is (``left``,
    ``right``, or the argument of a call): a trained network wants the factor that it was trained with, whatever the
    size becomes.

    ``source`` is ``("size", tensor, dim)``, ``("attr", module path, name)``, ``("op", name, left, right)`` or
    ``("corrected", value)``, where surgery has put the number in the place of a value that the code gives.
    """

    source: tuple[Any, ...]
    noticed: ClassVar[Callable[[Size, str], None] | None] = None

    @classmethod
    def of(cls, value: int, *source: Any) -> Size:
        """A size with its source."""
        size = cls(value)
        size.source = source
        return size


def corrected(number: Any, value: Any, together: bool = False) -> Any:
    """A number, or several, in the place of what code gives; while a network is traced, they remember that.

    Args:
        number: or a tuple of numbers and None.
        value: what the code gives: a number, or as many.
        together: whether all numbers stand for ``value`` as a whole.
    """
    if Size.noticed is None:
        return number
    if not isinstance(number, tuple):
        return Size.of(number, "corrected", value)
    values = [value] * len(number) if together else value
    return tuple(None if n is None else Size.of(n, "corrected", v) for n, v in zip(number, values, strict=True))


def _arithmetic(name: str, swapped: bool) -> Callable[[Size, Any], Any]:
    function = getattr(operator, name)

    def method(self: Size, other: Any) -> Any:
        if type(other) not in (int, Size):
            plain = int(self)
            return function(other, plain) if swapped else function(plain, other)
        left, right = (other, self) if swapped else (self, other)
        return Size.of(function(int(left), int(right)), "op", name, left, right)

    return method


def _factor(name: str, side: str) -> Callable[..., Any]:
    function = getattr(int, name)

    def method(self: Size, *others: Any) -> Any:
        if Size.noticed is not None:
            Size.noticed(self, side)
            for other in others:
                if isinstance(other, Size):
                    Size.noticed(other, "right" if side == "left" else "left")
        return function(int(self), *map(_as_int, others))

    return method


def _as_int(value: Any) -> Any:
    return int(value) if isinstance(value, Size) else value


_SIDES = {"pow": "left", "rpow": "right", "truediv": "left", "rtruediv": "right", "float": ""}
for _name, _side in _SIDES.items():
    setattr(Size, f"__{_name}__", _factor(f"__{_name}__", _side))
for _name in ("add", "sub", "mul", "floordiv", "mod"):
    setattr(Size, f"__{_name}__", _arithmetic(_name, False))
    setattr(Size, f"__r{_name}__", _arithmetic(_name, True))
