"""Optional packages: seen before long work begins, without importing them."""

from __future__ import annotations

import importlib.util

from secateur.core.errors import RequestError


def check_installed(package: str, extra: str, what: str) -> None:
    """Refuse what needs a package that is not installed; nothing is imported.

    Args:
        package: top-level name to import.
        extra: of secateur that brings it.
        what: that needs it, for the message.

    Raises:
        RequestError: with the command that installs it.

    Example:
        >>> check_installed("json", "all", "reading JSON")
        >>> check_installed("no_such_package", "onnx", "format 'onnx'")
        Traceback (most recent call last):
            ...
        secateur.core.errors.RequestError: format 'onnx' needs the package no_such_package; pip install 'secateur[onnx]'
    """
    spec = importlib.util.find_spec(package)
    # folders without a module, such as trackers leave behind, are taken for packages without a file
    if spec is None or spec.origin is None:
        raise RequestError(f"{what} needs the package {package}; pip install 'secateur[{extra}]'")
