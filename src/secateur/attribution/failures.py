"""Reports failures that the network itself or its inputs cause."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from secateur.core.borrowing import borrowed
from secateur.core.errors import RequestError, SecateurError
from secateur.structure.tracing import failure


@contextlib.contextmanager
def failures_told(model: nn.Module, inputs: torch.Tensor, what: str) -> Iterator[None]:
    """Report an exception within the context as a failure of the network, where a plain pass fails as well.

    Args:
        model: the network.
        inputs: its inputs, of which the first sample is tried.
        what: what the inputs are, for the message.

    Raises:
        RequestError: instead of the exception, where the network also raises one in a plain pass.
    """
    try:
        yield
    except (SecateurError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        plain = _plain_failure(model, inputs)
        if plain is None:
            raise
        raise RequestError(failure(plain, [inputs], model, what)) from error


def _plain_failure(model: nn.Module, inputs: torch.Tensor) -> Exception | None:
    device = next((p.device for p in model.parameters()), inputs.device)
    try:
        with borrowed(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
            model(inputs[:1].detach().to(device).clone())
    except Exception as error:  # noqa: BLE001 - the user's own code may raise anything; it is reported
        return error
    return None
