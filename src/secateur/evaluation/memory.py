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
"""Name that PyTorch's profiler gives to what its allocator does."""


def measure_memory(model: nn.Module, inputs: torch.Tensor, *, channels_last: bool = True) -> Memory:
    """Peak memory of a network in PyTorch during one forward pass in eval and inference mode.

    The peak is the sum of parameters and buffers, the batch, and the most bytes that PyTorch's allocator has given out
    at any moment of the pass. On the CPU that is every allocation and release as PyTorch's profiler records it:
    activations, outputs, and the buffers that operations ask the allocator for. It is exact to the byte, and the same
    each time; not in it are what MKL and oneDNN allocate for themselves, and the process's code (Python and PyTorch
    take some hundred MB before any network). On CUDA it is the allocator's own high-water mark, whose blocks are
    multiples of 512 bytes, and what libraries keep from pass to pass (workspaces of cuBLAS) is not in it. A pass before
    that is not counted leaves out what is set up once.

    Args:
        model: any network; comes back in its own mode.
        inputs: one batch.
        channels_last: run 4-D weights and inputs in channels-last memory format, as `measure_latency` does; False: as
            they are. Operations need other buffers in other formats.

    Raises:
        RequestError: for an empty batch, or a device that is neither the CPU nor CUDA.

    Example:
        >>> net = nn.Sequential(nn.Linear(100, 1000), nn.ReLU(), nn.Linear(1000, 10))
        >>> found = measure_memory(net, torch.zeros(8, 100))
        >>> found.network_bytes == 4 * (100 * 1000 + 1000 + 1000 * 10 + 10)
        True
        >>> found.working_bytes == 4 * 8 * (100 + 1000 + 1000)  # the batch, and both sides of the ReLU
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
    """Bytes behind parameters and buffers; shared ones once."""
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
        kept = call()  # what the network gives is still there when the last of it is computed
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
    """The profiler looks for graphics cards when it is first used, and writes on standard error that there are none."""
    name = "KINETO_LOG_LEVEL"
    before = os.environ.get(name)
    os.environ.setdefault(name, "6")
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
