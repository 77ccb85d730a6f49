"""What secateur doctor says of the installation."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from secateur.cli.wide import folded_table, print_table


def show_installation() -> None:
    """Versions of what is installed, and the command that brings what is missing."""
    from secateur.core.progress import announce

    announce("loading PyTorch")
    import torch

    from secateur.core.devices import choose_device
    from secateur.criteria import known
    from secateur.pipeline.recipe import known_recipes

    table = folded_table((("what", "left"),))
    table.add_column("installed", overflow="fold", ratio=1)
    table.add_row("secateur", version("secateur"))
    table.add_row("python", platform.python_version())
    table.add_row("it needs", ", ".join(f"{name} {_version(name) or 'missing'}" for name in _required(None)))
    for extra in _extras():
        table.add_row(f"extra {extra}", extra_line(extra))
    table.add_row("device", str(choose_device()))
    table.add_row("threads", f"{torch.get_num_threads()} of {os.cpu_count()} cores")
    table.add_row("criteria", ", ".join(known()))
    table.add_row("recipes", ", ".join(known_recipes()))
    print_table(table, "installation")


def extra_line(extra: str) -> str:
    """Versions of what an extra brings, or the command that brings what is missing."""
    found = {name: _version(name) for name in _required(extra)}
    missing = [name for name, there in found.items() if there is None]
    if missing:
        return f"missing {', '.join(missing)}: pip install 'secateur[{extra}]'"
    return ", ".join(f"{name} {there}" for name, there in found.items())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _extras() -> list[str]:
    return sorted(metadata("secateur").get_all("Provides-Extra") or [])


def _required(extra: str | None) -> list[str]:
    """Packages that an extra brings, or that are always needed, as the installed package's metadata say."""
    return sorted(dict.fromkeys(packages(requires("secateur") or [], extra)))


def packages(requirements: Iterable[str], extra: str | None) -> Iterator[str]:
    """Names in requirements as metadata have them: of an extra and those it takes in, or (None) of no extra."""
    requirements = list(requirements)
    for requirement in requirements:
        named = re.search(r"""\bextra\s*==\s*["']([^"']+)["']""", requirement)
        parts = re.match(r"([\w.-]+)(?:\[([^\]]*)\])?", requirement)
        if parts is None or (None if named is None else named[1]) != extra:
            continue
        if parts[1] != "secateur":
            yield parts[1]
        for other in filter(None, (parts[2] or "").split(",") if parts[1] == "secateur" else ()):
            yield from packages(requirements, other.strip())
