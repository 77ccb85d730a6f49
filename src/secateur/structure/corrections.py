"""Corrections of single calls that name sizes, in a module's own code.

Where code says ``x.reshape(B, N, 3, 12, C // 12)`` and three of twelve heads go, that one call gets other numbers;
everything else in the module's code (branches, masks, caches, what it does in training) is what its author wrote.
A correction knows which numbers the code gives and what they become. Given another number, which no traced call
showed, it refuses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from secateur.core.errors import RequestError
from secateur.structure import source
from secateur.structure.provenance import corrected
from secateur.structure.source import CallPath, Site

source.PASSED_OVER.add(__file__)

Key = Any
"""What the code gives: an integer, or a tuple of integers and None."""


@dataclass(frozen=True)
class Exchange:
    """What numbers in the code become.

    Attributes:
        table: (what the code gives, what it becomes), for each number that was traced.
        ratio: instead, by what it is divided and multiplied, where the number is a multiple of a size that differs from
            call to call, as samples times heads.
    """

    table: tuple[tuple[Key, Key], ...] = ()
    ratio: tuple[int, int] | None = None

    def __call__(self, value: Any, where: str, *, together: bool = False) -> Any:
        """The right number, or numbers, for what the code gives; ``together``: numbers that all stand for one value."""
        if self.ratio is not None:
            divisor, factor = self.ratio
            if value * factor % divisor:
                raise _untraced(where, value)
            return corrected(value * factor // divisor, value)
        for given, becomes in self.table:
            if given == value:
                return corrected(becomes, value, together)
        raise _untraced(where, value)

    def joined(self, other: Exchange) -> Exchange | None:
        """Both in one; None when they contradict each other."""
        if self.ratio or other.ratio:
            return self if self == other else None
        table = dict(self.table)
        if any(table.setdefault(given, becomes) != becomes for given, becomes in other.table):
            return None
        return Exchange(tuple(table.items()))

    def covers(self, other: Exchange) -> bool:
        """Whether it gives all numbers that another exchange gives."""
        if self.ratio is None:
            return other.ratio is None and set(other.table) <= set(self.table)
        divisor, factor = self.ratio
        pairs = (other.ratio,) if other.ratio else other.table
        return all(given * factor == becomes * divisor for given, becomes in pairs)

    def updated(self, newer: Exchange) -> Exchange:
        """This exchange, where a newer one does not say otherwise."""
        if self.ratio or newer.ratio:
            return newer
        return Exchange(tuple({**dict(self.table), **dict(newer.table)}.items()))


def _untraced(where: str, value: Any) -> RequestError:
    return RequestError(
        f"'{where}' was pruned for the calls that were traced, and this one gives it another size ({value}); trace "
        "such a call as well: sc.trace(model, example, variants=[...])"
    )


Kind = Literal["sizes", "split", "item", "narrow", "argument", "scale", "operand", "compared"]


@dataclass(frozen=True)
class Correction:
    """One call in a module's own code, and the numbers that it gets instead.

    Attributes:
        path: from the module's ``forward`` to the call.
        kind: how the call names sizes: ``sizes`` (of a reshape, view, expand, unflatten, layer norm), ``split`` (a
            dimension in parts), ``item`` (slices between brackets), ``narrow``, ``argument`` (a single number),
            ``scale`` (of attention, which otherwise follows the size of a head), ``operand`` of an arithmetic operator,
            numbers that are ``compared``.
        is_method: whether it is a method of a tensor.
        exchanges: by place: of a size in a shape, of an item in an index, or of an argument.
        names: of arguments that may be given by name; of an operand, its side.
        first: of sizes, the argument that holds them, or the first one that is a size.
        value: of the scale.
    """

    path: CallPath
    kind: Kind
    is_method: bool = False
    exchanges: tuple[tuple[int, Exchange], ...] = ()
    names: tuple[str, ...] = ()
    first: int = 1
    value: float | None = None

    @property
    def side(self) -> str:
        """Of an operator, which operand is corrected."""
        return self.names[0] if self.kind == "operand" else ""

    @property
    def where(self) -> str:
        """For messages."""
        return self.path[-1].function

    def at(self, path: CallPath) -> Correction:
        """The same correction of another call."""
        return replace(self, path=path)

    def joined(self, other: Correction) -> Correction | None:
        """Both in one, where one line runs several times; None when they contradict each other."""
        if replace(self, exchanges=()) != replace(other, exchanges=()):
            return None
        exchanges = dict(self.exchanges)
        for place, exchange in other.exchanges:
            both = exchanges[place].joined(exchange) if place in exchanges else exchange
            if both is None:
                return None
            exchanges[place] = both
        return replace(self, exchanges=tuple(sorted(exchanges.items())))

    def covers(self, other: Correction) -> bool:
        """Whether this correction gives all numbers that another one gives."""
        own = dict(self.exchanges)
        return self.value == other.value and all(
            place in own and own[place].covers(exchange) for place, exchange in other.exchanges
        )

    def updated(self, newer: Correction) -> Correction:
        """This correction, where a newer one of the same call does not say otherwise."""
        exchanges = dict(self.exchanges)
        for place, exchange in newer.exchanges:
            exchanges[place] = exchanges[place].updated(exchange) if place in exchanges else exchange
        return replace(newer, is_method=self.is_method, exchanges=tuple(sorted(exchanges.items())))

    # -- what runs in the place of the call -------------------------------------------------------------------------

    def call(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function with corrected arguments."""
        if self.kind == "split":
            return self._split(*args, **kwargs)
        right, named = self._arguments(args, kwargs)
        return function(*right, **named)

    def method(self, name: str, tensor: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a tensor's method with corrected arguments."""
        if self.kind == "split":
            return self._split(tensor, *args, **kwargs)
        (_, *rest), kwargs = self._arguments((tensor, *args), kwargs)
        return getattr(tensor, name)(*rest, **kwargs)

    def item(self, index: Any, /) -> Any:
        """The corrected index."""
        items = list(index) if isinstance(index, tuple) else [index]
        for place, exchange in self.exchanges:
            if place >= len(items) or not isinstance(items[place], slice):
                raise _untraced(self.where, "an index of another kind")
            found = items[place]
            items[place] = slice(*exchange((found.start, found.stop, found.step), self.where))
        return tuple(items) if isinstance(index, tuple) else items[0]

    def number(self, value: Any, /) -> Any:
        """The corrected number."""
        return self.exchanges[0][1](value, self.where)

    def compared(self, place: int, value: Any, /) -> Any:
        """The corrected operand of a comparison."""
        exchange = dict(self.exchanges).get(place)
        if exchange is None:
            return value
        if not isinstance(value, int):
            raise _untraced(self.where, value)
        return exchange(value, self.where)

    def _arguments(self, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Sequence[Any], dict[str, Any]]:
        """Corrected arguments; the first one is the tensor."""
        args, kwargs = list(args), dict(kwargs)
        if self.kind == "scale":
            if kwargs.get("scale") is None:
                kwargs["scale"] = self.value
        elif self.kind == "sizes":
            self._sizes(args, kwargs)
        elif self.kind == "narrow":
            ends = _Place(args, kwargs, 2, ("start",)), _Place(args, kwargs, 3, ("length",))
            for end, right in zip(ends, self.exchanges[0][1](tuple(e.value for e in ends), self.where), strict=True):
                end.set(right)
        else:
            for index, exchange in self.exchanges:
                place = _Place(args, kwargs, index, self.names)
                if not isinstance(place.value, int):
                    raise _untraced(self.where, place.value)
                place.set(exchange(place.value, self.where))
        return args, kwargs

    def _sizes(self, args: list[Any], kwargs: dict[str, Any]) -> None:
        first = self.first
        name = next((name for name in self.names if name in kwargs), "")
        packed = bool(name) or isinstance(args[first], (tuple, list))
        sizes = list(kwargs[name] if name else args[first] if packed else args[first:])
        for place, exchange in self.exchanges:
            if place >= len(sizes):
                raise _untraced(self.where, "a shape of another length")
            if not (isinstance(sizes[place], int) and sizes[place] == -1):
                sizes[place] = exchange(sizes[place], self.where)
        if name:
            kwargs[name] = sizes
        elif packed:
            args[first] = tuple(sizes)
        else:
            args[first:] = sizes

    def _split(self, *args: Any, **kwargs: Any) -> Any:
        listed, named = list(args), dict(kwargs)
        x = listed[0] if listed else named[next(k for k in ("input", "self", "tensor") if k in named)]
        dim = _Place(listed, named, 2, ("dim",), 0).value % x.ndim
        given = _Place(listed, named, 1, self.names).value
        key = (x.shape[dim], *(given if isinstance(given, (tuple, list)) else (given,)))
        return torch.split(x, list(self.exchanges[0][1](key, self.where, together=True)), dim)

    # -- plain values ----------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "path": [[site.function, site.text, list(site.span)] for site in self.path],
            "kind": self.kind,
            "is_method": self.is_method,
            "exchanges": [
                {"place": place, "ratio": list(e.ratio)}
                if e.ratio
                else {"place": place, "table": [[_plain(given), _plain(becomes)] for given, becomes in e.table]}
                for place, e in self.exchanges
            ],
            "names": list(self.names),
            "first": self.first,
            "value": self.value,
        }

    @classmethod
    def from_json(cls, value: Any) -> Correction:
        """Read `to_json` back; raises KeyError, TypeError or ValueError for anything else."""
        path = tuple(Site(str(f), str(t), _four(span)) for f, t, span in value["path"])
        if not path or value["kind"] not in Kind.__args__:  # type: ignore[attr-defined]
            raise ValueError("a correction without a call")
        exchanges = []
        for item in value["exchanges"]:
            if "ratio" in item:
                divisor, factor = (_integer(v) for v in item["ratio"])
                if divisor < 1:
                    raise ValueError("a ratio to nothing")
                exchange = Exchange(ratio=(divisor, factor))
            else:
                exchange = Exchange(tuple((_key(given), _key(becomes)) for given, becomes in item["table"]))
            exchanges.append((_integer(item["place"]), exchange))
        number = None if value["value"] is None else float(value["value"])
        names = tuple(str(n) for n in value["names"])
        if value["kind"] == "operand" and names not in (("left",), ("right",)):
            raise ValueError("an operand of no side")
        if value["kind"] in ("split", "narrow", "operand", "compared") and not exchanges:
            raise ValueError("a correction of nothing")
        first = _integer(value["first"])
        return cls(path, value["kind"], bool(value["is_method"]), tuple(exchanges), names, first, number)


