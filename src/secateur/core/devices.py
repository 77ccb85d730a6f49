"""Where the work runs."""

from __future__ import annotations

import torch

from secateur.core.errors import RequestError
from secateur.core.ranks import Ranks, ranks


def choose_device(request: str = "auto") -> torch.device:
    """The device asked for, or the best one present.

    Args:
        request: ``auto`` (CUDA, then MPS, then CPU) or a PyTorch device string. Of several ranks, each has a CUDA
            device of its own, by its number on its machine.

    Raises:
        RequestError: for a device that PyTorch does not know, this machine does not have, or another rank works on.

    Example:
        >>> choose_device("cpu")
        device(type='cpu')
    """
    if request == "auto":
        if torch.cuda.is_available():
            return _own(torch.device("cuda"), ranks())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = _own(torch.device(request), ranks())
        # reading a value back refuses 'meta' too, which takes tensors but holds nothing
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).split("\n", maxsplit=1)[0]
        raise RequestError(f"device '{request}' cannot be used here ({reason}); try --device auto or cpu") from error
    return device


def _own(device: torch.device, of: Ranks) -> torch.device:
    """The device of this rank."""
    if device.type != "cuda" or not of.several:
        return device
    if device.index not in (None, of.local):
        raise RequestError(f"device '{device}' is asked for on every rank; take --device cuda: each has its own")
    if of.local >= torch.cuda.device_count():
        raise RequestError(
            f"rank {of.rank} has number {of.local} on its machine, which has {torch.cuda.device_count()} GPU(s); start "
            "one process for each, or take --device cpu"
        )
    return torch.device("cuda", of.local)
