"""Trackers by name."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.core.errors import RequestError
from secateur.core.extras import check_installed
from secateur.core.registry import Registry
from secateur.tracking.base import Tracker

_PACKAGES = ("mlflow", "tensorboard", "trackio", "wandb")

TRACKERS: Registry[Tracker] = Registry("tracker", {name: f"secateur.tracking.{name}" for name in _PACKAGES})
"""Your own: ``@TRACKERS.register("name")`` above a subclass of `Tracker`."""


def check_trackers(names: Sequence[str]) -> None:
    """See that trackers are there before long work begins; nothing is imported or started.

    Raises:
        RequestError: for an unknown name, one that is given twice, or a package that is not installed.

    Example:
        >>> check_trackers(["wand"])
        Traceback (most recent call last):
            ...
        secateur.core.errors.RequestError: unknown tracker 'wand' (did you mean 'wandb'?); known: mlflow, ...
    """
    for index, name in enumerate(names):
        if name in names[:index]:
            raise RequestError(f"tracker '{name}' is given twice; give each once")
        if name in _PACKAGES:
            check_installed(name, name, f"tracker '{name}'")
        else:
            TRACKERS.factory(name)
