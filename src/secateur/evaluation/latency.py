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
from secateur.selection.timing import threads_set, wait


@dataclass(frozen=True)
class Latency:
    """Milliseconds per batch: median and quartiles over the repeats."""

    median_ms: float
    quartiles_ms: tuple[float, float]
    batch_size: int
    repeats: int


@dataclass(frozen=True)
class LatencyShare:
    """Time of one network as a share of another's.

    Attributes:
        share: median over rounds of the ratio within the round.
        interval: that holds the true median with about 95 % confidence, if rounds are independent.
        rounds: how many.
        before_ms: median time of the network that is compared with.
    """

    share: float
    interval: tuple[float, float]
    rounds: int
    before_ms: float

    @property
    def uncertainty(self) -> float:
        """Half the interval, relative to the share."""
        return (self.interval[1] - self.interval[0]) / 2 / self.share


def measure_latency(
    models: Sequence[nn.Module],
    inputs: torch.Tensor,
    *,
    repeats: int = 15,
    warmup: int = 3,
    threads: int | None = None,
    channels_last: bool = True,
) -> list[Latency]:
    """Forward time of several networks on one batch, measured in turn so that drift hits all alike.

    Networks run in eval mode, on the device of their parameters.

    Args:
        models: e.g. before and after pruning.
        inputs: one batch.
        repeats: measured rounds; each round runs every network once, every other round in reverse order.
        warmup: rounds before that.
        threads: of PyTorch while measuring; None: as set.
        channels_last: run 4-D weights and inputs in channels-last memory format; False: as they are.

    Raises:
        RequestError: for fewer than one repeat.
    """
    if repeats < 1 or warmup < 0:
        raise RequestError(f"latency needs repeats >= 1 and warmup >= 0, got {repeats} and {warmup}")
    with _rounds(models, inputs, warmup, threads, channels_last) as rounds:
        times = np.array([next(rounds) for _ in range(repeats)]).T
    return [
        Latency(float(np.median(t)), (float(np.quantile(t, 0.25)), float(np.quantile(t, 0.75))), len(inputs), repeats)
        for t in times
    ]


def measure_share(
    before: nn.Module,
    after: nn.Module,
    inputs: torch.Tensor,
    *,
    precision: float = 0.02,
    repeats: tuple[int, int] = (11, 301),
    seconds: tuple[float, float] = (0.7, 4.0),
    threads: int | None = None,
    channels_last: bool = True,
) -> LatencyShare:
    """Time of ``after`` as a share of ``before``'s, measured in turn until it is known well enough.

    The ratio is taken within each round, so that a busy machine, which slows both, shifts it little.

    Args:
        before: the network to compare with.
        after: e.g. the pruned one.
        inputs: one batch.
        precision: relative half width of the interval at which measuring ends.
        repeats: fewest and most rounds.
        seconds: least and most, once the fewest rounds are done.
        threads: see `measure_latency`.
        channels_last: see `measure_latency`.
    """
    times: list[tuple[float, ...]] = []
    with _rounds([before, after], inputs, 3, threads, channels_last) as rounds:
        begin = time.perf_counter()
        while True:
            times.append(next(rounds))
            spent = time.perf_counter() - begin
            if len(times) < repeats[0] or (spent < seconds[0] and len(times) < repeats[1]):
                continue
            found = _share(np.array(times))
            if found.uncertainty <= precision or len(times) >= repeats[1] or spent > seconds[1]:
                return found


def _share(times: np.ndarray) -> LatencyShare:
    ratios = np.sort(times[:, 1] / times[:, 0])
    count = len(ratios)
    # ranks between which the median lies: a binomial count, by its normal approximation
    low = max(0, int(np.floor((count - 1.96 * np.sqrt(count)) / 2)))
    interval = (float(ratios[low]), float(ratios[count - 1 - low]))
    return LatencyShare(float(np.median(ratios)), interval, count, float(np.median(times[:, 0])))


@contextlib.contextmanager
def _rounds(
    models: Sequence[nn.Module], inputs: torch.Tensor, warmup: int, threads: int | None, channels_last: bool
) -> Iterator[Iterator[tuple[float, ...]]]:
    """Milliseconds of each network, round after round."""
    with torch.inference_mode(), threads_set(threads), contextlib.ExitStack() as stack:
        for model in models:
            stack.enter_context(_ready(model, channels_last))
        placed = []
        for model in models:
            device = next((p.device for p in model.parameters()), inputs.device)
            x = inputs.to(device)
            placed.append(x.contiguous(memory_format=torch.channels_last) if channels_last and x.ndim == 4 else x)
        rounds = _timed(models, placed)
        for _ in range(warmup):
            next(rounds)
        yield rounds


def _timed(models: Sequence[nn.Module], placed: Sequence[torch.Tensor]) -> Iterator[tuple[float, ...]]:
    order = list(range(len(models)))
    while True:
        order.reverse()
        times = [0.0] * len(models)
        for index in order:
            wait(placed[index].device)
            start = time.perf_counter()
            models[index](placed[index])
            wait(placed[index].device)
            times[index] = 1000 * (time.perf_counter() - start)
        yield tuple(times)


@contextlib.contextmanager
def _ready(model: nn.Module, channels_last: bool) -> Iterator[None]:
    modes = [(m, m.training) for m in model.modules()]
    formats = [(p, p.data) for p in model.parameters() if p.ndim == 4] if channels_last else []
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
