"""The formats of other runtimes, checked before PyTorch is loaded."""

from __future__ import annotations

from secateur.core.errors import RequestError
from secateur.core.extras import check_installed
from secateur.core.names import did_you_mean

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "torch-export": ".pt2", "executorch": ".pte"}
_PACKAGES = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino", "onnx", "onnxscript"),
    "executorch": ("executorch",),
}


def check_format(format: str) -> None:
    """Refuse an unknown format, or one whose packages are not installed.

    Example:
        >>> check_format("onxx")
        Traceback (most recent call last):
            ...
        secateur.core.errors.RequestError: unknown format 'onxx' (did you mean 'onnx'?); known: onnx, openvino, ...
    """
    if format not in SUFFIXES:
        hint = did_you_mean(format, SUFFIXES)
        raise RequestError(f"unknown format '{format}'{hint}; known: {', '.join(SUFFIXES)}")
    for package in _PACKAGES.get(format, ()):
        check_installed(package, format, f"format '{format}'")


def check_export(format: str, batch: int | None, opset: int | None) -> None:
    """Refuse requests for a file that are wrong for any network."""
    check_format(format)
    if batch is not None and batch < 1:
        raise RequestError(f"a batch holds at least one sample, got {batch}")
    if opset is not None and format not in ("onnx", "openvino"):
        raise RequestError(f"format '{format}' has no opset; leave it out, or choose onnx or openvino")
