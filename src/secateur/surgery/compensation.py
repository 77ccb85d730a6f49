"""Repair of pruned networks: mean compensation and recalibration of batch norms.

Compensation adds to each reader's bias what the removed units contributed to its output on average over the reference
samples and all positions, borders included. Where a batch norm follows a layer without bias, its running mean is
shifted instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from secateur.attribution import Read, reads
from secateur.core.errors import RequestError
from secateur.core.progress import ProgressOption, reported, track
from secateur.criteria.samples import Share
from secateur.data import ReferenceSet
from secateur.selection import Cut, Plan
from secateur.surgery.pruning import add_bias, close


def compensate(
    slim: nn.Module, model: nn.Module, plan: Plan, reference: ReferenceSet, *, batch_size: int = 64
) -> nn.Module:
    """Fold the mean contribution of removed units into the biases of ``slim``, in place.

    Args:
        slim: ``prune(model, plan)`` or ``mask(model, plan)``.
        model: the network before pruning.
        plan: the plan with which it was pruned.
        reference: samples over which the mean is taken.
        batch_size: samples per pass.

    Returns:
        ``slim``.
    """
    inputs = _reads(model, reference, batch_size)
    shapes = {name: tensor.shape for name, tensor in slim.state_dict().items()}
    outs = {cut.tensor: cut for cut in plan.cuts if cut.role == "out"}
    for layer, shift in _shifts(inputs, plan.cuts).items():
        weight = f"{layer}.weight"
        if weight in outs and shapes.get(weight, (0,))[outs[weight].dim] != outs[weight].size:
            shift = shift[torch.from_numpy(outs[weight].kept())]
        elif weight in outs:
            shift[list(outs[weight].removed)] = 0  # masked rows stay masked
        _shift(slim, layer, shift, inputs[layer].norm)
    return slim


def mask_and_compensate(
    model: nn.Module, cuts: Iterable[Cut], reference: ReferenceSet, *, batch_size: int = 64
) -> None:
    """Mask units in place and compensate their mean, measured on ``model`` as it is now."""
    cuts = tuple(cuts)
    inputs = _reads(model, reference, batch_size)
    shifts = _shifts(inputs, cuts)
    close(model, cuts)
    outs = {cut.tensor: cut for cut in cuts if cut.role == "out"}
    for layer, shift in shifts.items():
        if f"{layer}.weight" in outs:
            shift[list(outs[f"{layer}.weight"].removed)] = 0  # masked rows stay masked
        _shift(model, layer, shift, inputs[layer].norm)


def _reads(model: nn.Module, reference: ReferenceSet, batch_size: int) -> dict[str, Read]:
    """The inputs of layers on all reference samples, of which each rank processes its share."""
    share = Share.of(reference)
    return reads(model, (inputs for inputs, _ in share.samples.batches(batch_size)), share.ranks)


def _shifts(inputs: dict[str, Read], cuts: Iterable[Cut]) -> dict[str, torch.Tensor]:
    """Mean contribution of the removed inputs to each reader's outputs, [out] float64, by layer."""
    return {
        layer: inputs[layer].contribution(torch.tensor(cut.removed, device=inputs[layer].average.device))
        for cut in cuts
        if cut.role == "in"
        and cut.tensor.endswith(".weight")  # a module's layer, which can be given a bias
        and (layer := cut.tensor.removesuffix(".weight")) in inputs
        and inputs[layer].has_contribution
    }


def _shift(model: nn.Module, layer: str, shift: torch.Tensor, norm: str | None) -> None:
    module = model.get_submodule(layer)
    bias = module._parameters.get("bias")
    with torch.no_grad():
        if bias is not None:
            bias.add_(shift.to(bias))
        elif norm is not None:
            mean = model.get_buffer(norm)
            mean.sub_(shift.to(mean))
        elif isinstance(module, (nn.Linear, _ConvNd)):  # code of other modules would not use a new bias
            add_bias(module, shift)


@reported("recalibrating norms")
def recalibrate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    device: torch.device | None = None,
    progress: ProgressOption = True,
) -> nn.Module:
    """Recompute the running statistics of all batch norms on ``batches`` of inputs (labels are not used), in place.

    Args:
        model: any network.
        batches: batches of inputs, or of tuples that begin with the inputs.
        device: device of the network; None: inputs are not moved.
        progress: how progress is reported, see `secateur.core.progress.ProgressOption`.

    Raises:
        RequestError: when there is no batch.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    modes = [(m, m.training) for m in model.modules()]
    momenta = [m.momentum for m in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
        norm.train()
    count = 0
    try:
        with torch.no_grad():
            for batch in track(batches, "batches for statistics of norms"):
                inputs = batch[0] if isinstance(batch, (tuple, list)) else batch
                model(inputs if device is None else inputs.to(device))
                count += len(inputs)
    finally:
        for module, mode in modes:
            module.training = mode
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    if not count:
        raise RequestError("batch norms cannot be recalibrated without images")
    return model
