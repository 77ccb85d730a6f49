"""Passes that fail because of the network or its inputs say so."""

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
    """Where work inside fails, and a plain pass on its inputs does so too, the network is said to.

    Args:
        model: the network that is worked on.
        inputs: of it; the first sample is tried.
        what: the inputs are, for the message.

    Raises:
        RequestError: in place of an exception that the network also raises in a plain pass.
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
