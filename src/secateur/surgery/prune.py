"""Cutting tensors to size, and the masks that say the same at the old size."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from secateur.core.errors import RequestError
from secateur.selection import Cut, Plan, merge_cuts

_CUTS = "_secateur_cuts"
ADDED_BIAS = "_secateur_added_bias"


def prune(model: nn.Module, plan: Plan) -> nn.Module:
    """A new, physically smaller network with the same function as the masked one; ``model`` is untouched.

    Args:
        model: the network the plan was made for (or one with the same shapes).
        plan: which units go.

    Raises:
        RequestError: for a plan of another network, or when the smaller network does not run, or computes something
            else than the masked one, because its code has sizes written into it.

    Example:
        >>> from secateur.structure import trace
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> structure = trace(net, torch.zeros(1, 4))
        >>> import numpy as np
        >>> plan = Plan.of(structure, np.arange(8) < 5, {}, "by hand", "none")
        >>> prune(net, plan)[0]
        Linear(in_features=4, out_features=5, bias=True)
    """
    slim = copy.deepcopy(model)
    apply_cuts(slim, plan.cuts)
    _verify(slim, model, plan)
    return slim


def mask(model: nn.Module, plan: Plan) -> nn.Module:
    """A copy at the old size in which no layer reads a removed unit any more: the same function as `prune`'s.

    The weights that read removed units are set to zero, so norms and biases behind a removed unit cannot leak.
    """
    masked = copy.deepcopy(model)
    close(masked, plan.cuts)
    return masked


def close(model: nn.Module, cuts: Iterable[Cut]) -> None:
    """Set the weights that read removed units to zero, in place."""
    tensors = _tensors(model)
    for cut in cuts:
        tensor = _checked(tensors, cut)
        if cut.role == "in":
            with torch.no_grad():
                tensor.index_fill_(cut.dim, torch.tensor(cut.removed, device=tensor.device), 0)


def cuts_of(model: nn.Module) -> tuple[Cut, ...]:
    """All cuts a network has gone through, in the coordinates of the original."""
    found: tuple[Cut, ...] = getattr(model, _CUTS, ())
    return found


def apply_cuts(model: nn.Module, cuts: Iterable[Cut]) -> None:
    """Cut tensors of ``model`` in place, and the attributes of layers that name their sizes."""
    cuts = tuple(cuts)
    tensors = _tensors(model)
    new: dict[int, torch.Tensor] = {}
    for cut in cuts:
        old = _checked(tensors, cut)
        current = new.get(id(old), old)
        index = torch.from_numpy(cut.kept()).to(old.device)
        new[id(old)] = current.detach().index_select(cut.dim, index)
    named = {id(tensors[cut.tensor]) for cut in cuts}
    for module in model.modules():
        weight = module._parameters.get("weight")
        bias = module._parameters.get("bias")
        out = [c for c in cuts if weight is not None and tensors[c.tensor] is weight and c.role == "out"]
        if out and bias is not None and id(bias) not in named:
            # a bias that the plan does not know of was added by compensation
            new[id(bias)] = bias.detach().index_select(0, torch.from_numpy(out[0].kept()).to(bias.device))
    for module in model.modules():
        before = None if module._parameters.get("weight") is None else module._parameters["weight"].shape  # type: ignore[union-attr]
        for name, parameter in module._parameters.items():
            if parameter is not None and id(parameter) in new:
                module._parameters[name] = nn.Parameter(
                    _like(new[id(parameter)], parameter), requires_grad=parameter.requires_grad
                )
        for name, buffer in module._buffers.items():
            if buffer is not None and id(buffer) in new:
                module._buffers[name] = new[id(buffer)].clone()
        _resize(module, before)
    setattr(model, _CUTS, merge_cuts(cuts_of(model), cuts))


def add_bias(module: nn.Module, bias: torch.Tensor) -> None:
    """Give a layer without bias one; bundles record it."""
    weight = module.get_parameter("weight")
    module.register_parameter("bias", nn.Parameter(bias.to(weight), requires_grad=weight.requires_grad))
    setattr(module, ADDED_BIAS, True)


def _like(tensor: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    """In the old memory format, so that channels-last networks stay so."""
    if old.ndim == 4 and not old.is_contiguous() and old.is_contiguous(memory_format=torch.channels_last):
        return tensor.contiguous(memory_format=torch.channels_last)
    return tensor.contiguous()


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}


def _checked(tensors: dict[str, torch.Tensor], cut: Cut) -> torch.Tensor:
    tensor = tensors.get(cut.tensor)
    if tensor is None:
        raise RequestError(f"the plan is for another network: it cuts '{cut.tensor}', which is not here")
    if cut.dim >= tensor.ndim or tensor.shape[cut.dim] != cut.size:
        raise RequestError(
            f"the plan is for another network: '{cut.tensor}' has shape {tuple(tensor.shape)}, "
            f"the plan expects {cut.size} in dimension {cut.dim}"
        )
    return tensor


def _resize(module: nn.Module, before: torch.Size | None) -> None:
    weight = module._parameters.get("weight")
    if isinstance(module, _ConvNd) and weight is not None and before is not None:
        if module.groups > 1:
            module.groups = module.groups * weight.shape[0] // before[0]
        if module.transposed:
            module.in_channels, module.out_channels = weight.shape[0], weight.shape[1] * module.groups
        else:
            module.in_channels, module.out_channels = weight.shape[1] * module.groups, weight.shape[0]
    elif isinstance(module, nn.Linear) and weight is not None:
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, _BatchNorm):
        known = weight if weight is not None else module._buffers.get("running_mean")
        if known is not None:
            module.num_features = known.shape[0]
    elif isinstance(module, nn.PReLU) and weight is not None:
        module.num_parameters = weight.shape[0]


def _verify(slim: nn.Module, model: nn.Module, plan: Plan) -> None:
    """Run the smaller network against the masked one; code with sizes written into it shows here, not at the user's."""
    if len(plan.input_shapes) != 1:
        return
    parameter = next(slim.parameters())
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(plan.input_shapes[0], generator=generator).to(device=parameter.device, dtype=parameter.dtype)
    advice = "its code has sizes written into it: take sizes from tensors, or protect the layers that feed them"
    try:
        found = _first_output(copy.deepcopy(slim).eval(), x)
    except Exception as error:
        line = (str(error).splitlines() or [""])[0]
        raise RequestError(f"the pruned network does not run ({type(error).__name__}: {line}); {advice}") from error
    expected = _first_output(mask(model, plan).eval(), x)
    scale = float(expected.abs().max())
    limit = (
        1e-6 if expected.dtype == torch.float64 else 1e-2 if expected.dtype in (torch.half, torch.bfloat16) else 1e-3
    )
    difference = float((found - expected).abs().max()) if found.shape == expected.shape else float("inf")
    if not difference <= limit * scale + 1e-6:
        raise RequestError(
            f"the pruned network computes something else (difference {difference:.2g} of {scale:.2g}); {advice}"
        )


def _first_output(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        output = model(x)
    while not isinstance(output, torch.Tensor):
        output = next(iter(output.values() if isinstance(output, dict) else output))
    return output
