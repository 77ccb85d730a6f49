"""Writes all tensors of a network to a safetensors file, and restores them to the bit, with types, layouts and ties.

Unlike a state dict, the file also holds buffers that are not persistent, so that it does not matter how a constructor
draws or computes them.
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
from torch.nn.parameter import is_lazy

from secateur.core.borrowing import check_values
from secateur.core.errors import RequestError
from secateur.core.files import atomic_path
from secateur.models.checkpoint import read_tensors


class StateRecord(BaseModel):
    """Properties of a network's tensors that safetensors does not hold.

    Attributes:
        ties: groups of names of the same parameter or buffer.
        strides: by name, strides of tensors that are not contiguous (channels-last).
        complex: names of complex tensors; they are written as real ones with a last dimension of two.
        frozen: names of parameters that do not require gradients; None in bundles of version 2, which do not record it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    ties: list[list[str]] = Field(default_factory=list)
    strides: dict[str, list[int]] = Field(default_factory=dict)
    complex: list[str] = Field(default_factory=list)
    frozen: list[str] | None = None


def tensors_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """All parameters and buffers, each under all of its names."""
    return {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}


def check_loadable(model: nn.Module) -> None:
    """Refuse networks into which the tensors of a bundle cannot be loaded.

    Raises:
        RequestError: for TorchScript, and for lazy layers that have no shape yet.
    """
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            what = f"module '{name}'" if name else "the network"
            raise RequestError(
                f"{what} is TorchScript, whose code bundles cannot hold; give the nn.Module from which it was made"
            )
    for name, tensor in tensors_of(model).items():
        if is_lazy(tensor):
            raise RequestError(f"'{name}' has no shape yet; call the network once on an input first")


def check_savable(model: nn.Module) -> None:
    """Refuse networks whose state or code a bundle cannot hold.

    Raises:
        RequestError: as `check_loadable`; for modules with a state that is no tensor, for tensors on the meta device
            or in another layout than the strided one, and for NaN or infinite parameters.
    """
    check_loadable(model)
    check_values(model)
    for name, module in model.named_modules():
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            raise RequestError(f"module '{name}' keeps extra state (get_extra_state), which bundles cannot hold")
    parameters = dict(model.named_parameters())
    for name, tensor in {**parameters, **dict(model.named_buffers())}.items():
        if tensor.layout is not torch.strided or tensor.is_quantized:
            kind = "quantized" if tensor.is_quantized else str(tensor.layout).removeprefix("torch.")
            raise RequestError(f"'{name}' is a {kind} tensor, which bundles cannot hold; make it a dense one first")
        # types of one byte cannot be asked
        if name in parameters and not torch.isfinite(tensor.float() if tensor.element_size() == 1 else tensor).all():
            raise RequestError(f"parameter '{name}' holds NaN or infinite values; retrain or repair the network first")


def write_state(model: nn.Module, path: Path) -> StateRecord:
    """Write all tensors of a network that `check_savable` accepts.

    Raises:
        RequestError: for types of tensors that safetensors does not support.
    """
    tensors = tensors_of(model)
    written = {
        name: as_real(tensor.detach()).cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    with atomic_path(path) as temporary:
        try:
            save_file(written, temporary, {"format": "pt"})
        except SafetensorError as error:
            raise OSError(f"{error}") from error
        except KeyError as error:
            raise RequestError(f"a tensor of type {error} cannot be written to safetensors") from error
    return StateRecord(
        ties=[group for group in names_by_tensor(tensors).values() if len(group) > 1],
        strides={name: list(tensor.stride()) for name, tensor in tensors.items() if is_reordered(tensor)},
        complex=[name for name, tensor in tensors.items() if tensor.is_complex()],
        frozen=[name for name, parameter in parameters_of(model).items() if not parameter.requires_grad],
    )


def read_state(model: nn.Module, path: Path, record: StateRecord) -> None:
    """Load all tensors of a file into a network of the right shapes: values, types, layouts and ties.

    Parameters require gradients if they did when they were written.

    Raises:
        RequestError: for an unreadable file, and for names or shapes that do not match.
    """
    stored = stored_tensors(path, record)
    _check_names(model, stored, path)
    first = {name: group[0] for group in record.ties for name in group}
    current = tensors_of(model)
    owners: dict[int, str] = {}
    loaded: dict[str, torch.Tensor] = {}
    for name, value in stored.items():
        leader = first.get(name, name)
        if leader != name and (leader not in stored or not torch.equal(stored[leader], value)):
            raise RequestError(f"'{path}' has two values of '{leader}', which is one tensor with several names")
        if leader not in loaded:
            old = current.get(name)
            new_one = old is None or old.is_meta or old.is_inference()  # inference tensors could not be trained
            device = value.device if old is None or old.is_meta else old.device
            new = laid_out(value, record.strides.get(name)).to(device)
            if new_one or old is None or owners.setdefault(id(old), leader) != leader:
                # the built network ties tensors that were separate, or has not created this buffer yet
                grad = isinstance(old, nn.Parameter) and old.requires_grad
                loaded[leader] = nn.Parameter(new, grad) if isinstance(old, nn.Parameter) else new
            else:
                old.data = new  # modules that keep their own reference (recurrent ones do) keep working
                loaded[leader] = old
        if current.get(name) is not loaded[leader]:
            module, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(module), leaf, loaded[leader])
    final = tensors_of(model)
    for name in stored:
        if final[name] is not loaded[first.get(name, name)]:
            raise RequestError(f"'{path}' does not fit the network: it uses the module of '{name}' in several places")
    _freeze(model, record, path)


