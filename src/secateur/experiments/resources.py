"""What cells share: made once in each process that needs it, and kept while it is used."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict, defaultdict
from typing import Any, ClassVar, Generic, TypeVar

from secateur.core.errors import SecateurError

T = TypeVar("T")


class Resource(ABC, Generic[T]):
    """Something that many cells need: data, a trained network, a scoring pass. Subclasses are frozen dataclasses.

    A resource is its own identity: two that are equal give the same value. One that takes long can be stored by `make`,
    which then finds it again, in other processes and later runs too.

    Attributes:
        limit: how many values of its class are kept in memory at a time, the last used.
    """

    limit: ClassVar[int] = 1

    @abstractmethod
    def make(self, resources: Resources) -> T:
        """The value; other resources that it needs come from ``resources``."""

    def ready(self) -> bool:
        """Whether it is stored; those that are not are made before the cells, side by side. True: nothing to store."""
        return True


class Resources:
    """The resources of one process.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Square(Resource[int]):
        ...     number: int
        ...     def make(self, resources):
        ...         return self.number**2
        >>> resources = Resources()
        >>> resources.get(Square(3)) is resources.get(Square(3))
        True
    """

    def __init__(self) -> None:
        self._kept: dict[type, OrderedDict[Any, Any]] = defaultdict(OrderedDict)

    def get(self, resource: Resource[T]) -> T:
        """Its value; made now unless it is at hand."""
        kept = self._kept[type(resource)]
        if resource not in kept:
            self.keep(resource, resource.make(self))
        kept.move_to_end(resource)
        found: T = kept[resource]
        return found

    def has(self, resource: Resource[Any]) -> bool:
        """Whether its value is at hand."""
        return resource in self._kept[type(resource)]

    def keep(self, resource: Resource[T], value: T) -> None:
        """Have a value at hand that was made elsewhere."""
        kept = self._kept[type(resource)]
        kept.pop(resource, None)
        while len(kept) >= max(1, resource.limit):
            kept.popitem(last=False)
        kept[resource] = value


class NotMadeError(SecateurError):
    """A resource is needed that is not stored yet, where none are made.

    Attributes:
        resource: which.
    """

    def __init__(self, resource: Resource[Any]) -> None:
        super().__init__(f"'{resource}' is not made yet; run the study")
        self.resource = resource


class StoredResources(Resources):
    """Resources of which those that would be made before the cells are not made: a look at what is there."""

    def get(self, resource: Resource[T]) -> T:
        """Its value.

        Raises:
            NotMadeError: for one that is not stored, and not at hand.
        """
        if not self.has(resource) and not resource.ready():
            raise NotMadeError(resource)
        return super().get(resource)
