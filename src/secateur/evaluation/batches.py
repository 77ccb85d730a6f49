"""Checks of batches of labelled samples before they are passed to a network."""

from __future__ import annotations

import reprlib
from typing import Any

import torch

from secateur.core.errors import RequestError

_LOADER = "give an iterable of (inputs, class indices), such as DataLoader(dataset, batch_size=256)"


def labelled(batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and class indices [N] of a batch.

    Raises:
        RequestError: for anything but a tensor of samples and one whole number for each of them.

    Example:
        >>> labelled((torch.zeros(2, 3), [1, 0]))[1]
        tensor([1, 0])
        >>> labelled((torch.zeros(2, 3), torch.eye(2)))
        Traceback (most recent call last):
            ...
        secateur.core.errors.RequestError: labels must be one class index per sample [2], got shape [2, 2]; of one-hot \
labels, labels.argmax(1)
    """
    if isinstance(batch, torch.Tensor) or not isinstance(batch, tuple | list) or len(batch) != 2:
        raise RequestError(f"a batch is a {type(batch).__name__}, no pair; {_LOADER}")
    inputs, given = batch
    if not isinstance(inputs, torch.Tensor) or inputs.ndim == 0:
        raise RequestError(f"a batch's inputs are a {type(inputs).__name__}; they must be one tensor, samples first")
    try:
        labels = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise RequestError(f"labels must be class indices, got {reprlib.repr(given)}") from error
    if labels.ndim == 0:
        raise RequestError(f"a single sample was given instead of a batch; {_LOADER}")
    if labels.numel() != len(inputs):
        hint = "; of one-hot labels, labels.argmax(1)" if labels.ndim == 2 and len(labels) == len(inputs) else ""
        raise RequestError(
            f"labels must be one class index per sample [{len(inputs)}], got shape {list(labels.shape)}{hint}"
        )
    if labels.is_floating_point() or labels.is_complex():
        raise RequestError(f"labels must be integer class indices, got {labels.dtype}; labels.long() where they are")
    if labels.numel() and int(labels.min()) < 0:
        raise RequestError(f"label {int(labels.min())} is no class index; these start at 0; leave such samples out")
    return inputs, labels.reshape(-1)
