"""Time per batch, comparable within one run."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from secateur.core.errors import RequestError


@dataclass(frozen=True)
class Latency:
    """Milliseconds per batch: median and quartiles over the repeats."""

    median_ms: float
    quartiles_ms: tuple[float, float]
    batch_size: int
    repeats: int


def measure_latency(
    models: Sequence[nn.Module],
    inputs: torch.Tensor,
    *,
    repeats: int = 15,
    warmup: int = 3,
    threads: int | None = None,
) -> list[Latency]:
    """Forward time of several networks on one batch, measured in turn so that drift hits all alike.

    Networks run in eval mode and channels-last memory format, on the device of their parameters.

    Args:
        models: e.g. before and after pruning.
        inputs: one batch.
        repeats: measured rounds; each round runs every network once, every other round in reverse order.
        warmup: rounds before that.
        threads: of PyTorch while measuring; None: as set.

    Raises:
        RequestError: for fewer than one repeat.
    """
    if repeats < 1 or warmup < 0:
        raise RequestError(f"latency needs repeats >= 1 and warmup >= 0, got {repeats} and {warmup}")
    times: list[list[float]] = [[] for _ in models]
    with torch.inference_mode(), _threads(threads), contextlib.ExitStack() as stack:
        for model in models:
            stack.enter_context(_fast(model))
        placed = []
        for model in models:
            device = next((p.device for p in model.parameters()), inputs.device)
            x = inputs.to(device)
            placed.append(x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x)
        for round_ in range(-warmup, repeats):
            order = range(len(models)) if round_ % 2 else reversed(range(len(models)))
            for index in order:
                _wait(placed[index])
                start = time.perf_counter()
                models[index](placed[index])
                _wait(placed[index])
                if round_ >= 0:
                    times[index].append(1000 * (time.perf_counter() - start))
    return [
        Latency(float(np.median(t)), (float(np.quantile(t, 0.25)), float(np.quantile(t, 0.75))), len(inputs), repeats)
        for t in times
    ]


def _wait(tensor: torch.Tensor) -> None:
    if tensor.device.type == "cuda":
        torch.cuda.synchronize(tensor.device)


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _fast(model: nn.Module) -> Iterator[None]:
    modes = [(m, m.training) for m in model.modules()]
    formats = [(p, p.data) for p in model.parameters() if p.ndim == 4]
    model.eval()
    for parameter, data in formats:
        parameter.data = data.contiguous(memory_format=torch.channels_last)
    try:
        yield
    finally:
        for parameter, data in formats:
            parameter.data = data
        for module, mode in modes:
            module.training = mode
