"""Integers that remember where they come from."""

from __future__ import annotations

import dis
import operator
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

import torch

from secateur.structure.source import PASSED_OVER

PASSED_OVER.add(__file__)
_FOLDER = str(Path(__file__).parent)


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


def _notice(self: Size, others: tuple[Any, ...], side: str) -> None:
    if Size.noticed is None:
        return
    Size.noticed(self, side)
    for other in others:
        if isinstance(other, Size):
            Size.noticed(other, "right" if side == "left" else "left")


def plain(value: Any) -> Any:
    """A size as the integer that it is; anything else as it is."""
    return int.__int__(value) if isinstance(value, Size) else value


def _arithmetic(name: str, swapped: bool) -> Callable[[Size, Any], Any]:
    """What is an integer again remembers both operands; with a real number it is a factor."""
    function = getattr(operator, name)

    def method(self: Size, other: Any) -> Any:
        if isinstance(other, torch.Tensor):
            return NotImplemented  # the tensor's own method gets the size as it is
        if type(other) in (int, Size):
            left, right = (other, self) if swapped else (self, other)
            return Size.of(function(plain(left), plain(right)), "op", name, left, right)
        _notice(self, (), "right" if swapped else "left")
        return function(other, plain(self)) if swapped else function(plain(self), other)

    return method


def _factor(name: str, side: str) -> Callable[..., Any]:
    """What is no size any more: the number that the network was trained with."""
    function = getattr(int, name)

    def method(self: Size, *others: Any) -> Any:
        if any(isinstance(other, torch.Tensor) for other in others):
            return NotImplemented
        _notice(self, others, side)
        return function(plain(self), *map(plain, others))

    return method


def _comparison(name: str) -> Callable[[Size, Any], Any]:
    function = getattr(int, f"__{name}__")

    def method(self: Size, other: Any) -> Any:
        sorts = name not in ("eq", "ne")  # as min, max and sorted do for their caller
        frame = sys._getframe(1)
        told = Size.looked_at if isinstance(other, (int, float)) and not _is_own(frame) else None
        if told is not None and (sorts or _compares(frame)):
            told(self, name, other)
        return function(plain(self), plain(other))

    return method


def _is_own(frame: FrameType) -> bool:
    """Whether a correction compares, which stands in the place of the network's code."""
    return frame.f_code.co_filename.startswith(_FOLDER)


def _compares(frame: FrameType) -> bool:
    """Whether code compares, and not a function that it calls with a size (a cache of its results, say)."""
    return dis.opname[frame.f_code.co_code[frame.f_lasti]] in ("COMPARE_OP", "CONTAINS_OP")


def _look(name: str, what: str) -> Callable[..., Any]:
    function = getattr(int, name)

    def method(self: Size, *others: Any) -> Any:
        if Size.looked_at is not None:
            Size.looked_at(self, what, None)
        return function(plain(self), *others)

    return method


def _negative(self: Size) -> Size:
    return Size.of(-plain(self), "op", "sub", 0, self)


_FACTORS = {
    "pow": "left", "rpow": "right", "truediv": "left", "rtruediv": "right", "divmod": "left", "rdivmod": "right",
    "lshift": "left", "rlshift": "right", "rshift": "left", "rrshift": "right", "and": "left", "rand": "right",
    "or": "left", "ror": "right", "xor": "left", "rxor": "right", "float": "", "int": "", "round": "", "floor": "",
    "ceil": "", "trunc": "", "abs": "", "invert": "",
}  # fmt: skip


def _give_methods(kind: Any) -> None:
    for name in ("add", "sub", "mul", "floordiv", "mod"):
        setattr(kind, f"__{name}__", _arithmetic(name, False))
        setattr(kind, f"__r{name}__", _arithmetic(name, True))
    for name, side in _FACTORS.items():
        setattr(kind, f"__{name}__", _factor(f"__{name}__", side))
    for name in ("eq", "ne", "lt", "le", "gt", "ge"):
        setattr(kind, f"__{name}__", _comparison(name))
    for name, what in (("__str__", "text"), ("__repr__", "text"), ("__format__", "text"), ("__bool__", "bool")):
        setattr(kind, name, _look(name, what))
    kind.__neg__ = _negative
    kind.__pos__ = lambda self: self
    kind.__hash__ = int.__hash__


_give_methods(Size)
