"""Checks before a trace: networks and inputs that cannot be traced are refused by name."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from secateur.core.borrowing import check_values
from secateur.core.errors import RequestError

_QUANTISED = (
    "torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.ao.nn.sparse.quantized", "torch.nn.quantized",
)  # fmt: skip


def check_network(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Refuse networks with modules or tensors that cannot be traced or cut, by name."""
    for name, tensor in state.items():
        if is_lazy(tensor):
            raise RequestError(f"'{name}' has no shape yet; call the network once on an input first")
    check_values(model, gradients=True)
    for path, module in model.named_modules():
        where = f"'{path}'" if path else "the network"
        if isinstance(module, (torch.jit.ScriptModule, torch.jit.ScriptFunction)):
            raise RequestError(f"{where} is scripted or traced by torch.jit; give the module from which it was made")
        if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
            raise RequestError(f"{where} is compiled; give the module before torch.compile, compile the pruned one")
        if type(module).__module__.startswith(_QUANTISED):
            raise RequestError(
                f"{where} ({type(module).__name__}) is quantised; prune first, quantise the pruned network"
            )
    for name, tensor in state.items():
        if type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
            raise RequestError(f"'{name}' is a {type(tensor).__name__}, which cannot be cut; give a plain tensor")
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
            kind = "quantised" if tensor.is_quantized else "nested" if tensor.is_nested else "sparse"
            raise RequestError(f"'{name}' is a {kind} tensor, which cannot be cut; give a dense one of plain numbers")
    _check_memory(state)


def check_inputs(tensors: Sequence[torch.Tensor]) -> None:
    """Refuse examples without values."""
    for tensor in tensors:
        plain = type(tensor).__torch_dispatch__ is torch.Tensor.__torch_dispatch__ and not tensor.is_meta
        if not plain or tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
            raise RequestError(
                "example inputs must be dense tensors with values, not meta, fake, sparse or quantised ones"
            )
    if tensors and tensors[0].ndim and not tensors[0].shape[0]:
        raise RequestError(f"the example input of shape {tuple(tensors[0].shape)} has no samples; give at least one")


def _check_memory(state: dict[str, torch.Tensor]) -> None:
    """Refuse parameters that share memory without being one: cutting one would separate them."""
    seen: dict[int, list[tuple[str, int, int]]] = {}
    for name, tensor in state.items():
        storage = tensor.untyped_storage().data_ptr() if tensor.numel() else 0
        if not storage:
            continue
        first, last = tensor.data_ptr(), tensor.data_ptr() + tensor.numel() * tensor.element_size()
        for other, start, end in seen.setdefault(storage, []):
            if first < end and start < last:
                raise RequestError(
                    f"'{name}' and '{other}' share memory without being one parameter; assign the same Parameter "
                    "to both modules to tie them, or clone one"
                )
        seen[storage].append((name, first, last))
