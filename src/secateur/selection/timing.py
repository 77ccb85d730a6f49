"""A table of measured times of single layers, from which the time of a smaller network is predicted."""

from __future__ import annotations

import contextlib
import itertools
import math
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from secateur.core.errors import RequestError
from secateur.core.files import read_json, write_json
from secateur.structure.groups import Call

TABLE_VERSION = 1
_STEP = 16
"""Channels that matrix units process at a time, on most machines; times rise in steps of this number."""


@dataclass(eq=False)
class LatencyTable:
    """Milliseconds of weighted layers by their shapes; each shape is measured once, on this machine.

    Channel counts up to 8 are measured as they are. Others are interpolated linearly in every size between points that
    are at most a fifth apart: times rise in steps of 16 channels, so multiples of 16 lie between multiples of 16, and
    other counts between the middles of such steps (8, 24, 40, ...), which is right on average.

    Attributes:
        batch: samples per forward pass.
        threads: number of PyTorch threads while measuring; None: as set.
        device: device of the measurement; dtype: type of inputs and weights.
        channels_last: memory format of images, as in `secateur.measure_latency`.
        path: JSON file that is read at the start, if it exists, and that `save` writes.
        timer: function that measures one call in milliseconds; None: by running it in PyTorch.

    Example:
        >>> call = Call("conv", "convolution", (1, 100, 8, 8), (50, 100, 3, 3), {"groups": 1, "transposed": False})
        >>> table = LatencyTable(timer=lambda c: c.input_shape[1] * c.weight_shape[0])
        >>> table.time(call), len(table.times)
        (5000.0, 4)
    """

    batch: int = 8
    threads: int | None = None
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    channels_last: bool = True
    path: str | Path | None = None
    timer: Callable[[Call], float] | None = None
    times: dict[str, float] = field(default_factory=dict, repr=False)
    _interpolated: dict[str, float] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.path is not None and Path(self.path).exists():
            self.times.update(self._read(self.path))

    def time(self, call: Call) -> float:
        """Milliseconds of one call, measured or interpolated.

        Args:
            call: the call with the table's batch and in its layout (see `for_batch`).
        """
        key = self._key(call)
        if key in self._interpolated:
            return self._interpolated[key]
        total = 0.0
        for corner in itertools.product(*(_neighbours(size) for size in _sizes(call))):
            share = math.prod(weight for _, weight in corner)
            total += share * self.measured(resized(call, tuple(size for size, _ in corner)))
        self._interpolated[key] = total
        return total

    def measured(self, call: Call) -> float:
        """Milliseconds of exactly this call, which is measured the first time."""
        key = self._key(call)
        if key not in self.times:
            self.times[key] = self.timer(call) if self.timer else self._measure(call)
        return self.times[key]

    def save(self) -> None:
        """Write the table to its ``path``, if it has one; atomically."""
        if self.path is not None:
            write_json(self.path, {"version": TABLE_VERSION, "machine": machine(self.device), "times_ms": self.times})

    def _read(self, path: str | Path) -> dict[str, float]:
        value = read_json(path)
        if not isinstance(value, dict) or value.get("version") != TABLE_VERSION or "times_ms" not in value:
            raise RequestError(f"'{path}' is not a latency table; give another file")
        if value.get("machine") != machine(self.device):
            raise RequestError(
                f"the latency table '{path}' was measured on another machine or version ({value.get('machine')}; "
                f"this is {machine(self.device)}); give another file"
            )
        return {str(key): float(ms) for key, ms in value["times_ms"].items()}

    def _key(self, call: Call) -> str:
        options = " ".join(f"{name}={call.options[name]}" for name in sorted(call.options))
        threads = self.threads or torch.get_num_threads()
        form = f"{str(self.dtype).removeprefix('torch.')} {'channels-last' if self.channels_last else 'contiguous'}"
        return f"{call.op} {call.input_shape} {call.weight_shape} {options} {form} threads={threads}"

    def _measure(self, call: Call) -> float:
        """The fastest of at least 5 runs and about 30 ms, after 2 unmeasured ones.

        Shapes are measured at different times, so other work of the machine must not count; it only slows runs down.
        """
        x, w = (torch.full(s, 0.5, dtype=self.dtype, device=self.device) for s in (call.input_shape, call.weight_shape))
        if self.channels_last and x.ndim == 4:
            x, w = (t.contiguous(memory_format=torch.channels_last) for t in (x, w))
        run = _runner(call, x, w)
        times: list[float] = []
        with torch.inference_mode(), threads_set(self.threads):
            for _ in range(2):
                run()
            while len(times) < 5 or (sum(times) < 30 and len(times) < 100):
                wait(x.device)
                start = time.perf_counter()
                run()
                wait(x.device)
                times.append(1000 * (time.perf_counter() - start))
        return min(times)


@cache
def shared_table(
    batch: int = 8,
    threads: int | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    channels_last: bool = True,
    path: str | None = None,
) -> LatencyTable:
    """The table with these settings, shared within the process so that no shape is measured twice."""
    return LatencyTable(batch, threads, device, dtype, channels_last, path)


