"""Where the work runs."""

from __future__ import annotations

import torch

from secateur.core.errors import RequestError


def choose_device(request: str = "auto") -> torch.device:
    """The device asked for, or the best one present.

    Args:
        request: ``auto`` (CUDA, then MPS, then CPU) or a PyTorch device string.

    Raises:
        RequestError: for a device that PyTorch does not know or this machine does not have.

    Example:
        >>> choose_device("cpu")
        device(type='cpu')
    """
    if request == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(request)
        # reading a value back refuses 'meta' too, which takes tensors but holds nothing
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).split("\n", maxsplit=1)[0]
        raise RequestError(f"device '{request}' cannot be used here ({reason}); try --device auto or cpu") from error
    return device
