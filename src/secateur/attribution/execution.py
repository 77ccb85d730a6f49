"""Which layers run at all in passes over some inputs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.core.borrowing import borrowed
from secateur.structure.base import tensors_in


def running(model: nn.Module, batches: Iterable[torch.Tensor], layers: Iterable[str]) -> set[str]:
    """Those of the layers whose weight takes part in eval mode, by whatever code.

    Args:
        model: any network; it comes back as it was.
        batches: inputs, [N, ...] each; no more are looked at once all layers have run.
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
                model(inputs.to(device).clone())  # the network may go on in place
            if watch.found == wanted:
                break
    return watch.found


class _Watch(TorchDispatchMode):
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """PyTorch would else load its compiler, which takes seconds, to leave this method alone."""
        return False

    def __init__(self, names: dict[int, set[str]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names = names
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tensors_in((args, kwargs or {})):
            self.found |= self.names.get(tensor.untyped_storage().data_ptr(), set())
        return func(*args, **(kwargs or {}))
