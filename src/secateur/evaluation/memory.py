"""Peak memory of PyTorch networks during one forward pass."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.autograd.profiler import profile

from secateur.core.errors import RequestError
from secateur.core.memory import Memory
from secateur.core.modules import check_module
from secateur.evaluation.latency import placed, ready

_ALLOCATION = "[memory]"
"""Name of allocator events in PyTorch's profiler."""


def measure_memory(model: nn.Module, inputs: torch.Tensor, *, channels_last: bool = True) -> Memory:
    """Peak memory of a network in PyTorch during one forward pass in eval and inference mode.

    The peak is the sum of parameters and buffers, the batch, and the largest number of bytes that PyTorch's allocator
    has allocated at any moment of the pass. On the CPU that is every allocation and release as PyTorch's profiler
    records it: activations, outputs, and the buffers that operations request from the allocator. It is exact to the
    byte and reproducible; it does not include memory that MKL and oneDNN allocate themselves, or the process's code
    (Python and PyTorch take some hundred MB before any network). On CUDA it is the allocator's own peak, in blocks of
    multiples of 512 bytes, without memory that libraries keep from pass to pass (workspaces of cuBLAS). A pass before,
    which does not count, excludes one-time allocations.

    Args:
        model: any network; its mode is restored.
        inputs: one batch.
        channels_last: run 4-D weights and inputs in channels-last memory format, as `measure_latency` does; False: as
            they are. The buffers of operations depend on the format.

    Raises:
        RequestError: for an empty batch, or a device that is neither the CPU nor CUDA.

    Example:
        >>> net = nn.Sequential(nn.Linear(100, 1000), nn.ReLU(), nn.Linear(1000, 10))
        >>> memory = measure_memory(net, torch.zeros(8, 100))
        >>> memory.network_bytes == 4 * (100 * 1000 + 1000 + 1000 * 10 + 10)
        True
        >>> memory.working_bytes == 4 * 8 * (100 + 1000 + 1000)  # the batch, and both sides of the ReLU
        True
    """
    check_module(model, compiled=True)
    if not isinstance(inputs, torch.Tensor) or inputs.ndim == 0 or not len(inputs):
        raise RequestError("memory is measured on one batch: a tensor of at least one sample, samples first")
    x = placed(model, inputs, channels_last)
    if x.device.type not in ("cpu", "cuda"):
        raise RequestError(f"memory is measured on the CPU and on CUDA, not on '{x.device.type}'; move the network")
    network = _held(model)
    with torch.inference_mode(), ready(model, channels_last):
        model(x)
        highest = (_on_cuda if x.device.type == "cuda" else _on_cpu)(lambda: model(x), x.device)
    return Memory(network + x.nbytes + highest, network, len(inputs))


def _held(model: nn.Module) -> int:
    """Bytes of parameters and buffers; shared memory counts once."""
    tensors = (*model.parameters(), *model.buffers())
    storages = {s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in tensors)}
    return sum(storages.values())


def _on_cuda(call: Callable[[], object], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _on_cpu(call: Callable[[], object], device: torch.device) -> int:
    with _quietly(), profile(profile_memory=True) as profiled:
        kept = call()  # the outputs of the network are still held when the last one is computed
    del kept
    results = profiled.kineto_results
    assert results is not None
    events = sorted((e for e in results.events() if e.name() == _ALLOCATION), key=lambda e: e.start_ns())
    now = highest = 0
    for event in events:
        now += event.nbytes()
        highest = max(highest, now)
    return highest


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Silence the profiler, which writes on standard error at its first use that there are no graphics cards."""
    name = "KINETO_LOG_LEVEL"
    before = os.environ.get(name)
    os.environ.setdefault(name, "6")
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
