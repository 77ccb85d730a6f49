"""Work on a Ray cluster: an existing one by its address, or one that is started on this machine.

The driver takes jobs from the study, hands them to Ray as tasks, and gives back what is done; nothing else is kept on
the cluster. Faults of the infrastructure (a worker or a node that is lost, memory that runs out) are tried again here,
cell by cell, so that one cell that always brings its worker down does not take others with it.
"""

from __future__ import annotations

import hashlib
import platform
import re
import socket
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from secateur.core.errors import RequestError, SecateurError
from secateur.core.extras import check_installed
from secateur.core.sections import RaySettings
from secateur.experiments.cells import Cell
from secateur.experiments.executors import Done, Job
from secateur.experiments.ray_address import (
    AUTHENTICATION,
    check_versions,
    connect,
    is_loopback,
    require_token,
    versions,
)
from secateur.experiments.ray_worker import Packed, inspect_worker, make_shared, work_on_cells
from secateur.experiments.resources import Resource, Resources
from secateur.experiments.study import Result, Study

T = TypeVar("T")

_AHEAD = 2
"""Jobs that are handed over for each that can run, so that no worker waits for the driver."""

_LOOK = 5.0
"""Seconds between two looks at what the cluster has, while nothing is done."""


@dataclass(frozen=True)
class _Attempt:
    """A job on its way.

    Attributes:
        job: cells that one worker does.
        lost: how many workers were lost over it.
        begun: seconds since the epoch when it was handed over.
    """

    job: Job
    lost: int = 0
    begun: float = field(default_factory=time.time)

    def again(self) -> list[_Attempt]:
        """Its cells one by one, so that those that are not at fault get through."""
        return [_Attempt(Job((cell,), self.job.earlier), self.lost + 1) for cell in self.job.cells]

    def failed(self, error: str) -> list[Done]:
        """Its cells as failed."""
        seconds = time.time() - self.begun
        return [Done(name, None, error, self.begun, seconds, platform.node()) for name, _ in self.job.cells]