class _Place:
    """One argument of a call, wherever it is given."""

    def __init__(
        self, args: list[Any], kwargs: dict[str, Any], index: int, names: Sequence[str], default: Any = None
    ) -> None:
        owner: Any = args if len(args) > index else kwargs
        self.key: Any = index if len(args) > index else next((n for n in names if n in kwargs), None)
        self.owner = owner
        self.value = default if self.key is None else owner[self.key]

    def set(self, value: Any) -> None:
        if self.key is not None:
            self.owner[self.key] = value


def _plain(key: Key) -> Any:
    return list(key) if isinstance(key, tuple) else key


def _key(value: Any) -> Key:
    if isinstance(value, list):
        return tuple(None if v is None else _integer(v) for v in value)
    return _integer(value)


def _integer(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is no integer")
    return value


def _four(span: Any) -> source.Span:
    a, b, c, d = (_integer(v) for v in span)
    return a, b, c, d


def updated(corrections: Iterable[Correction], newer: Iterable[Correction]) -> tuple[Correction, ...]:
    """Corrections of a module's code, where newer ones do not say otherwise."""
    found = {(c.path, c.kind, c.names): c for c in corrections}
    for correction in newer:
        key = (correction.path, correction.kind, correction.names)
        found[key] = found[key].updated(correction) if key in found else correction
    return tuple(found.values())
