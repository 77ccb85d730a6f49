"""All tensors of a network as one safetensors file, and back to the bit: types, layouts and ties too.

Unlike a state dict it has the buffers that are not persistent, so that it does not matter how a constructor draws or
computes them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from secateur.core.errors import RequestError
from secateur.core.files import atomic_path
from secateur.models.checkpoint import read_tensors


class StateRecord(BaseModel):
    """What safetensors does not hold of a network's tensors.

    Attributes:
        ties: names of the same parameter or buffer, group by group.
        strides: of tensors that do not lie in the order of their dimensions (channels-last), by name.
        complex: names of complex tensors; they are written as real ones with a last dimension of two.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    ties: list[list[str]] = Field(default_factory=list)
    strides: dict[str, list[int]] = Field(default_factory=dict)
    complex: list[str] = Field(default_factory=list)


def tensors_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """All parameters and buffers, each under all of its names."""
    return {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}


def write_state(model: nn.Module, path: Path) -> StateRecord:
    """Write all tensors of a network.

    Raises:
        RequestError: for NaN or infinite parameters, and for modules with a state that is no tensor.
    """
    for name, module in model.named_modules():
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            raise RequestError(f"module '{name}' keeps a state of its own (get_extra_state), which bundles cannot hold")
    tensors = tensors_of(model)
    for name, parameter in model.named_parameters():
        wide = parameter.float() if parameter.element_size() == 1 else parameter  # types of one byte cannot be asked
        if not torch.isfinite(wide).all():
            raise RequestError(f"parameter '{name}' holds NaN or infinite values; retrain or repair the network first")
    names = defaultdict(list)
    for name, tensor in tensors.items():
        names[id(tensor)].append(name)
    written = {
        name: _real(tensor.detach()).cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    with atomic_path(path) as temporary:
        try:
            save_file(written, temporary, {"format": "pt"})
        except SafetensorError as error:
            raise OSError(f"{error}") from error
    return StateRecord(
        ties=[group for group in names.values() if len(group) > 1],
        strides={name: list(tensor.stride()) for name, tensor in tensors.items() if _is_reordered(tensor)},
        complex=[name for name, tensor in tensors.items() if tensor.is_complex()],
    )


def read_state(model: nn.Module, path: Path, record: StateRecord) -> None:
    """Give a network of the right shapes all tensors of a file: their values, types and layouts; tie what was tied.

    Raises:
        RequestError: for an unreadable file, and for names or shapes that do not match.
    """
    stored = read_tensors(path)
    for name in record.complex:
        if name not in stored or not stored[name].is_floating_point() or stored[name].shape[-1:] != (2,):
            raise RequestError(f"'{path}' does not hold '{name}' as a complex tensor")
        stored[name] = torch.view_as_complex(stored[name].contiguous())
    _check_names(model, stored, path)
    first = {name: group[0] for group in record.ties for name in group}
    current = tensors_of(model)
    owners: dict[int, str] = {}
    made: dict[str, torch.Tensor] = {}
    for name, value in stored.items():
        leader = first.get(name, name)
        if leader != name and (leader not in stored or not torch.equal(stored[leader], value)):
            raise RequestError(f"'{path}' has two values of '{leader}', which is one tensor of several names")
        if leader not in made:
            old = current.get(name)
            device = value.device if old is None or old.is_meta else old.device
            new = _laid_out(value, record.strides.get(name)).to(device)
            if old is None or old.is_meta or owners.setdefault(id(old), leader) != leader:
                # the built network ties what was apart, or has not made this buffer yet
                grad = isinstance(old, nn.Parameter) and old.requires_grad
                made[leader] = nn.Parameter(new, grad) if isinstance(old, nn.Parameter) else new
            else:
                old.data = new  # modules that keep a reference of their own (recurrent ones do) go on
                made[leader] = old
        if current.get(name) is not made[leader]:
            module, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(module), leaf, made[leader])
    final = tensors_of(model)
    for name in stored:
        if final[name] is not made[first.get(name, name)]:
            raise RequestError(f"'{path}' does not fit the network: it uses the module of '{name}' in several places")


def _check_names(model: nn.Module, stored: dict[str, torch.Tensor], path: Path) -> None:
    current = tensors_of(model)
    free = set(_loose_buffers(model))
    wrong = [
        f"it lacks '{name}'" if name in current else f"it holds '{name}', which the network has not"
        for name in (*(current.keys() - stored.keys()), *(stored.keys() - current.keys() - free))
    ]
    for name in stored.keys() & current.keys():
        old, new = current[name], stored[name]
        if name not in free and old.shape != new.shape:
            wrong.append(f"'{name}' has shape {tuple(new.shape)}, the network's {tuple(old.shape)}")
        if old.dtype != new.dtype and not all(t.is_floating_point() or t.is_complex() for t in (old, new)):
            wrong.append(f"'{name}' is of type {new.dtype}, the network's of {old.dtype}")
    if wrong:
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise RequestError(f"'{path}' does not fit the network: {min(wrong)}{more}")


def _loose_buffers(model: nn.Module) -> Iterator[str]:
    """Buffers that are not persistent: their sizes may follow the last input, and some are made by the first one."""
    for path, module in model.named_modules(remove_duplicate=False):
        for name in module._buffers:
            if name in module._non_persistent_buffers_set:
                yield f"{path}.{name}" if path else name


def _real(tensor: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _is_reordered(tensor: torch.Tensor) -> bool:
    """Whether a tensor's memory is whole, but in another order than that of its dimensions."""
    strides = list(tensor.stride())
    return strides != _strides(tensor.shape, range(tensor.ndim)) and _is_whole(tensor.shape, strides)


def _strides(shape: torch.Size, order: Any) -> list[int]:
    strides, step = [0] * len(shape), 1
    for dim in reversed(list(order)):
        strides[dim], step = step, step * max(1, shape[dim])
    return strides


def _is_whole(shape: torch.Size, strides: list[int]) -> bool:
    if len(strides) != len(shape) or 0 in shape:
        return False
    step = 1
    for stride, size in sorted((stride, size) for stride, size in zip(strides, shape, strict=True) if size > 1):
        if stride != step:
            return False
        step *= size
    # dimensions of length one lie anywhere; within the tensor, so that numbers stay small
    return all(1 <= stride <= step for stride in strides)


def _laid_out(tensor: torch.Tensor, strides: list[int] | None) -> torch.Tensor:
    """A copy in memory of its own: matrix products round differently where a file's tensors begin at odd addresses."""
    if strides is None:
        return tensor.clone(memory_format=torch.contiguous_format)
    if not _is_whole(tensor.shape, strides):
        raise RequestError(f"a tensor of shape {tuple(tensor.shape)} cannot lie in memory by strides {strides}")
    return torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype).copy_(tensor)
