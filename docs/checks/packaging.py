"""What pages say of the package: extras, Python versions, files of the repository."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from checks.commands import command_names, commands_without
from checks.pages import Page, Problem

# extras for work on Secateur itself: the table does not list their packages
_TOOLS = {"test", "dev"}


def extra_problems(page: Page, root: Path) -> Iterator[Problem]:
    """Extras that a page names and ``pyproject.toml`` does not have."""
    known = _project(root)["optional-dependencies"]
    for code in page.code:
        for names in re.findall(r"secateur\[([\w,-]+)\]", code.text):
            for name in names.split(","):
                if name not in known:
                    yield Problem(page.path, code.line, f"there is no extra '{name}'; known: {', '.join(known)}")


def file_problems(page: Page, root: Path) -> Iterator[Problem]:
    """Files and folders of the repository that a sentence names and that do not exist."""
    for code in page.sentences:
        if re.fullmatch(r"(src|tests|benchmarks|docs|\.ci)/[\w./-]+", code.text) and not (root / code.text).exists():
            yield Problem(page.path, code.line, f"'{code.text}' does not exist")


def guide_problems(guide: Page, root: Path) -> Iterator[Problem]:
    """The guide's tables leave no extra, required package of one, or command out, and add none."""
    rows = list(_rows(guide.path, "## Installation"))
    extras = _project(root)["optional-dependencies"]
    own = {name: _packages(requirements) for name, requirements in extras.items()}
    included = re.findall(r"\[([\w,-]+)\]", " ".join(extras["all"]))[0].split(",")
    own["all"] = set(extras) - set(included) - {"all", *_TOOLS}  # the row names what is left out
    shown: dict[str, set[str]] = {}
    for line, cells in rows:
        name, packages = _spans(cells[0]), _spans(cells[1])
        shown |= dict.fromkeys(name, packages)
        for extra in name & set(own) - _TOOLS:
            if packages != own[extra]:
                yield Problem(guide.path, line, f"extra '{extra}': the table says {packages}, the package {own[extra]}")
    if set(shown) != set(extras):
        yield Problem(guide.path, 1, f"the table of extras differs from the package in {set(shown) ^ set(extras)}")
    described = [code.text for code in guide.sentences]
    for name in sorted(command_names()):
        if not any(f"{text} ".startswith(f"secateur {name} ") for text in described):
            yield Problem(guide.path, 1, f"the command 'secateur {name}' is not described")
    said = {text for _, line in _lines(guide.path, "### Dry runs") for text in _spans(line)} & command_names()
    if said != commands_without("--dry-run"):
        yield Problem(guide.path, 1, f"without --dry-run are {commands_without('--dry-run')}, the guide says {said}")


def version_problems(pages: list[Page], root: Path) -> Iterator[Problem]:
    """Ranges of Python versions that differ from ``requires-python``."""
    low, high = re.findall(r"3\.(\d+)", _project(root)["requires-python"])
    said = f"Python 3.{low} to 3.{int(high) - 1}"
    for page in pages:
        for number, line in enumerate(page.path.read_text(encoding="utf-8").splitlines(), 1):
            for text in re.findall(r"Python 3\.\d+ to 3\.\d+", line):
                if text != said:
                    yield Problem(page.path, number, f"says '{text}', the package '{said}'")


@cache
def _project(root: Path) -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project


def _packages(requirements: list[str]) -> set[str]:
    """Names of packages; extras of ours that one includes as ``secateur[toy]`` count by their own name."""
    found = set()
    for text in requirements:
        inner = re.match(r"secateur\[([\w,-]+)\]", text)
        found |= set(inner.group(1).split(",")) if inner else {re.match(r"[\w.-]+", text).group()}  # type: ignore[union-attr]
    return found


def _rows(path: Path, heading: str) -> Iterator[tuple[int, list[str]]]:
    """Rows of the tables under a heading, without their headers."""
    for number, line in _lines(path, heading):
        if line.startswith("| `"):
            yield number, [cell.strip() for cell in line.strip("|").split("|")]


def _lines(path: Path, heading: str) -> Iterator[tuple[int, str]]:
    """Numbered lines between a heading and the next one."""
    inside = False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("#"):
            inside = line == heading
        elif inside:
            yield number, line


def _spans(cell: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", cell))
