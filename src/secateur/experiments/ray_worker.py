"""What workers of a Ray cluster do: fetch the study and what is shared, once in each process, and work on cells."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from secateur.experiments.cells import Cell
from secateur.experiments.executors import Done, Job, work_on
from secateur.experiments.ray_address import check_versions, versions
from secateur.experiments.resources import Resource, Resources
from secateur.experiments.study import Study

T = TypeVar("T")


@dataclass(frozen=True)
class Packed:
    """What every task of a study needs, as references into the object store, fetched once by each process.

    Attributes:
        key: tells it from others.
        study: reference of the study.
        shared: reference of the references of shared resources, by resource.
        versions: of the driver.
    """

    key: str
    study: Any
    shared: Any
    versions: Mapping[str, str]


class _WorkerResources(Resources):
    """Resources of a worker, of which shared ones come from the object store."""

    def __init__(self, shared: Mapping[Resource[Any], Any]) -> None:
        super().__init__()
        self._references = shared

    def get(self, resource: Resource[T]) -> T:
        """See `Resources.get`."""
        if resource in self._references and not self.has(resource):
            import ray

            self.keep(resource, ray.get(self._references[resource]))
        return super().get(resource)


_known: tuple[str, Study[Any, Any], Resources] | None = None
"""Of the study that this process works on: key, study, resources."""


def _unpacked(packed: Packed) -> tuple[Study[Any, Any], Resources]:
    global _known
    if _known is None or _known[0] != packed.key:
        import ray

        check_versions(packed.versions, versions())
        study, shared = ray.get([packed.study, packed.shared])
        _known = (packed.key, study, _WorkerResources(shared))
    return _known[1], _known[2]


def inspect_worker() -> tuple[dict[str, str], bool]:
    """Versions of a worker, and whether its cluster asks for a token."""
    try:
        from ray._private.authentication.authentication_utils import is_token_auth_enabled

        locked = bool(is_token_auth_enabled())
    except ImportError:  # of another version: what the node was told
        locked = os.environ.get("RAY_AUTH_MODE", "").lower() == "token"
    return versions(), locked


def make_shared(packed: Packed, resource: Resource[Any]) -> tuple[bool, Any]:
    """Make and store a resource: whether its value can be sent, and the value."""
    import pickle

    _, resources = _unpacked(packed)
    value = resources.get(resource)
    try:
        pickle.dumps(value)
    except Exception:  # noqa: BLE001 - whatever it is, each worker then makes its own
        return False, None
    return True, value


def work_on_cells(packed: Packed, cells: tuple[tuple[str, Cell], ...], earlier: Mapping[Cell, Any]) -> list[Done]:
    """Work on the cells of a job, with the results that they need, which are references here."""
    import ray

    study, resources = _unpacked(packed)
    results = dict(zip(earlier, ray.get(list(earlier.values())), strict=True))
    return list(work_on(study, Job(cells, results), resources))
