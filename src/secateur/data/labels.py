"""Checks that labels are class indices, one per sample; other labels are refused with a remedy."""

from __future__ import annotations

from typing import Any

import numpy as np

from secateur.core.errors import RequestError


def class_labels(values: Any, where: str = "labels") -> np.ndarray:
    """One class index per sample.

    Args:
        values: a sequence, array or tensor of whole numbers, [N] or [N, 1].
        where: name of the labels in messages.

    Returns:
        int64 [N].

    Raises:
        RequestError: for text, fractions, several labels per sample (one-hot vectors too), ragged or negative values.

    Example:
        >>> class_labels([[2], [0]])
        array([2, 0])
        >>> class_labels(np.eye(3)[[2, 0]])
        Traceback (most recent call last):
            ...
        secateur.core.errors.RequestError: labels are one-hot vectors of shape [2, 3]; argmax them: labels.argmax(1)
    """
    labels = _array(values, where)
    if labels.ndim > 1 and labels.size == len(labels):
        labels = labels.reshape(-1)
    reason = _wrong(labels)
    if reason is not None:
        raise RequestError(f"{where} are {reason}")
    labels = labels.astype(np.int64)
    if len(labels) and labels.min() < 0:
        raise RequestError(f"{where} run from {labels.min()}; class indices begin at 0, leave other samples out")
    return labels


def _array(values: Any, where: str) -> np.ndarray:
    if values is None:
        raise RequestError(f"{where} are missing; one class index per sample is needed")
    if hasattr(values, "detach"):  # a tensor; PyTorch is not loaded for what is none
        values = values.detach().cpu()
    try:
        return np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise RequestError(f"{where} make no array; one class index per sample is needed") from error


def _wrong(labels: np.ndarray) -> str | None:
    """Why labels are not class indices, with a remedy; None when they are."""
    kind, shape = labels.dtype.kind, list(labels.shape)
    if kind in "UST":
        return "text; number the classes: names, labels = np.unique(labels, return_inverse=True)"
    if labels.size == 0:
        return None if labels.ndim == 1 else f"of shape {shape}; one class index per sample is needed"
    if kind not in "iubf":
        return f"{labels.dtype} of shape {shape}; one class index per sample is needed"
    if labels.ndim == 2:
        if ((labels == 0) | (labels == 1)).all() and (labels.sum(1) == 1).all():
            return f"one-hot vectors of shape {shape}; argmax them: labels.argmax(1)"
        return f"{labels.dtype} of shape {shape}; one class index per sample is needed: argmax probabilities"
    if labels.ndim != 1:
        return f"{labels.dtype} of shape {shape}; one class index per sample is needed"
    if kind == "f":
        whole = np.isfinite(labels).all() and (labels == np.floor(labels)).all()
        remedy = "make them integers: labels.astype(int)" if whole else "there is no regression here"
        return f"{labels.dtype}; class indices are needed, {remedy}"
    return None
