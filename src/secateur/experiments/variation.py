"""Another valid value for any field of settings, so that all of them can be tried."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from secateur.core.sections import Effect, effect_of

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Field:
    """A field of settings.

    Attributes:
        path: names that lead to it, with dots; positions in tuples are numbers.
        effect: of the section that it is in.
        annotation: its type.
        value: that it has.
    """

    path: str
    effect: Effect
    annotation: Any
    value: Any


def fields_of(settings: BaseModel, effect: Effect | None = None, path: str = "") -> Iterator[Field]:
    """All fields of settings, down to plain values.

    Args:
        settings: whose fields are sections with an effect, or groups of such; within a section, anything.
        effect: of the section that ``settings`` is or belongs to; None: it is a group.
        path: that leads to it.
    """
    for name, field in type(settings).model_fields.items():
        if name == "schema_version":
            continue
        value, own, place = getattr(settings, name), effect_of(field) or effect, f"{path}{name}"
        if not isinstance(value, BaseModel) or get_origin(field.annotation) in (Union, UnionType):
            assert own is not None, f"{place} has no effect"
            yield Field(place, own, field.annotation, value)
        if isinstance(value, BaseModel):
            yield from fields_of(value, own, f"{place}.")
        elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
            yield from fields_of(value[0], own, f"{place}.0.")


def changed(settings: M, path: str, value: Any) -> M:
    """Settings with another value at a path, validated anew.

    Raises:
        ValidationError: when they are wrong.
    """
    return type(settings).model_validate(_with(settings.model_dump(), path.split("."), value))


def _with(tree: Any, path: Sequence[str], value: Any) -> Any:
    if not path:
        return value
    first, *rest = path
    if isinstance(tree, Mapping):
        return {**tree, first: _with(tree.get(first), rest, value)}
    assert isinstance(tree, list | tuple), f"'{first}' is no field of {tree!r}"
    return [_with(each, rest, value) if str(i) == first else each for i, each in enumerate(tree)]


def other_values(annotation: Any, value: Any) -> list[Any]:
    """Values that a field of this type may take besides the one that it has, valid or not, likely ones first.

    Example:
        >>> other_values(Literal["best", "last"], "best"), other_values(bool, True)
        (['last'], [False])
        >>> other_values(tuple[int, ...], (3, 4))[:2]
        [(3,), (3, 4, 5)]
    """
    return [other for other in _values(annotation, value) if other != value or type(other) is not type(value)]


def _values(annotation: Any, value: Any) -> Iterator[Any]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _values(arguments[0], value)
    elif origin in (Union, UnionType):
        for each in sorted(arguments, key=lambda kind: kind is NoneType):
            yield from _values(each, value)
    elif annotation is NoneType:
        yield None
    elif origin is Literal:
        yield from arguments
    elif origin in (tuple, list):
        yield from _sequences(arguments[0] if arguments else Any, value)
    elif annotation is dict or origin is dict:
        items = islice(_values(arguments[1] if arguments else Any, None), 3)
        known = value if isinstance(value, dict) else {}  # of a union, the value may be of another kind
        yield from ({**known, "other": item} for item in items)
    elif isinstance(annotation, type):
        yield from _plain(annotation, value)
    else:
        yield from ("other", 1)


def _sequences(item: Any, value: Any) -> Iterator[Any]:
    have = tuple(value) if isinstance(value, list | tuple) else ()
    if len(have) > 1:
        yield have[:-1]
    for each in _values(item, have[-1] if have else None):
        if each not in have:
            yield (*have, each)
    yield ()


def _plain(kind: type, value: Any) -> Iterator[Any]:
    if issubclass(kind, BaseModel):
        try:
            yield kind().model_dump()
        except ValidationError:  # it has fields that must be given
            return
    elif issubclass(kind, Enum):
        yield from kind
    elif kind is bool:
        yield from (True, False)
    elif issubclass(kind, int):
        yield from _numbers(value, (1, 2, 4, 8, 0))
    elif kind is float:
        yield from (float(each) for each in _numbers(value, (0.5, 0.25, 1, 2, 0)))
    elif kind is bytes:
        yield b"other"
    elif issubclass(kind, str | Path):
        yield kind("other")


def _numbers(value: Any, usual: Sequence[float]) -> Iterator[Any]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield from (value + 1, value - 1, value / 2 if isinstance(value, float) else value // 2, 2 * value)
    yield from usual
