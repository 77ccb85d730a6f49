"""Checks that a bundle restores the network that was saved."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur.core.borrowing import borrowed
from secateur.selection.plan import Edits
from secateur.structure.base import tensors_in
from secateur.structure.tracing import ASIDE, arguments
from secateur.surgery.origin import added_biases
from secateur.surgery.pruning import edits_of
from secateur.surgery.state import (
    StateRecord,
    as_real,
    is_reordered,
    laid_out,
    names_by_tensor,
    parameters_of,
    stored_tensors,
    tensors_of,
)

_LIMITS = {torch.float64: 1e-6, torch.float16: 1e-2, torch.bfloat16: 1e-2}
_LIMIT = 1e-3
"""Largest difference of outputs relative to their largest value; kernels may sum in another order."""


def difference_to_file(model: nn.Module, path: Path, record: StateRecord, edits: dict[str, Any]) -> str:
    """The difference between a network in memory and its files; empty when there is none.

    Args:
        model: the network that was saved.
        path: file of its tensors.
        record: state record read from its bundle.
        edits: edits read from its bundle; sizes of cut tensors must be those that the edits leave.

    Raises:
        RequestError: for an unreadable file.
    """
    stored = stored_tensors(path, record)
    written = {name: laid_out(value, record.strides.get(name)) for name, value in stored.items()}
    frozen = [name for name, parameter in parameters_of(model).items() if not parameter.requires_grad]
    if record.frozen != frozen:
        return "other parameters require gradients"
    return _other_tensors(tensors_of(model), written) or _other_edits(model, edits) or _other_sizes(model)


def difference_to_loaded(model: nn.Module, loaded: nn.Module, inputs: Any) -> str:
    """The difference between a network in memory and the one loaded from its bundle; empty when there is none.

    Args:
        model: the network that was saved.
        loaded: the network loaded from its bundle, on the CPU.
        inputs: shapes and types of the inputs on which both are compared, as in `Plan.inputs`; None: no pass.
    """
    ours, theirs = tensors_of(model), tensors_of(loaded)
    different = _other_tensors(ours, theirs) or _other_edits(model, edits_of(loaded).to_json())
    if different:
        return different
    if added_biases(model) != added_biases(loaded):
        return "other layers were given a bias"
    for name, parameter in parameters_of(model).items():
        if parameter.requires_grad != theirs[name].requires_grad:
            return f"'{name}' {'requires' if theirs[name].requires_grad else 'does not require'} gradients"
    ties = [{frozenset(names) for names in names_by_tensor(tensors).values()} for tensors in (ours, theirs)]
    for names in ties[0] ^ ties[1]:
        return f"'{min(names)}' is tied to other names"
    return "" if inputs is None or _has_hooks(model) else _other_outputs(model, loaded, inputs)


def _other_tensors(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> str:
    for name in sorted(ours.keys() ^ theirs.keys()):
        return f"'{name}' is {'missing' if name in ours else 'new'}"
    for name, tensor in ours.items():
        other = theirs[name]
        if (tensor.dtype, tensor.shape) != (other.dtype, other.shape):
            return f"'{name}' is {other.dtype} {tuple(other.shape)}, not {tensor.dtype} {tuple(tensor.shape)}"
        if is_reordered(tensor) and tensor.stride() != other.stride():
            return f"'{name}' has strides {other.stride()}, not {tensor.stride()}"
        if not torch.equal(_bytes(tensor), _bytes(other)):
            return f"'{name}' has other values"
    return ""


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor's content as bytes, so that NaN equals itself."""
    return as_real(tensor.detach()).cpu().resolve_neg().contiguous().reshape(-1).view(torch.uint8)


def _other_edits(model: nn.Module, edits: dict[str, Any]) -> str:
    def plain(value: Any) -> Any:
        return json.loads(json.dumps(value))

    ours, theirs = plain(edits_of(model).to_json()), plain(Edits.from_json(edits).to_json())
    different = [part for part in ours.keys() | theirs.keys() if ours.get(part) != theirs.get(part)]
    return f"the recorded surgery differs ({', '.join(sorted(different))})" if different else ""