def _freeze(model: nn.Module, record: StateRecord, path: Path) -> None:
    if record.frozen is None:
        return
    parameters = parameters_of(model)
    frozen = set(record.frozen)
    for name in sorted(frozen - parameters.keys()):
        raise RequestError(f"'{path}' does not fit the network: it has no parameter '{name}'")
    for name, parameter in parameters.items():
        requires = name not in frozen
        if requires and not (parameter.is_floating_point() or parameter.is_complex()):
            raise RequestError(f"'{path}' holds '{name}' as {parameter.dtype}, which cannot require gradients")
        parameter.requires_grad = requires


def stored_tensors(path: Path, record: StateRecord) -> dict[str, torch.Tensor]:
    """All tensors that `write_state` wrote, contiguous and in their own memory.

    Raises:
        RequestError: for an unreadable file, or one that does not fit the record.
    """
    stored = read_tensors(path)
    for name in record.complex:
        if name not in stored or not stored[name].is_floating_point() or stored[name].shape[-1:] != (2,):
            raise RequestError(f"'{path}' does not hold '{name}' as a complex tensor")
        stored[name] = torch.view_as_complex(stored[name])  # read into its own memory, which is aligned
    return stored


def names_by_tensor(tensors: dict[str, torch.Tensor]) -> dict[int, list[str]]:
    """The names of every tensor, by its id."""
    names = defaultdict(list)
    for name, tensor in tensors.items():
        names[id(tensor)].append(name)
    return names


def parameters_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """All parameters, each under all of its names."""
    return dict(model.named_parameters(remove_duplicate=False))


def _check_names(model: nn.Module, stored: dict[str, torch.Tensor], path: Path) -> None:
    current = tensors_of(model)
    free = set(_loose_buffers(model))
    wrong = [
        f"it lacks '{name}'" if name in current else f"it holds '{name}', which the network does not have"
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
    """Buffers that are not persistent: their sizes may depend on the last input, and the first one creates some."""
    for path, module in model.named_modules(remove_duplicate=False):
        for name in module._buffers:
            if name in module._non_persistent_buffers_set:
                yield f"{path}.{name}" if path else name


def as_real(tensor: torch.Tensor) -> torch.Tensor:
    """A complex tensor as a real one with a last dimension of two; others as they are."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def is_reordered(tensor: torch.Tensor) -> bool:
    """Whether a tensor fills its memory without gaps, but in another order than that of its dimensions."""
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
    # dimensions of length one may have any stride; within the tensor, so that numbers stay small
    return all(1 <= stride <= step for stride in strides)


def laid_out(tensor: torch.Tensor, strides: list[int] | None) -> torch.Tensor:
    """The tensor with the strides that it had."""
    if strides is None:
        return tensor
    if not _is_whole(tensor.shape, strides):
        raise RequestError(f"a tensor of shape {tuple(tensor.shape)} cannot have strides {strides}")
    return torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype).copy_(tensor)
