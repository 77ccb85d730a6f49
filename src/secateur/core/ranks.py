"""Several processes that do one piece of work together, as a launcher such as ``torchrun`` starts them.

Each process is a *rank*. The launcher says which one by environment variables (``RANK``, ``WORLD_SIZE``,
``LOCAL_RANK``, ``MASTER_ADDR``, ``MASTER_PORT``). Work that can be split looks at `ranks`; outside of `launched` that
is one rank, whose methods give back what they get. PyTorch is imported where there are several.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from secateur.core.errors import RequestError, SecateurError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

_PATIENCE = timedelta(hours=2)
"""How long ranks wait for each other: one may write a report or measure times while the others have nothing to do."""

_FAILED = "secateur/failed"


class AnotherRankFailedError(SecateurError):
    """The work ends because another rank failed, which says why: this one has nothing to say.

    Args:
        error: that ended the work here.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__("")
        self.exit_code = error.exit_code if isinstance(error, SecateurError) else 1


@dataclass(frozen=True)
class Ranks:
    """The ranks that work together, as one of them sees them; its methods must be called by all in the same order.

    Attributes:
        rank: this one, from 0.
        size: how many there are.
        local: this one among those of its machine; the number of its GPU.

    Example:
        >>> alone = Ranks()
        >>> alone.main, alone.share(5), alone.gather("mine"), alone.once(lambda: 3)
        (True, range(0, 5), ['mine'], 3)
        >>> Ranks(1, 2).share(5)
        range(2, 5)
    """

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def main(self) -> bool:
        """Whether this is rank 0, which alone prints and writes."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.size > 1

    def share(self, count: int) -> range:
        """Which of ``count`` items are this rank's: neighbours, so that shares in the order of ranks are all items."""
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def sharing(self, count: int) -> Ranks:
        """These ranks; one alone where there are fewer items than ranks: then each rank does all of it."""
        return self if count >= self.size else Ranks()

    def broadcast(self, value: T) -> T:
        """Rank 0's value, on all ranks."""
        if not self.several:
            return value
        import torch.distributed as dist

        values: list[T] = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def gather(self, value: T) -> list[T]:
        """The values of all ranks in their order, on all ranks."""
        if not self.several:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def once(self, work: Callable[[], T]) -> T:
        """The result of work that rank 0 does alone, on all ranks; the others wait.

        Args:
            work: its result is sent to the others, by pickle.
        """
        if not self.several:
            return work()
        result: Any = None
        if self.main:
            token = _current.set(Ranks())  # what it calls must not wait for the others
            try:
                result = work()
            finally:
                _current.reset(token)
        sent: T = self.broadcast(result)
        return sent

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum over ranks in float64, the same bits on all of them; of one rank, the tensor itself.

        Args:
            tensor: of the same shape on all ranks; it stays as it is.
        """
        if not self.several:
            return tensor
        import torch
        import torch.distributed as dist

        summed = tensor.detach().to(torch.float64, copy=True, memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed

    def joined(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensors of all ranks concatenated along their first dimension, in the order of ranks.

        Args:
            tensor: of one type, and of one shape but for the first dimension.
        """
        if not self.several:
            return tensor
        import torch.distributed as dist

        counts = self.gather(len(tensor))
        padded = tensor.new_zeros(max(counts), *tensor.shape[1:])
        padded[: len(tensor)] = tensor.detach()
        parts = [padded.new_empty(padded.shape) for _ in counts]
        dist.all_gather(parts, padded)
        import torch

        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    def check_same(self, what: str, value: object) -> None:
        """Stop where a value that should be the same on all ranks differs.

        Args:
            what: its name, for the message.
            value: that can be compared, and sent to the others.

        Raises:
            SecateurError: naming the first rank that differs from rank 0.
        """
        values = self.gather(value)
        for rank, other in enumerate(values):
            if other != values[0]:
                raise SecateurError(
                    f"{what} differs between rank 0 ({values[0]}) and rank {rank} ({other}), so that their work cannot "
                    "be put together; give all of them the same version, data and kind of device"
                )

    def check_alone(self, what: str) -> None:
        """Refuse what one process has to do.

        Args:
            what: that cannot be split, for the message.

        Raises:
            RequestError: where there are several ranks.
        """
        if self.several:
            raise RequestError(f"{what} cannot be split over {self.size} processes; start it without a launcher")


