"""PyTorch and other runtimes, timed in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from secateur.core.errors import RequestError
from secateur.core.progress import ProgressOption, reported, track
from secateur.core.timing import Latency, in_turn, latencies
from secateur.exporting.capture import Example, frozen_copy
from secateur.selection.timing import threads_set

Runner = nn.Module | Callable[..., Any]


@reported("measuring latency")
def measure_runtime(
    runners: Sequence[Runner],
    inputs: Any,
    *,
    repeats: int = 16,
    warmup: int = 3,
    threads: int | None = None,
    against: Sequence[int] | None = None,
    progress: ProgressOption = True,
) -> list[Latency]:
    """Time of PyTorch networks and sessions on one batch on the CPU, measured in turn so that drift affects all alike.

    Networks are copied, and run in eval mode and channels-last memory format; sessions get the batch as it is, and
    their time includes the conversion of tensors to the runtime and back.

    Args:
        runners: networks, and sessions such as `OnnxSession`.
        inputs: one batch: a tensor, a tuple, or a dict by argument name.
        repeats: measured rounds; each round runs every runner once, every other round in reverse order. An even number
            is best, because drift within a round then favours none.
        warmup: rounds before that.
        threads: number of PyTorch threads while measuring; None: as set. Sessions must use the same number.
        against: for each runner but the first, the position of an earlier one with which it is compared; None: the
            first. The ratio and its interval are the latency's ``relative``.
        progress: how progress is reported, between rounds; see `secateur.core.progress.ProgressOption`.

    Raises:
        RequestError: for fewer than one repeat, no runners, a session with another number of threads, or ``against``
            that does not fit.

    Example:
        >>> slow, fast = nn.Linear(512, 512), nn.Linear(512, 2)
        >>> times = measure_runtime([slow, fast], torch.zeros(4, 512), repeats=7)
        >>> [t.batch_size for t in times], times[1].relative.rounds
        ([4, 4], 7)
    """
    if repeats < 1 or warmup < 0:
        raise RequestError(f"timing needs repeats >= 1 and warmup >= 0, got {repeats} and {warmup}")
    if not runners:
        raise RequestError("timing needs at least one network or session; give a list of them")
    if against is not None and (
        len(against) != len(runners) - 1 or any(not 0 <= other <= position for position, other in enumerate(against))
    ):
        raise RequestError(
            f"against={list(against)} does not fit {len(runners)} runners; "
            "give the position of an earlier one for each but the first"
        )
    count = torch.get_num_threads() if threads is None else threads
    for runner in runners:
        own = getattr(runner, "threads", count)
        if not isinstance(runner, nn.Module) and own != count:
            raise RequestError(f"a session has {own} thread(s), PyTorch {count}; give both the same number")
    example = Example.of(inputs)
    calls = [_call(runner, example) for runner in runners]
    with torch.inference_mode(), threads_set(count):
        rounds = in_turn(calls, warmup)
        times = np.array([next(rounds) for _ in track(range(repeats), "rounds of timing", steady=True)])
    return latencies(times, example.rows, count, against)


def _call(runner: Runner, example: Example) -> Callable[[], Any]:
    if not isinstance(runner, nn.Module):
        return partial(runner, *example.args, **example.kwargs)
    # the faster format for convolutions on the CPU, so that the comparison is with PyTorch's best
    model = frozen_copy(runner).to(memory_format=torch.channels_last)
    placed = Example(
        {
            name: t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t
            for name, t in example.tensors.items()
        }
    )
    return partial(model, *placed.args, **placed.kwargs)
