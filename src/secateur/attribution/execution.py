"""Finds which layers run in passes over some inputs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.core.borrowing import borrowed
from secateur.structure.base import tensors_in


def running(model: nn.Module, batches: Iterable[torch.Tensor], layers: Iterable[str]) -> set[str]:
    """Those of the given layers whose weight is used in eval mode, by any code.

    Args:
        model: any network; its state is restored.
        batches: inputs, [N, ...] each; they are used until all layers have run.
        layers: names of parameters without ``.weight``.

    Example:
        >>> net = nn.ModuleDict({"used": nn.Linear(2, 2), "other": nn.Linear(2, 2)})
        >>> net.forward = lambda x: net["used"](x)
        >>> running(net, [torch.zeros(1, 2)], ["used", "other"])
        {'used'}
    """
    wanted = set(layers)
    names: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        layer = name.removesuffix(".weight")
        if layer in wanted:
            names.setdefault(parameter.untyped_storage().data_ptr(), set()).add(layer)
    watch = _Watch(names)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with borrowed(model), torch.no_grad():
        for inputs in batches:
            with watch:
                model(inputs.to(device).clone())  # the network may change its inputs in place
            if watch.found == wanted:
                break
    return watch.found


class _Watch(TorchDispatchMode):
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Keep PyTorch from loading its compiler, which takes seconds, only to exclude this method."""
        return False

    def __init__(self, names: dict[int, set[str]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names = names
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tensors_in((args, kwargs or {})):
            self.found |= self.names.get(tensor.untyped_storage().data_ptr(), set())
        return func(*args, **(kwargs or {}))
