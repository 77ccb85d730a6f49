"""Studies by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from secateur.core.errors import RequestError
from secateur.core.registry import Registry
from secateur.experiments.study import Study

_STUDIES: Registry[Study[Any, Any]] = Registry("study")


def register_study(kind: type[Study[Any, Any]]) -> type[Study[Any, Any]]:
    """Class decorator that makes a study known by its name.

    The contract of all studies is checked by `secateur.experiments.check_study`.

    Raises:
        RequestError: when another study has the name.
    """
    _STUDIES.register(kind.name)(kind)
    return kind


def declare_studies(homes: Mapping[str, str]) -> None:
    """Make names of studies known, with the modules that register them; these are imported when asked for."""
    _STUDIES.add_homes(homes)


def known_studies() -> list[str]:
    """Names of the studies that are registered."""
    return list(_STUDIES)


def study_class(name: str) -> type[Study[Any, Any]]:
    """The class of a study.

    Raises:
        RequestError: for an unknown name, with the nearest known one.
    """
    kind: Callable[..., Any] = _STUDIES.factory(name)
    if not isinstance(kind, type):
        raise RequestError(f"study '{name}' is no class; register a subclass of Study")
    return kind


def forget_study(name: str) -> None:
    """Take a study out again, as tests do."""
    _STUDIES.remove(name)
