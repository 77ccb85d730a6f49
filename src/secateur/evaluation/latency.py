"""Time per batch of PyTorch networks, measured in turn within one run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence

import numpy as np
import torch
from torch import nn

from secateur.core.errors import RequestError
from secateur.core.progress import ProgressOption, reported, track
from secateur.core.timing import Latency, in_turn, latencies, until_known
from secateur.selection.timing import threads_set, wait


@reported("measuring latency")
def measure_latency(
    models: Sequence[nn.Module],
    inputs: torch.Tensor,
    *,
    repeats: int = 16,
    warmup: int = 3,
    threads: int | None = None,
    channels_last: bool = True,
    progress: ProgressOption = True,
) -> list[Latency]:
    """Forward time of several networks on one batch, measured in turn so that drift affects all alike.

    Networks run in eval mode, on the device of their parameters.

    Args:
        models: e.g. before and after pruning. All are compared with the first one, see `Latency`: ``relative`` holds
            the median ratio and its interval, which 6 rounds or more have.
        inputs: one batch.
        repeats: measured rounds; each round runs every network once, every other round in reverse order. An even number
            is best, because drift within a round then favours none.
        warmup: rounds before that.
        threads: number of PyTorch threads while measuring; None: as set.
        channels_last: run 4-D weights and inputs in channels-last memory format; False: as they are.
        progress: how progress is reported, between rounds; see `secateur.core.progress.ProgressOption`.

    Raises:
        RequestError: for fewer than one repeat, or no networks.

    Example:
        >>> slow, fast = nn.Linear(512, 512), nn.Linear(512, 2)
        >>> before, after = measure_latency([slow, fast], torch.zeros(64, 512))
        >>> before.relative is None, after.batch_size, after.relative.rounds
        (True, 64, 16)
    """
    if repeats < 1 or warmup < 0:
        raise RequestError(f"latency needs repeats >= 1 and warmup >= 0, got {repeats} and {warmup}")
    if not models:
        raise RequestError("latency needs at least one network; give a list of them")
    with _rounds(models, inputs, warmup, threads, channels_last) as rounds:
        times = np.array([next(rounds) for _ in track(range(repeats), "rounds of timing", steady=True)])
        return latencies(times, len(inputs), torch.get_num_threads())


@reported("measuring latency")
def compare_latency(
    before: nn.Module,
    after: nn.Module,
    inputs: torch.Tensor,
    *,
    precision: float = 0.02,
    repeats: tuple[int, int] = (12, 300),
    seconds: tuple[float, float] = (0.7, 4.0),
    threads: int | None = None,
    channels_last: bool = True,
    progress: ProgressOption = True,
) -> tuple[Latency, Latency]:
    """Time of two networks, measured in turn until their ratio is precise enough; the second has ``relative``.

    The ratio is taken within each round, so that a busy machine, which slows both networks, changes it little.

    Args:
        before: the network to compare with.
        after: e.g. the pruned one.
        inputs: one batch.
        precision: relative half width of the interval at which measuring ends.
        repeats: least and largest number of rounds; an even number runs.
        seconds: least and largest time after the least number of rounds.
        threads: see `measure_latency`.
        channels_last: see `measure_latency`.
        progress: see `measure_latency`.
    """
    with _rounds([before, after], inputs, 3, threads, channels_last) as rounds:
        with contextlib.closing(_tracked(rounds)) as watched:
            times = until_known(watched, precision, repeats, seconds)
        first, second = latencies(times, len(inputs), torch.get_num_threads())
    return first, second


def _tracked(rounds: Iterator[tuple[float, ...]]) -> Generator[tuple[float, ...], None, None]:
    yield from track(rounds, "rounds of timing", steady=True)


@contextlib.contextmanager
def _rounds(
    models: Sequence[nn.Module], inputs: torch.Tensor, warmup: int, threads: int | None, channels_last: bool
) -> Iterator[Iterator[tuple[float, ...]]]:
    """Milliseconds of each network, round after round."""
    with torch.inference_mode(), threads_set(threads), contextlib.ExitStack() as stack:
        for model in models:
            stack.enter_context(ready(model, channels_last))
        yield in_turn([_pass(model, placed(model, inputs, channels_last)) for model in models], warmup)


def placed(model: nn.Module, inputs: torch.Tensor, channels_last: bool) -> torch.Tensor:
    """Inputs on the device of the network's parameters, images in channels-last memory format if requested."""
    x = inputs.to(next((p.device for p in model.parameters()), inputs.device))
    return x.contiguous(memory_format=torch.channels_last) if channels_last and x.ndim == 4 else x


def _pass(model: nn.Module, inputs: torch.Tensor) -> Callable[[], None]:
    """One forward pass, including the work of the device."""

    def call() -> None:
        model(inputs)
        wait(inputs.device)

    return call


@contextlib.contextmanager
def ready(model: nn.Module, channels_last: bool) -> Iterator[None]:
    """The network in eval mode, with 4-D weights in channels-last memory format if requested; restored afterwards."""
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
