"""Tables of named things; an unknown name is answered with the known ones."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from secateur.core.errors import RequestError
from secateur.core.names import did_you_mean

T = TypeVar("T")


class Registry(Generic[T]):
    """Maps names to factories.

    Args:
        kind: what the entries are, in the singular ("criterion"), for messages.
        homes: the module that registers each of the package's own entries; it is imported when the entry is asked for.

    Example:
        >>> colours = Registry("colour")
        >>> colours.register("red")(lambda: "#f00").__name__
        '<lambda>'
        >>> colours.create("red")
        '#f00'
        >>> colours.create("read")
        Traceback (most recent call last):
            ...
        secateur.core.errors.RequestError: unknown colour 'read' (did you mean 'red'?); known: red
    """

    def __init__(self, kind: str, homes: Mapping[str, str] | None = None) -> None:
        self.kind = kind
        self._homes = dict(homes or {})
        self._factories: dict[str, Callable[..., T]] = {}

    def register(self, name: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
        """Decorator that enters a class or function under ``name``.

        Raises:
            RequestError: when another factory already holds the name.
        """

        def enter(factory: Callable[..., T]) -> Callable[..., T]:
            home = self._homes.get(name, factory.__module__)
            if factory.__module__ != home or self._factories.get(name, factory) is not factory:
                raise RequestError(f"{self.kind} '{name}' is already registered; choose another name")
            self._factories[name] = factory
            return factory

        return enter

    def create(self, name: str, **parameters: Any) -> T:
        """Build the entry called ``name``.

        Raises:
            RequestError: for an unknown name, or parameters that the entry does not take.
        """
        factory = self.factory(name)
        try:
            return factory(**parameters)
        except TypeError as error:
            raise RequestError(f"{self.kind} '{name}' cannot be built with {parameters}: {error}") from error

    def factory(self, name: str) -> Callable[..., T]:
        """The factory behind ``name``; unknown names raise `RequestError` with the known ones."""
        given: object = name
        if not isinstance(given, str):
            form = f"the class {given.__name__}; give {given.__name__}(...)" if isinstance(given, type) else repr(given)
            raise RequestError(f"a {self.kind} must be a name or an object, got {form}")
        if name not in self._factories and name in self._homes:
            importlib.import_module(self._homes[name])
        if name not in self._factories:
            raise RequestError(f"unknown {self.kind} '{name}'{did_you_mean(name, self)}; known: {', '.join(self)}")
        return self._factories[name]

    def add_homes(self, homes: Mapping[str, str]) -> None:
        """Make further names known, with the modules that register them."""
        self._homes.update(homes)

    def remove(self, name: str) -> None:
        """Forget an entry."""
        self._factories.pop(name, None)

    def __contains__(self, name: object) -> bool:
        return name in self._factories or name in self._homes

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self._homes, *self._factories}))
