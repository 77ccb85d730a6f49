"""Counts parameters, multiply-accumulates and bytes."""

from __future__ import annotations

from typing import Any

import torch
from safetensors.torch import save
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def count_params(model: nn.Module) -> int:
    """Number of parameter elements; shared ones count once."""
    return sum(p.numel() for p in model.parameters())


def count_macs(model: nn.Module, inputs: torch.Tensor) -> int:
    """Multiply-accumulates of one sample: matrix products and convolutions, half their FLOPs.

    Attention runs with its plain kernel, whose products the counter sees; it does not see those of fused kernels.

    Example:
        >>> count_macs(nn.Linear(10, 5), torch.zeros(3, 10))
        50
    """
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    device = next((p.device for p in model.parameters()), inputs.device)
    counter = FlopCounterMode(display=False)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            model(inputs[:1].to(device))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, mode in modes:
            module.training = mode
    return int(counter.get_total_flops()) // 2


def size_on_disk(model: nn.Module) -> int:
    """Bytes of the network as a safetensors file."""
    state: dict[str, Any] = {k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}
    return len(save(state))