def for_batch(call: Call, example: int, batch: int) -> Call:
    """A call of a network traced with ``example`` samples, for ``batch`` samples and in the table's layout.

    Layers are [rows, in] with weights [out, in]; products of activations are [b, n, k] with [b, k, m].

    Example:
        >>> for_batch(Call("fc", "linear", (1, 49, 10), (10, 4), {"transposed": False}), 1, 8)
        Call(name='fc', op='linear', input_shape=(392, 10), weight_shape=(4, 10), options={})
    """

    def scaled(size: int) -> int:
        return max(1, round(size * batch / example))

    shape, weight = call.input_shape, call.weight_shape
    if call.op == "convolution":
        return replace(call, input_shape=(scaled(shape[0]), *shape[1:]))
    if call.options.get("transposed"):
        weight = (*weight[:-2], weight[-1], weight[-2])
    if call.op == "linear" and len(weight) == 2:
        produced, read = weight if call.options.get("left") else weight[::-1]
        rows = math.prod(shape) // max(1, read)
        return Call(call.name, "linear", (scaled(rows), read), (produced, read), {})
    count = scaled(math.prod(weight[:-2]))
    return Call(call.name, "product", (count, *shape[-2:]), (count, *weight[-2:]), {})


def output_elements(call: Call) -> int:
    """Number of elements in the output of a call.

    Example:
        >>> options = {"stride": (2, 2), "padding": (1, 1), "dilation": (1, 1), "groups": 1, "transposed": False}
        >>> output_elements(Call("conv", "convolution", (1, 3, 8, 8), (16, 3, 3, 3), options))
        256
    """
    if call.op == "product":
        return math.prod((*call.input_shape[:-1], call.weight_shape[-1]))
    if call.op == "linear":
        return math.prod(call.input_shape[:-1]) * call.weight_shape[0]
    given = call.options
    space = 1
    for index, (size, kernel) in enumerate(zip(call.input_shape[2:], call.weight_shape[2:], strict=True)):
        stride, padding, dilation = (given[name][index] for name in ("stride", "padding", "dilation"))
        reach = dilation * (kernel - 1) + 1
        if given["transposed"]:
            space *= (size - 1) * stride - 2 * padding + reach + given["output_padding"][index]
        else:
            space *= (size + 2 * padding - reach) // stride + 1
    channels = call.weight_shape[1] * given["groups"] if given["transposed"] else call.weight_shape[0]
    return call.input_shape[0] * int(channels) * int(space)


def machine(device: str) -> str:
    """Processor and version of PyTorch, on which measured times depend."""
    kind = torch.device(device)
    name = torch.cuda.get_device_name(kind) if kind.type == "cuda" else _processor()
    return f"{name}, torch {torch.__version__}"


@cache
def _processor() -> str:
    with contextlib.suppress(OSError):  # other systems have no such file; their own name is used
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def wait(device: torch.device) -> None:
    """Wait until a graphics card has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextlib.contextmanager
def threads_set(count: int | None) -> Iterator[None]:
    """Set the number of PyTorch threads within the context; None: leave it as it is."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _runner(call: Call, x: torch.Tensor, w: torch.Tensor) -> Callable[[], Any]:
    if call.op == "linear":
        return lambda: torch.nn.functional.linear(x, w)
    if call.op == "product":
        return lambda: torch.bmm(x, w)
    names = ("stride", "padding", "dilation", "transposed", "output_padding", "groups")
    given: Any = [call.options[name] for name in names]
    return lambda: torch.convolution(x, w, None, *given)


def _sizes(call: Call) -> tuple[int, ...]:
    """The sizes of a call that pruning changes."""
    if call.op == "product":
        return (*call.input_shape, call.weight_shape[-1])
    if call.op == "linear":
        return call.input_shape[-1], call.weight_shape[0]
    if call.options["groups"] > 1:
        return (call.options["groups"],)
    return call.input_shape[1], call.weight_shape[1 if call.options["transposed"] else 0]


def resized(call: Call, sizes: tuple[int, ...]) -> Call:
    """The call with other sizes, in the order of `_sizes`."""
    if call.op == "product":
        b, n, k, m = sizes
        return replace(call, input_shape=(b, n, k), weight_shape=(b, k, m))
    if call.op == "linear":
        return replace(call, input_shape=(*call.input_shape[:-1], sizes[0]), weight_shape=(sizes[1], sizes[0]))
    batch, channels, *space = call.input_shape
    first, second, *kernel = call.weight_shape
    before = call.options["groups"]
    if before > 1:
        (groups,) = sizes
        shape = (batch, channels // before * groups, *space)
        options = {**call.options, "groups": groups}
        return replace(
            call, input_shape=shape, weight_shape=(first // before * groups, second, *kernel), options=options
        )
    pair = (sizes[0], sizes[1]) if call.options["transposed"] else (sizes[1], sizes[0])
    return replace(call, input_shape=(batch, sizes[0], *space), weight_shape=(*pair, *kernel))


def _neighbours(size: int) -> list[tuple[int, float]]:
    """Grid points around a size and their weights.

    Example:
        >>> _neighbours(7), _neighbours(40), _neighbours(60), _neighbours(144)
        ([(7, 1.0)], [(40, 1.0)], [(56, 0.75), (72, 0.25)], [(128, 0.5), (160, 0.5)])
    """
    if size <= _STEP // 2:
        return [(size, 1.0)]
    offset = 0 if size % _STEP == 0 else _STEP // 2
    at = (size - offset) / _STEP
    # all steps up to 8, then four points per doubling
    stride = 1 if at < 8 else 2 ** (int(math.log2(at)) - 2)
    low = int(at // stride) * stride
    share = (at - low) / stride
    points = [(low, 1 - share), (low + stride, share)]
    return [(offset + _STEP * point, weight) for point, weight in points if weight > 0]
