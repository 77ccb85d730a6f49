"""Writes ONNX files with PyTorch's graph-based exporter."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from secateur.core.errors import RequestError
from secateur.exporting.capture import Example, dynamic_shapes, need, one_line, quiet

# single files are limited to 2 GiB, a little of which is left for the graph itself
SINGLE_FILE_LIMIT = 2**31 - 2**24


def check_opset(opset: int | None) -> None:
    """Refuse an operator set that the installed package does not support."""
    newest = need("onnx", "onnx").defs.onnx_opset_version()
    if opset is not None and not 7 <= opset <= newest:
        raise RequestError(f"unknown ONNX opset {opset}; known: 7 to {newest}")


def write_onnx(
    program: torch.export.ExportedProgram,
    path: Path,
    example: Example,
    *,
    outputs: Sequence[str],
    dynamic: bool,
    opset: int | None,
    metadata: Mapping[str, str],
) -> None:
    """Write one ``.onnx`` file; networks beyond 2 GiB keep their weights in ``NAME.onnx.data`` next to it.

    Raises:
        RequestError: for an operation without ONNX form, or an opset that the network cannot be written in.
    """
    need("onnxscript", "onnx")
    try:
        with quiet():
            found = torch.onnx.export(
                program,
                (),
                dynamo=True,
                verbose=False,
                output_names=list(outputs),
                opset_version=opset,
                # the graph has them already; they are passed again so that the free dimension keeps its name
                dynamic_shapes=dynamic_shapes(example) if dynamic else None,
            )
    except Exception as error:  # the exporter wraps all exceptions of its translations
        raise RequestError(_reason(error)) from error
    if found is None:
        raise RequestError("the network cannot be exported to ONNX: PyTorch's exporter returned no program")
    model = found.model
    written = model.opset_imports.get("")
    if opset is not None and written != opset:
        raise RequestError(f"the network cannot be written in ONNX opset {opset}; leave --opset out, or try {written}")
    for node in model.graph.all_nodes():
        # the exporter stores the paths of the user's source files there
        node.metadata_props.clear()
    model.metadata_props.update({**metadata, "opset": str(written)})
    size = sum(t.numel() * t.element_size() for t in program.state_dict.values())
    found.save(str(path), external_data=size > SINGLE_FILE_LIMIT)


def _reason(error: BaseException) -> str:
    """One line that names the operation, from an exporter's chain of errors."""
    links: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in links:
        links.append(link)
        link = link.__cause__
    for item in links:
        missing = re.search(r"No ONNX function found for <OpOverload\(op='([^']+)', overload='([^']+)'\)>", str(item))
        if missing:
            return (
                f"the network cannot be exported to ONNX: operation '{missing[1]}' has no ONNX form; replace it in "
                "the network's code, or choose --format torch-export"
            )
    return f"the network cannot be exported to ONNX ({one_line(links[-1])})"
