"""Names of the networks of installed libraries, read from their files: importing them takes seconds.

torchvision and timm register a network by decorating its function with ``@register_model``; the functions' names are
the networks' names. Where a library's files are not as expected, it is imported instead.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from secateur.core.errors import RequestError

_REGISTERED = re.compile(r"^@register_model\b[^\n]*\n(?:@[^\n]*\n|[ \t]*#[^\n]*\n)*def (\w+)\(", re.MULTILINE)
_RENAMED = re.compile(r"^register_model_deprecations\(__name__, \{(.*?)^\}\)", re.MULTILINE | re.DOTALL)
_KEY = re.compile(r"^\s*['\"](\w+)['\"]\s*:", re.MULTILINE)
_MAPPED = re.compile(r"['\"]([A-Z]\w+)['\"]")


def is_installed(library: str) -> bool:
    """Whether a library can be imported, without importing it.

    Example:
        >>> is_installed("json"), is_installed("no_such_library")
        (True, False)
    """
    try:
        return importlib.util.find_spec(library) is not None
    except ValueError:  # a module without a spec was registered under this name
        return False


def need_library(library: str, name: str) -> None:
    """Refuse a network whose library is not installed.

    Raises:
        RequestError: with the package to install.
    """
    if not is_installed(library):
        raise RequestError(f"model '{name}' needs an extra: pip install 'secateur[{library}]'")


@functools.cache
def torchvision_classifiers() -> tuple[str, ...]:
    """Names of torchvision's classifiers, without detectors and others, which return no logits.

    Example:
        >>> "resnet18" in torchvision_classifiers(), "fasterrcnn_resnet50_fpn" in torchvision_classifiers()
        (True, False)
    """
    names = {name for text in _sources("torchvision") for name in _REGISTERED.findall(text)}
    if not names:
        models: Any = importlib.import_module("torchvision.models")
        names = set(models.list_models(module=models))
    return tuple(sorted(names))


@functools.cache
def timm_networks() -> tuple[str, ...]:
    """Names of timm's networks, without the tags of their weights; needs timm installed."""
    texts = list(_sources("timm"))
    names = {name for text in texts for name in _REGISTERED.findall(text)}
    if not names:
        timm: Any = importlib.import_module("timm")
        return tuple(sorted(timm.list_models()))
    return tuple(sorted(names - _renamed(texts)))


@functools.cache
def renamed_in_timm() -> frozenset[str]:
    """Old names of networks that timm accepts with a warning."""
    return frozenset(_renamed(_sources("timm")))


@functools.cache
def transformers_classes() -> tuple[str, ...]:
    """Names of classes in transformers' mappings of tasks, which are not all; needs transformers installed."""
    folder = _folder("transformers")
    file = None if folder is None else folder / "auto" / "modeling_auto.py"
    return () if file is None or not file.is_file() else tuple(sorted(set(_MAPPED.findall(_read(file)))))


@functools.cache
def has_transformers_class(name: str) -> bool:
    """Whether transformers defines a class of this name in a module of its networks; needs transformers installed."""
    if name in transformers_classes():
        return True
    folder = _folder("transformers")
    if folder is None or not transformers_classes():
        return hasattr(importlib.import_module("transformers"), name)
    line = f"\nclass {name}(".encode()
    return any(line in file.read_bytes() for file in sorted(folder.glob("*/modeling_*.py")))


def _renamed(texts: Iterable[str]) -> set[str]:
    return {key for text in texts for table in _RENAMED.findall(text) for key in _KEY.findall(table)}


def _sources(library: str) -> Iterator[str]:
    """Texts of the modules directly below ``LIBRARY.models``."""
    folder = _folder(library)
    for file in () if folder is None else sorted(folder.glob("*.py")):
        yield _read(file)


def _folder(library: str) -> Path | None:
    spec = importlib.util.find_spec(library) if is_installed(library) else None
    folders = () if spec is None else spec.submodule_search_locations or ()
    return next((Path(folder) / "models" for folder in folders if (Path(folder) / "models").is_dir()), None)


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace")
