"""Whether two programs compute the same function, on random batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

_ROUNDING = 1e-6


@dataclass(frozen=True)
class Parity:
    """Difference of a program from PyTorch.

    Attributes:
        difference: the largest max|a - b| / max(1, max|a|) over batches and outputs, a being PyTorch's.
        top1_equal: whether all samples have the same top class; None when the first output is not [N, classes].
        reason: why the two cannot be compared at all; None when they can.
    """

    difference: float
    top1_equal: bool | None
    reason: str | None = None


def compare_outputs(expected: Sequence[torch.Tensor], found: Sequence[torch.Tensor], tolerance: float = 1e-4) -> Parity:
    """Compare the outputs of one batch.

    The top class counts as equal when PyTorch's logit of the class found lies within ``tolerance`` · max|logit of the
    sample| (at least 1e-6) of its own largest: such logits are tied, and rounding may decide between them. There is
    no floor of 1 here, so that small outputs such as probabilities are held to their own scale.

    Args:
        expected: PyTorch's.
        found: the other program's.
        tolerance: relative.

    Example:
        >>> a = torch.tensor([[1.0, 3.0, 2.0]])
        >>> compare_outputs([a], [a + 0.003])
        Parity(difference=0.0010..., top1_equal=True, reason=None)
    """
    if len(expected) != len(found):
        return Parity(float("inf"), False, f"{len(found)} outputs instead of {len(expected)}")
    difference = 0.0
    for a, b in zip(expected, found, strict=True):
        if a.shape != b.shape:
            return Parity(float("inf"), False, f"an output of shape {tuple(b.shape)} instead of {tuple(a.shape)}")
        if not a.numel():
            continue
        a, b = a.double(), b.double()
        gap = float((a - b).abs().max() / a.abs().max().clamp(min=1))
        # NaN compares false with everything and would pass unseen
        difference = max(difference, gap) if gap == gap else float("inf")
    return Parity(difference, _same_top(expected[0], found[0], tolerance))


def _same_top(a: torch.Tensor, b: torch.Tensor, tolerance: float) -> bool | None:
    if a.ndim != 2 or a.shape[1] < 2 or not a.is_floating_point():
        return None
    a = a.double()
    behind = a.amax(1) - a.gather(1, b.double().argmax(1, keepdim=True)).squeeze(1)
    return bool((behind <= (tolerance * a.abs().amax(1)).clamp(min=_ROUNDING)).all())


def worst(found: Sequence[Parity]) -> Parity:
    """The worst parity of several batches."""
    reason = next((p.reason for p in found if p.reason), None)
    tops = [p.top1_equal for p in found if p.top1_equal is not None]
    return Parity(max(p.difference for p in found), all(tops) if tops else None, reason)
