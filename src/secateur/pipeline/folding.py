"""Folds batch norms into the layers before them, for faster passes of networks that are not trained further."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from secateur.attribution.starts import logits_of
from secateur.core.borrowing import borrowed

_ALIKE = 1e-4
"""Largest relative difference of logits at which a folded network counts as the same."""


@dataclass(frozen=True)
class Folding:
    """Layers of a network with the batch norms after them, also for networks pruned from it.

    Attributes:
        pairs: names of layer and norm; empty where the network cannot do without its norms.
    """

    pairs: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, model: nn.Module, example: torch.Tensor) -> Folding:
        """Find the pairs in one pass, and check in another that the folded network returns the same logits.

        Args:
            model: a network in any mode; its state is restored.
            example: inputs.

        Example:
            >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2))
            >>> Folding.of(net, torch.rand(4, 1, 3, 3)).pairs
            (('0', '1'),)
        """
        with borrowed(model), torch.inference_mode():
            folding = cls(_pairs(model, example))
            if not folding.pairs:
                return folding
            before = logits_of(model(example))
            slim = copy.deepcopy(model).eval()
            folding(slim)
            after = logits_of(slim(example))
        size = before.abs().max().clamp(min=1e-12)
        return folding if bool((before - after).abs().max() <= _ALIKE * size) else cls(())

    def __call__(self, model: nn.Module) -> None:
        """Fold in place; afterwards the network is valid in eval mode only."""
        with torch.no_grad():
            for name, norm_name in self.pairs:
                layer, norm = model.get_submodule(name), model.get_submodule(norm_name)
                if type(layer).forward not in _FORWARDS or not isinstance(norm, _BatchNorm):
                    continue  # surgery has replaced it by another module
                given = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
                if isinstance(layer, nn.Linear):
                    layer.weight, layer.bias = fuse_linear_bn_weights(layer.weight, layer.bias, *given)  # type: ignore[arg-type]
                else:
                    turned = isinstance(layer, _ConvTransposeNd)
                    layer.weight, layer.bias = fuse_conv_bn_weights(layer.weight, layer.bias, *given, turned)  # type: ignore[arg-type]
                parent, _, attribute = norm_name.rpartition(".")
                setattr(model.get_submodule(parent), attribute, nn.Identity())


def _pairs(model: nn.Module, example: torch.Tensor) -> tuple[tuple[str, str], ...]:
    """Layers whose output a batch norm reads, each called once, with its own weights."""
    outputs: dict[int, tuple[str, torch.Tensor]] = {}
    calls: dict[str, int] = {}
    pairs: dict[str, str] = {}
    owners: dict[int, int] = {}
    for parameter in model.named_parameters(remove_duplicate=False):
        owners[id(parameter[1])] = owners.get(id(parameter[1]), 0) + 1

    def seen(name: str, module: nn.Module) -> object:
        def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            calls[name] = calls.get(name, 0) + 1
            if isinstance(module, _BatchNorm):
                before = outputs.get(id(inputs[0]))
                if before is not None and before[1] is inputs[0]:
                    pairs[before[0]] = name
            else:
                outputs[id(output)] = (name, output)  # kept, so that its id is not used again

        return hook

    handles = [
        module.register_forward_hook(seen(name, module))
        for name, module in model.named_modules()
        if type(module).forward in _FORWARDS or (isinstance(module, _BatchNorm) and module.running_var is not None)
    ]
    try:
        model(example)
    finally:
        for handle in handles:
            handle.remove()

    def alone(name: str) -> bool:
        module = model.get_submodule(name)
        parameters = list(module.parameters(recurse=False))
        return calls[name] == 1 and all(owners[id(parameter)] == 1 for parameter in parameters)

    return tuple(
        (layer, norm)
        for layer, norm in pairs.items()
        if alone(layer) and alone(norm) and not _hidden(model.get_submodule(layer))
    )


def _hidden(module: nn.Module) -> bool:
    """Whether a layer's weight is computed, not stored."""
    return "parametrizations" in dict(module.named_children()) or not isinstance(module.weight, nn.Parameter)


_FORWARDS = {
    kind.forward
    for kind in (
        nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
    )
}  # fmt: skip
