"""Integers that remember where they come from."""

from __future__ import annotations

import dis
import operator
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, ClassVar

from secateur.structure.source import PASSED_OVER

PASSED_OVER.add(__file__)


class Size(int):
    """An integer that remembers where it comes from.

    Where code makes a factor of it (``head_dim ** -0.5``), ``noticed`` is told, with the operand that it is (``left``,
    ``right``, or the argument of a call): a trained network wants the factor that it was trained with, whatever the
    size becomes. Where code compares it with another number, or makes text of it, ``looked_at`` is told, with the name
    of the comparison (``text`` and ``bool`` for the others) and the other number.

    ``source`` is ``("size", tensor, dim)``, ``("attr", module path, name)``, ``("op", name, left, right)`` or
    ``("corrected", value)``, where surgery has put the number in the place of a value that the code gives.
    """

    source: tuple[Any, ...]
    noticed: ClassVar[Callable[[Size, str], None] | None] = None
    looked_at: ClassVar[Callable[[Size, str, Any], None] | None] = None

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


def _comparison(name: str) -> Callable[[Size, Any], Any]:
    function = getattr(int, f"__{name}__")

    def method(self: Size, other: Any) -> Any:
        if Size.looked_at is not None and isinstance(other, (int, float)) and _compares(sys._getframe(1)):
            Size.looked_at(self, name, other)
        return function(int(self), _as_int(other))

    return method


def _compares(frame: FrameType) -> bool:
    """Whether code compares, and not a function that it calls with a size (a cache of its results, say)."""
    return dis.opname[frame.f_code.co_code[frame.f_lasti]] in ("COMPARE_OP", "CONTAINS_OP")


def _text(name: str, what: str) -> Callable[..., Any]:
    function = getattr(int, name)

    def method(self: Size, *others: Any) -> Any:
        if Size.looked_at is not None:
            Size.looked_at(self, what, None)
        return function(int(self), *others)

    return method


for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(Size, f"__{_name}__", _comparison(_name))
for _name, _what in (("__str__", "text"), ("__repr__", "text"), ("__format__", "text"), ("__bool__", "bool")):
    setattr(Size, _name, _text(_name, _what))
Size.__hash__ = int.__hash__  # type: ignore[method-assign]
def _negative(self: Size) -> Size:
    return Size.of(-int(self), "op", "sub", 0, self)


Size.__neg__ = _negative  # type: ignore[assignment, method-assign]
_SIDES = {"pow": "left", "rpow": "right", "truediv": "left", "rtruediv": "right", "float": ""}
for _name, _side in _SIDES.items():
    setattr(Size, f"__{_name}__", _factor(f"__{_name}__", _side))
for _name in ("add", "sub", "mul", "floordiv", "mod"):
    setattr(Size, f"__{_name}__", _arithmetic(_name, False))
    setattr(Size, f"__r{_name}__", _arithmetic(_name, True))