class RayCluster:
    """Works on cells as tasks of a Ray cluster; as a context, its connection ends with it.

    A connection of this process that is there already is used, and left as it is.

    Args:
        settings: where, and what a cell takes.

    Raises:
        RequestError: where Ray is not installed, for an address that others could use, or a cell that no node can take.
        SecateurError: for a cluster that does not answer.
    """

    def __init__(self, settings: RaySettings | None = None) -> None:
        self.settings = settings or RaySettings()
        self._mine = False
        self._resources = Resources()
        self._shared: dict[Resource[Any], Any] = {}
        self._packed: tuple[Study[Any, Any], int, Packed] | None = None

    def __enter__(self) -> RayCluster:
        check_installed("ray", "ray", "executor 'ray'")
        if self.settings.address is None:
            require_token()
        import ray

        if not ray.is_initialized():
            connect(self.settings.address)
            self._mine = True
        try:
            self._check_cluster()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        import ray

        self._shared.clear()
        self._packed = None
        if self._mine:
            ray.shutdown()
            self._mine = False

    def prepare(self, study: Study[Any, Any], resources: Sequence[Resource[Any]]) -> Iterator[Resource[Any]]:
        """See `Executor.prepare`; values go into the object store, where workers on all nodes find them."""
        import ray

        make = ray.remote(make_shared).options(**self._options(), max_retries=self.settings.retries, num_returns=2)
        packed = self._packing(study)
        running: dict[Any, tuple[Resource[Any], Any]] = {}
        for resource in resources:
            made: Any = make.remote(packed, resource)  # as many references as it gives values
            sent, value = made
            running[sent] = resource, value
        while running:
            for ref in self._ready(list(running)):
                resource, value = running.pop(ref)
                if _fetched(ref, f"shared resource ({resource})"):
                    self._shared[resource] = value
                yield resource

    def work(self, study: Study[Any, Any], jobs: Iterable[Job]) -> Iterator[list[Done]]:
        """See `Executor.work`."""
        import ray

        self._share(study)
        task = ray.remote(work_on_cells).options(**self._options(), max_retries=0, scheduling_strategy="SPREAD")
        packed, waiting = self._packing(study), iter(jobs)
        results: dict[Cell, Any] = {}  # of this call alone: equal cells of another study have other ones
        again: deque[_Attempt] = deque()
        running: dict[Any, _Attempt] = {}
        try:
            while True:
                room = _AHEAD * self._slots() - len(running)
                for _ in range(room):
                    attempt = again.popleft() if again else None
                    if attempt is None:
                        job = next(waiting, None)
                        if job is None:
                            break
                        attempt = _Attempt(job)
                    try:
                        earlier = _earlier(attempt.job, results)
                    except SecateurError as error:  # a file of an earlier result is lost
                        yield attempt.failed(str(error))
                        continue
                    running[task.remote(packed, attempt.job.cells, earlier)] = attempt
                if not running:
                    return
                for ref in self._ready(list(running)):
                    attempt = running.pop(ref)
                    try:
                        yield ray.get(ref)
                    except _lost_workers() as error:
                        if attempt.lost < self.settings.retries:
                            again.extend(attempt.again())
                        else:
                            yield attempt.failed(_loss_message(error, attempt.lost + 1))
                    except ray.exceptions.RayTaskError as error:
                        raise _worker_error(error) from error
        finally:
            for ref in running:
                _cancel(ref)

    def _options(self) -> dict[str, Any]:
        """What a cell takes of a node."""
        settings = self.settings
        return {"num_cpus": settings.cpus, "num_gpus": settings.gpus, "memory": settings.memory or None}

    def _nodes(self) -> list[Mapping[str, Any]]:
        import ray

        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        return [node for node in nodes if node["Alive"]]

    def _slots(self) -> int:
        """Cells that fit on the nodes that are there now; 1 at least, since nodes come back."""
        needs = {"CPU": self.settings.cpus, "GPU": self.settings.gpus, "memory": self.settings.memory}
        slots = 0
        for node in self._nodes():
            has = node["Resources"]
            slots += min((int(has.get(name, 0) // needed) for name, needed in needs.items() if needed), default=1)
        return max(1, slots)

    def _check_cluster(self) -> None:
        """Refuse what would hang or be unsafe: a cell that fits nowhere, a cluster that is open, other versions."""
        import ray

        needs = {"CPU": self.settings.cpus, "GPU": self.settings.gpus, "memory": self.settings.memory}
        nodes = [node["Resources"] for node in self._nodes()]
        if not any(all(node.get(name, 0) >= needed for name, needed in needs.items()) for node in nodes):
            most = ", ".join(_amount(name, max((n.get(name, 0) for n in nodes), default=0)) for name in needs)
            wanted = ", ".join(_amount(name, needed) for name, needed in needs.items() if needed)
            raise RequestError(
                f"no node of the Ray cluster has what a cell takes ({wanted}); the most that one has: {most}; lower "
                "execution.ray.cpus, gpus or memory"
            )
        theirs, locked = _fetched(ray.remote(inspect_worker).options(num_cpus=0).remote(), "the check of the cluster")
        check_versions(versions(), theirs)
        address = ray.get_runtime_context().gcs_address
        if self._mine and self.settings.address is not None and not is_loopback(address) and not locked:
            raise RequestError(f"the Ray cluster at {address} takes work from anyone who reaches it; {AUTHENTICATION}")

    def _packing(self, study: Study[Any, Any]) -> Packed:
        """References of the study and of what is shared, put into the object store when they are new."""
        import ray

        if self._packed is None or self._packed[0] is not study or self._packed[1] != len(self._shared):
            try:
                reference = ray.put(study)
            except Exception as error:  # whatever a class of the user's own raises, the remedy is the same
                raise RequestError(
                    f"the study '{study.name}' cannot be sent to a cluster ({' '.join(str(error).split())}); use "
                    "--executor processes --processes 1"
                ) from error
            key = hashlib.sha256(f"{reference.hex()} {len(self._shared)}".encode()).hexdigest()
            shared = ray.put(dict(self._shared))
            self._packed = (study, len(self._shared), Packed(key, reference, shared, versions()))
        return self._packed[2]

    def _share(self, study: Study[Any, Any]) -> None:
        """Shared resources that are stored on this machine, for the nodes that have other disks."""
        import ray

        hosts = {node["NodeManagerHostname"] for node in self._nodes()}
        if hosts <= {socket.gethostname()}:
            return
        for resource in study.shared():
            if resource not in self._shared and resource.ready():
                self._shared[resource] = ray.put(self._resources.get(resource))

    def _ready(self, references: list[Any]) -> list[Any]:
        """All that are done, one at least; empty after a while, so that nodes that came can be used.

        Each call looks at all references, thousands on a large cluster: one for each that is done would cost more than
        all else.
        """
        import ray

        try:
            done, rest = ray.wait(references, num_returns=1, timeout=_LOOK, fetch_local=False)
            if done and rest:
                done += ray.wait(rest, num_returns=len(rest), timeout=0, fetch_local=False)[0]
        except (ConnectionError, ray.exceptions.RaySystemError, ray.exceptions.LocalRayletDiedError) as error:
            raise SecateurError(
                f"the Ray cluster is lost ({' '.join(str(error).split())[:200]}); finished cells are kept: the same "
                "command goes on when it is back"
            ) from error
        found: list[Any] = done
        return found


def _amount(name: str, value: float) -> str:
    """As ``2 CPU`` or ``14.6 GiB memory``."""
    return f"{value / 2**30:.3g} GiB memory" if name == "memory" else f"{value:g} {name}"


def _earlier(job: Job, known: dict[Cell, Any]) -> dict[Cell, Any]:
    """References of the results that a job needs, files included: each is put into the object store once."""
    import ray

    for cell, result in job.earlier.items():
        if cell not in known:
            known[cell] = ray.put(Result(result.rows, dict(result.artefacts)))
    return {cell: known[cell] for cell in job.earlier}


def _lost_workers() -> tuple[type[Exception], ...]:
    """Faults that have nothing to do with what a cell does."""
    from ray import exceptions

    return (
        exceptions.WorkerCrashedError, exceptions.NodeDiedError, exceptions.OutOfMemoryError,
        exceptions.ObjectLostError, exceptions.TaskUnschedulableError,
    )  # fmt: skip


def _loss_message(error: Exception, times: int) -> str:
    from ray import exceptions

    if isinstance(error, exceptions.OutOfMemoryError):
        reason = "the node ran out of memory; give execution.ray.memory, or a smaller batch size"
    elif isinstance(error, exceptions.NodeDiedError):
        reason = "its node was lost"
    else:
        reason = "the process ended (killed, or a crash of a library)"
    return f"its worker was lost {times} times, the last time because {reason}"


def _worker_error(error: Any) -> SecateurError:
    """What a task of the executor itself says: a request that this cluster cannot do."""
    cause = error.cause if isinstance(getattr(error, "cause", None), Exception) else error
    if isinstance(cause, SecateurError):
        return cause
    missing = re.search(r"No module named '[^']+'", str(cause))
    if missing:
        return RequestError(
            f"workers of the Ray cluster lack a module ({missing[0]}); install the same on all nodes, the study's own "
            "module included, or start the nodes with its folder in PYTHONPATH"
        )
    return SecateurError(f"a worker of the Ray cluster failed: {type(cause).__name__}: {' '.join(str(cause).split())}")


def _fetched(reference: Any, what: str) -> Any:
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise _worker_error(error) from error
    except _lost_workers() as error:
        raise SecateurError(f"{what}: {_loss_message(error, 1)}") from error


def _cancel(reference: Any) -> None:
    import contextlib

    import ray

    with contextlib.suppress(Exception):  # the cluster may be gone
        ray.cancel(reference, force=True)
