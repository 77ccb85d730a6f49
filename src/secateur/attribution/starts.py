"""The logits of a network, and the start of relevance at them. Axes: N samples, K classes."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from secateur.attribution.names import Start
from secateur.attribution.rules import stabilise
from secateur.core.errors import RequestError


def logits_of(output: Any) -> torch.Tensor:
    """The logits in a network's output: a tensor, the first of a tuple, or the item or attribute ``logits``."""
    if isinstance(output, dict):
        output = output.get("logits", next(iter(output.values()), None))
    elif isinstance(output, (tuple, list)):
        output = output[0] if output else None
    elif not isinstance(output, torch.Tensor):
        output = getattr(output, "logits", output)
    if not isinstance(output, torch.Tensor) or output.ndim != 2:
        shape = f"shape {list(output.shape)}" if isinstance(output, torch.Tensor) else type(output).__name__
        raise RequestError(f"the network must return logits of shape [N, classes], got {shape}")
    return output


def check_classes(targets: torch.Tensor, logits: torch.Tensor) -> None:
    """Refuse a class that the network does not have; one with a single logit f has the classes 0 and 1.

    Raises:
        RequestError: naming the class.
    """
    wrong = targets[(targets < 0) | (targets >= max(2, logits.shape[1]))]
    if len(wrong):
        outputs = f"{logits.shape[1]} outputs" if logits.shape[1] > 1 else "one output, whose classes are 0 and 1"
        raise RequestError(f"target {int(wrong[0])} is out of range for {outputs}")


def losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of each sample's class, [N]: cross-entropy of the logits [N, K].

    A single logit f [N, 1] is the log-odds of class 1: the loss is ln(1 + e^-f) for class 1, ln(1 + e^f) for class 0.

    Raises:
        RequestError: for a class that the network does not have.

    Example:
        >>> losses(torch.tensor([[0.0], [3.0]]), torch.tensor([1, 0])).round(decimals=3).tolist()
        [0.6930000185966492, 3.0490000247955322]
    """
    check_classes(targets, logits)
    if logits.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(logits[:, 0], targets.to(logits.dtype), reduction="none")
    return F.cross_entropy(logits, targets, reduction="none")


def _binary_gradient(logits: torch.Tensor, targets: torch.Tensor, start: str, tiny: float) -> torch.Tensor:
    """`start_gradient` for a single logit f, the log-odds of class 1; the log-odds of class 0 are -f."""
    sign = 2 * targets[:, None].to(logits.dtype) - 1
    if start == "one":
        return 1 / stabilise(logits, tiny)  # for either class: ±f · (±1 / f)
    if start in ("logit", "contrast"):
        return sign
    if start == "loss":
        return logits.sigmoid() - (sign + 1) / 2
    raise RequestError(f"unknown start '{start}'; known: one, logit, contrast, loss, or a tensor")


def start_gradient(logits: torch.Tensor, targets: torch.Tensor, start: Start | torch.Tensor) -> torch.Tensor:
    """Modified gradient at the logits; R = logit · g there."""
    tiny = torch.finfo(logits.dtype).tiny
    if isinstance(start, torch.Tensor):
        if start.shape != logits.shape:
            raise RequestError(
                f"start relevance must be given per sample and class {list(logits.shape)}, got {list(start.shape)}"
            )
        return start.to(logits.dtype) / stabilise(logits, tiny)
    if logits.shape[1] == 1:
        return _binary_gradient(logits, targets, start, tiny)
    hot = F.one_hot(targets, logits.shape[1]).to(logits.dtype)
    if start == "one":
        return hot / stabilise(logits, tiny)
    if start == "logit":
        return hot
    if start == "contrast":
        return hot - (1 - hot) / (logits.shape[1] - 1)
    if start == "loss":
        return logits.softmax(1) - hot
    raise RequestError(f"unknown start '{start}'; known: one, logit, contrast, loss, or a tensor")
