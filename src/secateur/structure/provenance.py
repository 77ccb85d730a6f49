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

    Where code computes a factor from it (``head_dim ** -0.5``), ``on_factor`` is called with the size and its side as
    operand (``left``, ``right``, or empty for the argument of a call): a trained network needs the factor that it was
    trained with, whatever the size becomes. Where code compares the size with another number, or turns it into text or
    a truth value, ``on_comparison`` is called with the size, the name of the comparison (or ``text``, ``bool``) and the
    other number.

    ``source`` is ``("size", tensor, dim)``, ``("attr", module path, name)``, ``("op", name, left, right)`` or
    ``("corrected", value)``, where surgery replaced a value that the code passes by this number.
    """

    source: tuple[Any, ...]
    on_factor: ClassVar[Callable[[Size, str], None] | None] = None
    on_comparison: ClassVar[Callable[[Size, str, Any], None] | None] = None

    @classmethod
    def of(cls, value: int, *source: Any) -> Size:
        """A size with its source."""
        size = cls(value)
        size.source = source
        return size


def corrected(number: Any, value: Any, together: bool = False) -> Any:
    """A number, or several, that replace what code passes; during a trace they remember the replaced value.

    Args:
        number: the number, or a tuple of numbers and None.
        value: what the code passes: a number, or as many of them.
        together: whether all numbers together replace the one ``value``.
    """
    if Size.on_factor is None:
        return number
    if not isinstance(number, tuple):
        return Size.of(number, "corrected", value)
    values = [value] * len(number) if together else value
    return tuple(None if n is None else Size.of(n, "corrected", v) for n, v in zip(number, values, strict=True))


def _report_factor(self: Size, others: tuple[Any, ...], side: str) -> None:
    if Size.on_factor is None:
        return
    Size.on_factor(self, side)
    for other in others:
        if isinstance(other, Size):
            Size.on_factor(other, "right" if side == "left" else "left")


def plain(value: Any) -> Any:
    """A size as the integer that it is; anything else as it is."""
    return int.__int__(value) if isinstance(value, Size) else value


def _arithmetic(name: str, swapped: bool) -> Callable[[Size, Any], Any]:
    """Arithmetic whose integer results remember both operands; with a real number, the size is a factor."""
    function = getattr(operator, name)

    def method(self: Size, other: Any) -> Any:
        if isinstance(other, torch.Tensor):
            return NotImplemented  # the tensor's own method gets the size as it is
        if type(other) in (int, Size):
            left, right = (other, self) if swapped else (self, other)
            return Size.of(function(plain(left), plain(right)), "op", name, left, right)
        _report_factor(self, (), "right" if swapped else "left")
        return function(other, plain(self)) if swapped else function(plain(self), other)

    return method


def _factor(name: str, side: str) -> Callable[..., Any]:
    """Functions whose results are no sizes but factors, which keep the value that the network was trained with."""
    function = getattr(int, name)

    def method(self: Size, *others: Any) -> Any:
        if any(isinstance(other, torch.Tensor) for other in others):
            return NotImplemented
        _report_factor(self, others, side)
        return function(plain(self), *map(plain, others))

    return method


def _comparison(name: str) -> Callable[[Size, Any], Any]:
    function = getattr(int, f"__{name}__")

    def method(self: Size, other: Any) -> Any:
        sorts = name not in ("eq", "ne")  # min, max and sorted compare for their caller
        frame = sys._getframe(1)
        record = Size.on_comparison if isinstance(other, (int, float)) and not _is_own(frame) else None
        if record is not None and (sorts or _compares(frame)):
            record(self, name, other)
        return function(plain(self), plain(other))

    return method


def _is_own(frame: FrameType) -> bool:
    """Whether the comparison is made by a correction, on behalf of the network's code."""
    return frame.f_code.co_filename.startswith(_FOLDER)


def _compares(frame: FrameType) -> bool:
    """Whether the code itself compares, not a function that it calls with a size (such as a cache of results)."""
    return dis.opname[frame.f_code.co_code[frame.f_lasti]] in ("COMPARE_OP", "CONTAINS_OP")


def _reading(name: str, what: str) -> Callable[..., Any]:
    function = getattr(int, name)

    def method(self: Size, *others: Any) -> Any:
        if Size.on_comparison is not None:
            Size.on_comparison(self, what, None)
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
        setattr(kind, name, _reading(name, what))
    kind.__neg__ = _negative
    kind.__pos__ = lambda self: self
    kind.__hash__ = int.__hash__


_give_methods(Size)
