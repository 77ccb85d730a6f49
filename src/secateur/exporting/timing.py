"""PyTorch and other runtimes, timed in turn."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from secateur.core.errors import RequestError
from secateur.exporting.capture import Example, frozen_copy

Runner = nn.Module | Callable[..., Any]


@dataclass(frozen=True)
class RuntimeTiming:
    """Milliseconds per batch: median and quartiles over the repeats."""

    median_ms: float
    quartiles_ms: tuple[float, float]
    batch_size: int
    repeats: int
    threads: int


def measure_runtime(
    runners: Sequence[Runner],
    inputs: Any,
    *,
    repeats: int = 15,
    warmup: int = 3,
    threads: int | None = None,
) -> list[RuntimeTiming]:
    """Time of PyTorch networks and sessions on one batch on the CPU, measured in turn so that drift hits all alike.

    Networks are copied, and run in eval mode and channels-last memory format; sessions take the batch as it is, and
    their time includes the way from tensors to the runtime and back.

    Args:
        runners: networks, and sessions such as `OnnxSession`.
        inputs: one batch: a tensor, a tuple, or a dict by argument name.
        repeats: measured rounds; each round runs every runner once, every other round in reverse order.
        warmup: rounds before that.
        threads: of PyTorch while measuring; None: as set. Sessions must have been made for the same number.

    Raises:
        RequestError: for fewer than one repeat, or a session with another number of threads.

    Example:
        >>> slow, fast = nn.Linear(512, 512), nn.Linear(2, 2)
        >>> [t.batch_size for t in measure_runtime([slow], torch.zeros(4, 512), repeats=3)]
        [4]
    """
    if repeats < 1 or warmup < 0:
        raise RequestError(f"timing needs repeats >= 1 and warmup >= 0, got {repeats} and {warmup}")
    count = torch.get_num_threads() if threads is None else threads
    for runner in runners:
        own = getattr(runner, "threads", count)
        if not isinstance(runner, nn.Module) and own != count:
            raise RequestError(f"a session has {own} thread(s), PyTorch {count}; give both the same number")
    example = Example.of(inputs)
    calls = [_call(runner, example) for runner in runners]
    times: list[list[float]] = [[] for _ in runners]
    with torch.inference_mode(), _threads(count):
        for round_ in range(-warmup, repeats):
            order = range(len(calls)) if round_ % 2 else reversed(range(len(calls)))
            for index in order:
                start = time.perf_counter()
                calls[index]()
                if round_ >= 0:
                    times[index].append(1000 * (time.perf_counter() - start))
    return [
        RuntimeTiming(
            float(np.median(t)),
            (float(np.quantile(t, 0.25)), float(np.quantile(t, 0.75))),
            example.rows,
            repeats,
            count,
        )
        for t in times
    ]


def _call(runner: Runner, example: Example) -> Callable[[], Any]:
    if not isinstance(runner, nn.Module):
        return partial(runner, *example.args, **example.kwargs)
    # PyTorch's faster format for convolutions on the CPU, so that the comparison is with its best
    model = frozen_copy(runner).to(memory_format=torch.channels_last)
    placed = Example(
        {
            name: t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t
            for name, t in example.tensors.items()
        }
    )
    return partial(model, *placed.args, **placed.kwargs)


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