_current: ContextVar[Ranks] = ContextVar("secateur_ranks", default=Ranks())  # noqa: B039 - it is frozen


def ranks() -> Ranks:
    """The ranks that work together here: those of `launched`, else one alone."""
    return _current.get()


@contextlib.contextmanager
def launched(*, muted: bool = False) -> Iterator[Ranks]:
    """Let all work within the context be split over the processes that a launcher started.

    Without a launcher, or of one process, nothing happens. Tensors on the CPU are sent by gloo, those on GPUs by NCCL.
    A process group that the program set up itself is used, and stays.

    Args:
        muted: ranks but 0 print nothing; where several fail, the first one alone raises what stopped it, and the others
            `AnotherRankFailedError`.

    Raises:
        RequestError: for environment variables that do not say which rank this is.
        SecateurError: when the ranks do not find each other, or one ends without an error.
    """
    requested = launcher_ranks()
    if not requested.several or ranks().several:
        yield ranks()
        return
    if muted:  # warnings of PyTorch's C++ code, from each rank, are of no use to the user
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    import torch.distributed as dist

    store, mine = _connected(requested), not dist.is_initialized()
    if mine:
        _start_group(requested, store)
    token = _current.set(requested)
    try:
        with _without_output(muted and not requested.main):
            yield requested
    except (Exception, KeyboardInterrupt) as error:
        raised = _error_to_raise(error, store) if muted else error
        if raised is error:
            raise
        raise raised from error
    finally:
        _current.reset(token)
    if mine:
        dist.destroy_process_group()


def launcher_ranks() -> Ranks:
    """The ranks that the launcher's environment variables describe; one rank where there are none.

    Raises:
        RequestError: where they contradict each other.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return Ranks()
    try:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        local = int(os.environ.get("LOCAL_RANK", rank))
        addressed = bool(os.environ["MASTER_ADDR"] and os.environ["MASTER_PORT"])
    except (KeyError, ValueError) as error:
        raise RequestError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but RANK, MASTER_ADDR or MASTER_PORT is missing or no number "
            f"({error}); start several processes by torchrun, or unset WORLD_SIZE"
        ) from error
    if not (0 <= rank < size and local >= 0 and addressed):
        raise RequestError(f"RANK is {rank} and LOCAL_RANK {local} of WORLD_SIZE {size}; start processes by torchrun")
    return Ranks(rank, size, local)


def _connected(requested: Ranks) -> Any:
    """PyTorch's key-value store, which all ranks reach."""
    from torch.distributed.rendezvous import rendezvous

    try:
        return next(iter(rendezvous("env://", requested.rank, requested.size, timeout=_PATIENCE)))[0]
    except (RuntimeError, ValueError) as error:
        raise SecateurError(
            f"rank {requested.rank} cannot reach the others ({_line(error)}); see MASTER_ADDR"
        ) from error


def _start_group(requested: Ranks, store: Any) -> None:
    import torch
    import torch.distributed as dist

    gpus = torch.cuda.is_available() and dist.is_nccl_available()
    backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
    if gpus and requested.local < torch.cuda.device_count():
        torch.cuda.set_device(requested.local)
    dist.init_process_group(backend, store=store, rank=requested.rank, world_size=requested.size, timeout=_PATIENCE)


@contextlib.contextmanager
def _without_output(wanted: bool) -> Iterator[None]:
    """Discard what Python prints within the context."""
    if not wanted:
        yield
        return
    with (
        Path(os.devnull).open("w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


def _error_to_raise(error: BaseException, store: Any) -> BaseException:
    """What a rank raises: its error if it is the first to fail, else that another one did."""
    lost = _is_lost_connection(error)
    try:
        first = store.add(_FAILED, 1) == 1
    except RuntimeError:  # the rank that held the store has ended
        first = not lost
    if not first:
        return AnotherRankFailedError(error)
    if lost:
        return SecateurError(
            f"another rank has ended without an error message ({_line(error)}); see whether it was killed"
        )
    return error


def _is_lost_connection(error: BaseException) -> bool:
    """Whether an operation of several ranks failed, as PyTorch says it."""
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _line(error: BaseException) -> str:
    return str(error).strip().split("\n", maxsplit=1)[0]