def _other_sizes(model: nn.Module) -> str:
    """A tensor without the size that the recorded surgery leaves, because it was changed by hand afterwards."""
    tensors = tensors_of(model)
    for cut in edits_of(model).cuts:
        tensor, stay = tensors.get(cut.tensor), cut.size - len(set(cut.removed))
        if tensor is None:
            return f"surgery cut '{cut.tensor}', which the network has no longer"
        if not 0 <= cut.dim < tensor.ndim or tensor.shape[cut.dim] != stay:
            return f"'{cut.tensor}' is {tuple(tensor.shape)}, but surgery left {stay} in dimension {cut.dim}"
    return ""


def _has_hooks(model: nn.Module) -> bool:
    hooks = (
        hook
        for module in model.modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    )
    return any(not getattr(hook, ASIDE, False) for hook in hooks)  # these do not change what it computes


def _other_outputs(model: nn.Module, loaded: nn.Module, inputs: Any) -> str:
    like = next((p for p in model.parameters() if p.is_floating_point()), None)
    if like is None or _holds_others(inputs):
        return ""  # some inputs are neither tensors nor plain values
    args, kwargs = arguments(_drawn(inputs, like, torch.Generator().manual_seed(0)))
    outputs = []
    for network in (model, loaded.to(like.device)):
        devices = [like.device] if like.is_cuda else []
        with borrowed(network), torch.no_grad(), torch.random.fork_rng(devices=devices):
            torch.manual_seed(0)  # for networks that draw random numbers
            try:
                outputs.append(list(_tensors_of_output(network(*args, **kwargs))))
            except Exception as error:  # noqa: BLE001 - the user's own code may raise anything
                if network is model:
                    return ""  # it does not accept random inputs
                return f"it does not run ({type(error).__name__}: {(str(error).splitlines() or [''])[0]})"
    if len(outputs[0]) != len(outputs[1]):
        return f"it returns {len(outputs[1])} tensors, not {len(outputs[0])}"
    for number, (ours, theirs) in enumerate(zip(*outputs, strict=True)):
        if ours.shape != theirs.shape:
            return f"its output {number} is {tuple(theirs.shape)}, not {tuple(ours.shape)}"
        wide = [as_real(t).to(torch.float64) for t in (ours, theirs)]
        largest = float(wide[0].nan_to_num(0.0, 0.0, 0.0).abs().max()) if ours.numel() else 0.0
        limit = _LIMITS.get(ours.dtype, _LIMIT) * largest
        if not torch.allclose(wide[0], wide[1], rtol=0.0, atol=limit, equal_nan=True):
            return f"it computes something else (output {number})"
    return ""


def _tensors_of_output(output: Any) -> Iterator[torch.Tensor]:
    tensors = list(tensors_in(list(output.values()) if isinstance(output, dict) else output))
    yield from tensors or tensors_in(list(getattr(output, "__dict__", {}).values()))


def _holds_others(described: Any) -> bool:
    if isinstance(described, list):
        return any(map(_holds_others, described))
    return isinstance(described, dict) and (
        "other" in described or _holds_others(list(described.get("dict", {}).values()))
    )


def _drawn(described: Any, like: torch.Tensor, generator: torch.Generator) -> Any:
    """Random inputs of the recorded shapes and types."""
    if isinstance(described, dict) and "shape" in described:
        dtype = getattr(torch, described["dtype"])
        if dtype.is_floating_point:
            drawn = torch.rand(described["shape"], generator=generator)
            return drawn.to(device=like.device, dtype=like.dtype)
        return torch.zeros(described["shape"], dtype=dtype, device=like.device)
    if isinstance(described, dict):
        return {key: _drawn(value, like, generator) for key, value in described["dict"].items()}
    return [_drawn(value, like, generator) for value in described] if isinstance(described, list) else described
