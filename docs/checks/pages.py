"""What a page of Markdown holds, as MyST reads it: links, anchors, code, and text that would not be shown."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from myst_parser.config.main import MdParserConfig
from myst_parser.parsers.mdit import create_md_parser
from myst_parser.slugs import github_slugify, unique_slug

# what conf.py hands to MyST as well
EXTENSIONS = ("dollarmath", "deflist")
ANCHORS = 3
# directives whose body is Markdown again
_NESTED = {"{note}", "{warning}", "{tip}", "{admonition}"}
_LOST = {
    "myst_line_comment": "the line begins with '%', which makes it a comment: its text is not shown; wrap it elsewhere",
    "myst_block_break": "the line begins with '+++', which is a block break: its text is not shown; wrap it elsewhere",
    "html_block": "raw HTML is not shown as text; put it in backticks",
    "html_inline": "text in angle brackets is taken for HTML and not shown; put it in backticks",
}


@dataclass(frozen=True)
class Problem:
    """Something wrong on a line of a file."""

    path: Path
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


@dataclass(frozen=True)
class Code:
    """Code on a page.

    Attributes:
        line: where it begins.
        text: without the fence or backticks; line breaks within backticks are spaces.
        language: of a fence; None for code in a sentence.
    """

    line: int
    text: str
    language: str | None = None


@dataclass(frozen=True)
class Page:
    """A page, read.

    Attributes:
        path: of the file.
        code: fences and code in sentences.
        links: (line, target) of links and images.
        anchors: that links may name behind ``#``.
        problems: text that would not be shown, links that are none.
    """

    path: Path
    code: tuple[Code, ...]
    links: tuple[tuple[int, str], ...]
    anchors: frozenset[str]
    problems: tuple[Problem, ...]

    @classmethod
    def read(cls, path: Path) -> Page:
        """Read a file."""
        tokens = list(_tokens(path.read_text(encoding="utf-8")))
        return cls(
            path,
            tuple(_code(tokens)),
            tuple(_links(tokens)),
            frozenset(_anchors(tokens)),
            tuple(Problem(path, line, text) for line, text in _lost(tokens)),
        )

    @property
    def sentences(self) -> tuple[Code, ...]:
        """Code in sentences."""
        return tuple(code for code in self.code if code.language is None)

    def fences(self, *languages: str) -> tuple[Code, ...]:
        """Fenced code in one of these languages."""
        return tuple(code for code in self.code if code.language in languages)


def broken_links(pages: Sequence[Page], root: Path) -> list[Problem]:
    """Links and images that lead to no file or heading; other sites are not asked.

    Args:
        pages: to look at.
        root: folder that links must not leave.
    """
    known = {page.path.resolve(): page for page in pages}
    found = []
    for page in pages:
        for line, target in page.links:
            reason = _dead(page, target, root.resolve(), known)
            if reason:
                found.append(Problem(page.path, line, f"link '{target}' {reason}"))
    return found


def _dead(page: Page, target: str, root: Path, known: dict[Path, Page]) -> str | None:
    if re.match(r"[a-z][a-z0-9+.-]*:", target):
        return None
    name, _, anchor = unquote(html.unescape(target)).partition("#")
    path = (page.path.parent / name).resolve() if name else page.path.resolve()
    if not path.is_relative_to(root):
        return "leaves the repository"
    if not path.exists():
        return "leads to no file"
    if not anchor:
        return None
    if path not in known:
        return "names a heading of a file that is no page of the documentation"
    return None if anchor in known[path].anchors else f"names no heading of {path.relative_to(root)}"


@cache
def _parser() -> MarkdownIt:
    return create_md_parser(MdParserConfig(enable_extensions=set(EXTENSIONS), heading_anchors=ANCHORS), RendererHTML)


def _tokens(text: str, first: int = 1) -> Iterator[tuple[int, Token]]:
    """Tokens in order, each with its line; inline ones and those of nested directives included."""
    line = first
    for token in _parser().parse(text):
        line = first + token.map[0] if token.map else line
        yield line, token
        if token.type == "fence" and token.info.split(" ")[0] in _NESTED:
            yield from _tokens(token.content, line + 1)
        here = line
        for child in token.children or ():
            here += child.type in ("softbreak", "hardbreak")
            yield here, child


def _code(tokens: Sequence[tuple[int, Token]]) -> Iterator[Code]:
    for line, token in tokens:
        if token.type == "code_inline":
            yield Code(line, token.content)
        elif token.type == "fence":
            yield Code(line + 1, token.content, token.info.strip())
        elif token.type == "code_block":
            yield Code(line, token.content, "")


def _links(tokens: Sequence[tuple[int, Token]]) -> Iterator[tuple[int, str]]:
    names: dict[str, Any] = {"link_open": "href", "image": "src"}
    for line, token in tokens:
        if token.type in names:
            yield line, str(token.attrs[names[token.type]])
        elif token.type == "myst_role" and token.meta.get("name") == "download":
            named = re.search(r"<(.*)>$", token.content)
            yield line, named.group(1) if named else token.content


def _anchors(tokens: Sequence[tuple[int, Token]]) -> Iterator[str]:
    slugs: set[str] = set()
    for (_, opening), (_, inline) in pairwise(tokens):
        if opening.type == "heading_open" and int(opening.tag[1]) <= ANCHORS:
            title = "".join(c.content for c in inline.children or () if c.type in ("text", "code_inline"))
            slugs.add(unique_slug(github_slugify(title), slugs))
    yield from slugs


def _lost(tokens: Sequence[tuple[int, Token]]) -> Iterator[tuple[int, str]]:
    for line, token in tokens:
        if token.type in _LOST:
            yield line, _LOST[token.type]
        elif token.type == "text" and re.search(r"\]\(|\]\[", token.content):
            yield line, f"'{token.content.strip()}' looks like a link, but is shown as it stands"
