"""Checks of the documentation against itself and against the code; a Sphinx extension, and called by the tests.

Lines that MyST would drop, links that lead nowhere, commands, settings, recipes, criteria, networks, extras, Python
names and arguments that do not exist: each is a warning of the build, which fails on warnings.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from checks.commands import command_problems, setting_problems
from checks.packaging import extra_problems, file_problems, guide_problems, version_problems
from checks.pages import Page, Problem, broken_links
from checks.python import python_problems

ROOT = Path(__file__).resolve().parents[2]


def page_paths(root: Path = ROOT) -> list[Path]:
    """Pages for readers: those of the documentation, and those at the top of the repository but the log of changes."""
    top = [path for path in sorted(root.glob("*.md")) if path.name != "CHANGELOG.md"]
    return [*top, *sorted((root / "docs").glob("*.md"))]


def problems(root: Path = ROOT) -> list[Problem]:
    """Everything that is wrong with the pages below a folder.

    Args:
        root: of the repository, or of a copy.
    """
    pages = [Page.read(path) for path in page_paths(root)]
    found = [problem for page in pages for problem in page.problems]
    found += broken_links(pages, root)
    for page in pages:
        found += command_problems(page, root)
        found += setting_problems(page)
        found += python_problems(page)
        found += extra_problems(page, root)
        found += file_problems(page, root)
        if page.path.name == "guide.md":
            found += guide_problems(page, root)
    return [*found, *version_problems(pages, root)]


def setup(app: Any) -> dict[str, Any]:
    """Warn of every problem when a build begins."""
    app.connect("builder-inited", _warn)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def _warn(app: Any) -> None:
    from sphinx.util import logging

    logger = logging.getLogger("checks")
    for problem in problems():
        logger.warning("%s", problem.message, location=f"{problem.path}:{problem.line}", type="checks")
