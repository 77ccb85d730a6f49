"""Exports, checks and times networks before and after pruning in one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur.core.interruption import keeping
from secateur.core.progress import ProgressOption, reported, track
from secateur.core.timing import Latency
from secateur.exporting.capture import Example
from secateur.exporting.conversion import Exported, export, open_runtime
from secateur.exporting.formats import SUFFIXES, check_format
from secateur.exporting.timing import measure_runtime

TIMED = ("onnx", "openvino")
_BATCHES = (1, 8)


@dataclass(frozen=True)
class RuntimeTimes:
    """Times of one network in PyTorch and in the other runtime, all measured in turn with the other networks'.

    Attributes:
        batch_size: samples per batch.
        torch: milliseconds in PyTorch, for all but the first network compared with the first.
        runtime: milliseconds in the other runtime; for the first network compared with itself in PyTorch, for others
            with the first network in the same runtime.
    """

    batch_size: int
    torch: Latency
    runtime: Latency


@dataclass(frozen=True)
class ExportRow:
    """One network: its file, and its times (none for formats that are not timed)."""

    name: str
    exported: Exported
    timings: tuple[RuntimeTimes, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON values, with the name of the file."""
        return {
            "network": self.name,
            **asdict(self.exported),
            "path": self.exported.path.name,
            "timings": [
                {"batch_size": t.batch_size, "torch": t.torch.to_json(), "runtime": t.runtime.to_json()}
                for t in self.timings
            ],
        }


@reported("exporting networks")
def export_networks(
    networks: Mapping[str, nn.Module],
    folder: Path,
    example_inputs: Any,
    format: str = "onnx",
    *,
    batch: int | None = None,
    opset: int | None = None,
    metadata: Mapping[str, Mapping[str, Any]] | None = None,
    repeats: int = 16,
    progress: ProgressOption = True,
) -> list[ExportRow]:
    """Export each network into ``folder`` under its name, then time all in turn, in PyTorch and the other runtime.

    Args:
        networks: networks by name, e.g. ``{"original": ..., "pruned": ...}``.
        folder: an existing folder.
        example_inputs: as for `export`.
        format: as for `export`; ``onnx`` and ``openvino`` are timed, at batch sizes 1 and 8 unless ``batch`` is given.
        batch: as for `export`.
        opset: as for `export`.
        metadata: metadata by network, as for `export`.
        repeats: timed rounds per batch size; 0: no timing.
        progress: as for `export`.

    Raises:
        RequestError: as `export`.
        SecateurError: as `export`.
    """
    check_format(format)
    about = metadata or {}
    exported: dict[str, Exported] = {}
    with keeping(lambda: _kept(exported)):
        for name, model in track(networks.items(), "networks exported"):
            path = folder / f"{name}{SUFFIXES[format]}"
            exported[name] = export(
                model, path, example_inputs, format, batch=batch, opset=opset, metadata=about.get(name)
            )
        timings = _timed(networks, exported, example_inputs, format, batch, repeats)
    return [ExportRow(name, exported[name], tuple(timings[name])) for name in networks]


def _kept(found: Mapping[str, Exported]) -> str:
    files = ", ".join(f"'{exported.path}'" for exported in found.values())
    return f"finished files are kept ({files}), and the same request rewrites them" if files else ""


def _timed(
    networks: Mapping[str, nn.Module],
    found: Mapping[str, Exported],
    example_inputs: Any,
    format: str,
    batch: int | None,
    repeats: int,
) -> dict[str, list[RuntimeTimes]]:
    """Times by network, one for each batch size; none for formats that are not timed."""
    timings: dict[str, list[RuntimeTimes]] = {name: [] for name in networks}
    if format in TIMED and repeats:
        runners: list[Callable[..., Any]] = []
        for name, model in networks.items():
            runners += [model, open_runtime(found[name].path, format, torch.get_num_threads())]
        # the first network is compared with PyTorch, the others in each runtime with the first network
        against = [0, *(position % 2 for position in range(2, len(runners)))]
        generator = torch.Generator().manual_seed(0)
        for size in _BATCHES if batch is None else (batch,):
            drawn = Example.of(example_inputs).draw(size, generator)
            times = measure_runtime(runners, drawn.kwargs or drawn.args, repeats=repeats, against=against)
            for name, ours, theirs in zip(networks, times[::2], times[1::2], strict=True):
                timings[name].append(RuntimeTimes(size, ours, theirs))
    return timings
