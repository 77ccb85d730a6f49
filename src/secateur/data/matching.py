"""Matches the classes of data to the outputs of a network by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from secateur.core.errors import RequestError
from secateur.data.classes import label_of
from secateur.data.dataset import ImageData

IMAGENETTE: Mapping[str, str] = MappingProxyType(
    {
        "n01440764": "tench",
        "n02102040": "English springer",
        "n02979186": "cassette player",
        "n03000684": "chain saw",
        "n03028079": "church",
        "n03394916": "French horn",
        "n03417042": "garbage truck",
        "n03425413": "gas pump",
        "n03445777": "golf ball",
        "n03888257": "parachute",
    }
)
"""WordNet ids, by which Imagenette's folders are called, to ImageNet's names of the classes."""

_SHOWN = 5


@dataclass(frozen=True, eq=False)
class Matched:
    """Data whose labels are indices of a network's outputs.

    Attributes:
        data: the data with these labels, without images of classes that the network does not have.
        outputs: output of each class of the original data; None where the network has none.
        by_name: whether classes were matched by name; otherwise by order.
        note: the change in words; empty where there was none.
    """

    data: ImageData
    outputs: tuple[int | None, ...]
    by_name: bool = False
    note: str = ""


def outputs_by_name(class_names: Sequence[str], names: Sequence[str]) -> tuple[int | None, ...]:
    """The output of each class of the data.

    Args:
        class_names: of the data; folders of Imagenette may be called by their WordNet ids.
        names: of a network's outputs. Of those that several outputs have, none is taken.

    Example:
        >>> outputs_by_name(("dog", "n01440764", "cow"), ("tench", "cat", "dog"))
        (2, 0, None)
    """
    known = {name: index for index, name in enumerate(names)}
    twice = {name for index, name in enumerate(names) if known[name] != index}
    spelled = (name if name in known else IMAGENETTE.get(name, name) for name in class_names)
    return tuple(None if name in twice else known.get(name) for name in spelled)


def match_classes(data: ImageData, names: Sequence[str], classes: Sequence[int] | None = None) -> Matched:
    """Label data with the outputs of a network.

    Names decide where one side has all the names of the other; otherwise the order does, where there are as many
    outputs as classes or the data's classes have no names of their own.

    Args:
        data: the opened data.
        names: names of the network's outputs; empty where unknown, so that the order decides.
        classes: indices of the requested classes; None: all.

    Raises:
        RequestError: when neither names nor order can decide, and for a class asked for that the network does not know.
    """
    own, named = data.class_names, outputs_by_name(data.class_names, names)
    plain = Matched(data, tuple(range(len(own))))
    if not names or tuple(names) == own:
        return plain
    if None not in named:
        note = f"the data's {len(own)} classes are matched by name to {len(names):,} outputs of the network"
        return Matched(data.renumbered(named, names), named, True, note)
    known = [index for index, output in enumerate(named) if output is not None]
    if len(known) == len(names):
        unknown = [index for index in classes or () if named[index] is None]
        if unknown:
            raise RequestError(f"the network does not know class {label_of(unknown[0], own)}; it knows {_few(names)}")
        note = f"the network answers for {len(names)} of {len(own)} classes; the data are restricted to them"
        kept = data.only([index for index in known if classes is None or index in classes])
        return Matched(kept.renumbered(named, names), named, True, note)
    moved = [index for index in known if named[index] != index]
    if (len(own) == len(names) and not moved) or own == tuple(map(str, range(len(own)))):
        return plain
    raise RequestError(
        f"the network's {len(names):,} classes ({_few(names)}) and the {len(own)} of data '{data.name}' ({_few(own)}) "
        "are neither the same nor a part of each other; train the network on these data, or take data of its classes"
    )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
