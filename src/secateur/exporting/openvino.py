"""Writes OpenVINO files from ONNX."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from secateur.core.errors import RequestError, SecateurError
from secateur.exporting.capture import one_line, quiet
from secateur.exporting.sessions import import_openvino


def write_openvino(source: Path, path: Path, metadata: Mapping[str, str]) -> None:
    """Write ``.xml`` (graph) and ``.bin`` (weights, in single precision) from an ONNX file.

    Raises:
        RequestError: for operations that OpenVINO does not support.
        SecateurError: when the disk is full.
    """
    runtime = import_openvino()
    try:
        with quiet():
            model = runtime.Core().read_model(str(source))
            for key, value in metadata.items():
                model.set_rt_info(value, ["secateur", key])
    except Exception as error:  # the runtime raises both RuntimeError and its own classes
        raise RequestError(f"the network cannot be exported to OpenVINO ({one_line(error)})") from error
    try:
        with quiet():
            runtime.save_model(model, str(path), compress_to_fp16=False)
    except RuntimeError as error:
        raise SecateurError(f"cannot write '{path.name}' ({one_line(error)}); free space") from error
