"""Exports a network: captures and writes it, checks the file against PyTorch, and only then publishes it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur.core.errors import RequestError, SecateurError
from secateur.core.files import atomic_path
from secateur.core.progress import ProgressOption, reported, task, track
from secateur.exporting.capture import Example, capture, finite, flatten, frozen_copy, outputs_of
from secateur.exporting.formats import SUFFIXES, check_export
from secateur.exporting.onnx import check_opset, write_onnx
from secateur.exporting.openvino import write_openvino
from secateur.exporting.parity import Parity, compare_outputs, worst
from secateur.exporting.program import load_program, open_executorch, write_executorch, write_program
from secateur.exporting.sessions import OnnxSession, OpenVinoSession

TOLERANCE = 1e-4
# 1 and 2 are special cases of tracers; the other sizes were not used for tracing
_BATCHES = (1, 2, 3, 8)


@dataclass(frozen=True)
class Exported:
    """A written file that was checked to compute the same as PyTorch.

    Attributes:
        path: the file; OpenVINO's weights are next to it with the suffix ``.bin``.
        format: the requested format.
        difference: the largest max|a - b| / max(1, max|a|) over random batches and outputs, a being PyTorch's.
        top1_equal: whether all samples had the same top class, ties aside; None when the first output is not
            [N, classes].
        bytes: size on disk of all files.
        constant: whether the network returned the same outputs for all samples (a head of zeros, dead activations), so
            that ``difference`` and ``top1_equal`` say little.
    """

    path: Path
    format: str
    difference: float
    top1_equal: bool | None
    bytes: int
    constant: bool = False


@reported("exporting")
def export(
    model: nn.Module,
    path: str | Path,
    example_inputs: Any,
    format: str = "onnx",
    *,
    batch: int | None = None,
    opset: int | None = None,
    tolerance: float = TOLERANCE,
    metadata: Mapping[str, Any] | None = None,
    output_names: Sequence[str] | None = None,
    seed: int = 0,
    progress: ProgressOption = True,
) -> Exported:
    """Write a network for another runtime and check it there against PyTorch; nothing is left when they differ.

    The check runs random batches of 1, 2, 3 and 8 samples (of ``batch`` samples, when given), drawn value by value
    from the example inputs; a real input whose values are all equal is drawn from the standard normal distribution.
    All tensors that the network returns are compared. The network is exported in eval mode from a copy on the CPU.

    Args:
        model: any network, pruned or not.
        path: the file to write, with the suffix of its format: ``.onnx``, ``.xml``, ``.pt2``, ``.pte``.
        example_inputs: a tensor, a tuple of positional arguments, or a dict of keyword arguments. Inputs with as many
            rows as the first input hold one row per sample.
        format: ``onnx``, ``openvino``, ``torch-export`` or ``executorch``.
        batch: the only batch size that the file will accept; None: any (``executorch``: 1).
        opset: opset of ONNX; None: the exporter's default.
        tolerance: the largest difference that passes, see `Exported`.
        metadata: stored in the file, e.g. ``{"normalisation": ..., "class_names": [...]}``, as JSON text, together with
            Secateur's version, the opset, and the inputs' names, shapes and types. ``executorch`` stores none.
        output_names: names for ``onnx`` and ``openvino``, one for each tensor that the network returns; None:
            ``output``, or ``output_0``, ``output_1``, ...
        seed: seed of the random batches.
        progress: how progress is reported, see `secateur.core.progress.ProgressOption`.

    Raises:
        RequestError: for an unknown format or opset, a missing extra, a path that cannot be written, a network that
            fails on the example, or one that the format cannot express.
        SecateurError: when the file does not compute the same as PyTorch, or the disk is full.

    Example:
        >>> import tempfile
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> exported = export(net, Path(tempfile.mkdtemp()) / "net.onnx", torch.randn(2, 4))
        >>> exported.path.name, exported.top1_equal, exported.difference < 1e-5
        ('net.onnx', True, True)
    """
    target = Path(path)
    _check_request(target, format, batch, opset)
    home = writable_parent(target)
    example = Example.of(example_inputs)
    network = frozen_copy(model)
    outputs_of(network, example)  # fails here with our message rather than in a tracer
    generator = torch.Generator().manual_seed(seed)
    dynamic = batch is None and format != "executorch"
    rows = batch or (2 if dynamic else 1)
    traced = example.draw(rows, generator)
    names = _names(output_names, len(finite(outputs_of(network, traced))))
    with task("capturing the network as a graph"):
        program = capture(network, traced, dynamic)
    about = _about(program, traced, dynamic, metadata or {})
    try:
        with tempfile.TemporaryDirectory(dir=home, prefix=f".{target.name}.", ignore_cleanup_errors=True) as folder:
            draft = Path(folder) / target.name
            with task(f"writing {format}"):
                if format in ("onnx", "openvino"):
                    onnx = draft if format == "onnx" else Path(folder) / "source" / "model.onnx"
                    onnx.parent.mkdir(exist_ok=True)
                    write_onnx(
                        program, onnx, traced, outputs=names, dynamic=dynamic, opset=opset, metadata=about
                    )  # fmt: skip
                    if format == "openvino":
                        write_openvino(onnx, draft, about)
                elif format == "torch-export":
                    write_program(program, draft, about)
                else:
                    write_executorch(program, draft)
            parity, constant = _check(
                network, draft, format, example, _BATCHES if dynamic else (rows,) * 3, generator, tolerance
            )
            if parity.reason or not parity.difference <= tolerance or parity.top1_equal is False:
                raise SecateurError(_refusal(format, parity, tolerance))
            size = _publish(draft, target)
    except OSError as error:
        raise SecateurError(f"cannot write '{target}' ({error.strerror or error}); free space") from error
    return Exported(target, format, parity.difference, parity.top1_equal, size, constant)


def _names(asked: Sequence[str] | None, count: int) -> list[str]:
    """Names of the outputs."""
    if asked is None:
        return ["output"] if count == 1 else [f"output_{i}" for i in range(count)]
    if len(set(asked)) != count:
        raise RequestError(f"the network returns {count} tensors; output_names has {len(set(asked))} names for them")
    return list(asked)


def writable_parent(target: Path) -> Path:
    """The nearest folder above ``target`` that exists, in which something can be written.

    Raises:
        RequestError: when nothing can be written there.
    """
    home = Path(os.path.abspath(target)).parent  # noqa: PTH100 - links stay as they are
    while not home.exists() and home != home.parent:
        home = home.parent
    try:
        with tempfile.TemporaryDirectory(dir=home, prefix=".secateur-"):
            return home
    except OSError as error:
        raise RequestError(
            f"'{target}' cannot be written ({error.strerror or error}: '{home}'); choose another path"
        ) from error


def _check_request(target: Path, format: str, batch: int | None, opset: int | None) -> None:
    check_export(format, batch, opset)
    if target.suffix != SUFFIXES[format]:
        raise RequestError(f"a file of format '{format}' should end in {SUFFIXES[format]}, got '{target}'")
    if target.is_dir():
        raise RequestError(f"'{target}' is a folder; name the file to write")
    if format in ("onnx", "openvino"):
        check_opset(opset)


def _about(
    program: torch.export.ExportedProgram, example: Example, dynamic: bool, metadata: Mapping[str, Any]
) -> dict[str, str]:
    """Metadata of the file: text by name."""
    names = program.graph_signature.user_inputs
    inputs = [{"name": str(name), **about} for name, about in zip(names, example.describe(dynamic), strict=False)]
    own = {"secateur_version": version("secateur"), "torch_version": torch.__version__, "inputs": inputs}
    try:
        return {
            key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for key, value in {**metadata, **own}.items()
        }
    except (TypeError, ValueError) as error:
        raise RequestError(f"metadata should be JSON values ({error})") from error


def open_runtime(path: Path, format: str, threads: int | None = None) -> Callable[..., Any]:
    """The file in its runtime, as a function of tensors."""
    if format == "onnx":
        return OnnxSession(path, threads)
    if format == "openvino":
        return OpenVinoSession(path, threads)
    if format == "executorch":
        return open_executorch(path)
    module: nn.Module = load_program(path, trust=True).module()
    return module


def _check(
    network: nn.Module,
    path: Path,
    format: str,
    example: Example,
    batches: tuple[int, ...],
    generator: torch.Generator,
    tolerance: float,
) -> tuple[Parity, bool]:
    """Parity over random batches, and whether PyTorch's outputs were the same for all their samples."""
    runtime = open_runtime(path, format)
    parities = []
    seen: list[torch.Tensor] | None = None
    constant = True
    for rows in track(batches, f"comparing {format} with PyTorch"):
        batch = example.draw(rows, generator)
        expected = finite(outputs_of(network, batch))
        seen = expected if seen is None else seen
        constant = constant and all(_repeats(a, first) for a, first in zip(expected, seen, strict=True))
        with torch.no_grad():
            parities.append(compare_outputs(expected, list(flatten(runtime(*batch.args, **batch.kwargs))), tolerance))
    return worst(parities), constant


def _repeats(output: torch.Tensor, first: torch.Tensor) -> bool:
    """Whether all rows equal the first row seen."""
    if not output.ndim:
        return torch.equal(output, first)
    return output.shape[1:] == first.shape[1:] and bool((output == first[:1]).all())


def _refusal(format: str, parity: Parity, tolerance: float) -> str:
    what = parity.reason or (
        f"difference {parity.difference:.1e} where {tolerance:.0e} passes"
        if not parity.difference <= tolerance
        else "another top class"
    )
    return f"the exported {format} file computes something else than PyTorch ({what}); nothing was written"


def _publish(draft: Path, target: Path) -> int:
    """Move the files to their final paths, the named one last; return their size."""
    files = sorted((f for f in draft.parent.iterdir() if f.is_file()), key=lambda f: f == draft)
    size = sum(f.stat().st_size for f in files)
    for file in files:
        with atomic_path(target.parent / file.name) as temporary:
            file.replace(temporary)
    return size
