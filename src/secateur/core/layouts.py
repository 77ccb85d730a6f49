"""Memory layouts of images and weights."""

from __future__ import annotations

import torch
from torch import nn

_LANES = 16
"""Floats in the widest vector register of today's CPUs (AVX-512); with AVX2 it is 8."""


def training_layout(model: nn.Module, device: torch.device) -> torch.memory_format:
    """The memory format that a network of images trains fastest in.

    Channels-last halves the time of convolutions on CPUs. There, however, PyTorch's (oneDNN's) backward pass of a
    strided 1×1 convolution with fewer input channels than a vector register has floats writes beyond its memory, which
    ends the process (seen with PyTorch 2.6 and 2.15, AVX2, fewer than 8 channels; the same layers are right in the
    contiguous format). Networks with such weights, as pruned ones may have, keep the contiguous format.

    Args:
        model: parameters are looked at, so that functional calls count, too.
        device: that trains it.

    Example:
        >>> training_layout(nn.Conv2d(3, 8, 1, stride=2), torch.device("cpu"))
        torch.contiguous_format
        >>> training_layout(nn.Conv2d(3, 8, 3), torch.device("cpu"))
        torch.channels_last
    """
    narrow = any(p.ndim == 4 and p.shape[2:] == (1, 1) and p.shape[1] < _LANES for p in model.parameters())
    return torch.contiguous_format if narrow and device.type == "cpu" else torch.channels_last


def laid_out(images: torch.Tensor, layout: torch.memory_format = torch.contiguous_format) -> torch.Tensor:
    """Images in a memory format, with its own strides.

    Images of one channel count as contiguous in both formats, whatever the stride of their channels is; PyTorch then
    goes by that stride, and would run a whole network channels-last.

    Args:
        images: [N, C, H, W]; other tensors pass.
        layout: wanted.

    Example:
        >>> grey = torch.zeros(2, 8, 8, 1).permute(0, 3, 1, 2)
        >>> grey.contiguous().stride(), laid_out(grey).stride()
        ((64, 1, 8, 1), (64, 64, 8, 1))
    """
    if images.ndim != 4:
        return images
    if layout is not torch.contiguous_format:
        return images.contiguous(memory_format=layout)
    _, channels, height, width = images.shape
    plain = (channels * height * width, height * width, width, 1)
    return images if images.stride() == plain else images.clone(memory_format=torch.contiguous_format)
