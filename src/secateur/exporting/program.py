"""PyTorch's own graph files (``.pt2``) and ExecuTorch's (``.pte``)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from secateur.core.errors import RequestError, SecateurError
from secateur.exporting.capture import need, one_line, quiet


def write_program(program: torch.export.ExportedProgram, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a ``.pt2`` file, with the metadata as ``secateur.json``.

    Raises:
        SecateurError: when the disk is full.
    """
    try:
        with quiet():
            torch.export.save(program, path, extra_files={"secateur.json": json.dumps(dict(metadata))})
    except RuntimeError as error:  # the archive writer raises it for any failed write
        raise SecateurError(f"cannot write '{path.name}' ({one_line(error)}); free space") from error


def load_program(path: str | Path, trust: bool = False) -> torch.export.ExportedProgram:
    """Load a ``.pt2`` file; ``.module()`` of the result is a network again.

    Args:
        path: the file.
        trust: confirm that you trust the origin of the file: loading may run code that is in it.

    Raises:
        RequestError: without ``trust``, or when the file cannot be read.
    """
    if not Path(path).is_file():
        raise RequestError(f"'{path}' does not exist")
    if not trust:
        raise RequestError(
            f"loading '{path}' may run code that is in the file; if you know where it comes from, "
            "load_program(path, trust=True), else use a bundle or ONNX"
        )
    try:
        with quiet():
            return torch.export.load(path)
    except Exception as error:  # for a broken archive the loader may raise almost anything
        raise RequestError(f"'{path}' cannot be read as a .pt2 file ({one_line(error)})") from error


def write_executorch(program: torch.export.ExportedProgram, path: Path) -> None:
    """Write a ``.pte`` file, which uses XNNPACK where possible.

    Raises:
        RequestError: without the ``executorch`` extra, or for operations that it does not support.
    """
    exir = need("executorch.exir", "executorch")
    backend = need("executorch.backends.xnnpack.partition.xnnpack_partitioner", "executorch")
    try:
        with quiet():
            lowered = exir.to_edge_transform_and_lower(program, partitioner=[backend.XnnpackPartitioner()])
            content = lowered.to_executorch().buffer
    except Exception as error:  # its passes may raise any exception
        raise RequestError(f"the network cannot be exported to ExecuTorch ({one_line(error)})") from error
    path.write_bytes(content)


def open_executorch(path: Path) -> Callable[..., Any]:
    """A ``.pte`` file as a function of tensors."""
    runtime = need("executorch.runtime", "executorch")
    try:
        with quiet():
            program = runtime.Runtime.get().load_program(path)
            method = program.load_method("forward")
    except Exception as error:  # RuntimeError with a code, or what the bindings raise
        raise RequestError(f"ExecuTorch cannot load '{path}' ({one_line(error)})") from error

    def run(*inputs: torch.Tensor, **named: torch.Tensor) -> Any:
        try:
            return tuple(method.execute([*inputs, *named.values()]))
        except Exception as error:  # as above
            raise RequestError(f"ExecuTorch fails on these inputs ({one_line(error)})") from error

    # a method does not keep its program alive
    run.program = program  # type: ignore[attr-defined]
    return run
