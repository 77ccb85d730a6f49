"""Python that a page shows: it compiles, and the names and arguments of ours that it uses exist."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import partial
from typing import Any

from checks.pages import Code, Page, Problem

_OURS = re.compile(r"\b(?:sc|secateur)(?:\.[A-Za-z_]\w*)+")


def python_problems(page: Page) -> Iterator[Problem]:
    """Blocks that do not compile, and uses of ours that would fail for their name or arguments."""
    for code in page.fences("python", "py"):
        try:
            compile(code.text, "block", "exec")
            tree = ast.parse(code.text)
        except SyntaxError as error:
            yield Problem(page.path, code.line + (error.lineno or 1) - 1, f"does not compile: {error.msg}")
            continue
        yield from _uses(page, code, tree, whole=True)
    for code in page.sentences:
        if _OURS.match(code.text) and not re.search(r"\.(py|json|yaml)\b", code.text):
            try:
                tree = ast.parse(code.text)
            except SyntaxError:
                tree = ast.parse(_OURS.match(code.text).group())  # type: ignore[union-attr]
            yield from _uses(page, code, tree, whole=False)


def _uses(page: Page, code: Code, tree: ast.AST, *, whole: bool) -> Iterator[Problem]:
    """Check each name and call; a sentence may leave arguments out."""
    for node in ast.walk(tree):
        message = None
        if isinstance(node, ast.Attribute) and (chain := _chain(node)):
            message = _missing(chain)
        elif isinstance(node, ast.Call) and (chain := _chain(node.func)) and not _missing(chain):
            message = _misused(chain, node, whole)
        if message:
            yield Problem(page.path, code.line + node.lineno - 1, message)  # type: ignore[attr-defined]


def _chain(node: ast.AST) -> tuple[str, ...]:
    """``sc.criteria.get`` as a tuple; empty for what does not begin with us."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    ours = isinstance(node, ast.Name) and node.id in ("sc", "secateur")
    return (node.id, *reversed(names)) if ours and names else ()  # type: ignore[attr-defined]


def _resolve(chain: tuple[str, ...]) -> Any:
    value: Any = importlib.import_module("secateur")
    for name in chain[1:]:
        try:
            value = getattr(value, name)
        except AttributeError:
            if chain[0] == "sc" or not inspect.ismodule(value):
                raise
            value = importlib.import_module(f"{value.__name__}.{name}")
    return value


def _missing(chain: tuple[str, ...]) -> str | None:
    try:
        _resolve(chain)
    except (AttributeError, ModuleNotFoundError):
        return f"there is no '{'.'.join(chain)}'"
    return None


def _misused(chain: tuple[str, ...], call: ast.Call, whole: bool) -> str | None:
    """Why a call would fail before it begins: an unknown, repeated or missing argument."""
    if any(isinstance(a, ast.Starred) for a in call.args) or any(k.arg is None for k in call.keywords):
        return None
    called = _resolve(chain)
    # a data class may have a constructor that takes anything, to say what is wrong with it
    if isinstance(called, type) and is_dataclass(called):
        signature = inspect.signature(partial(called.__init__, None))
    else:
        signature = inspect.signature(called)
    # a leading '...' stands for arguments that the sentence leaves out
    given = [a for a in call.args if not (isinstance(a, ast.Constant) and a.value is ...)]
    bind = signature.bind if whole else signature.bind_partial
    try:
        bind(*[None] * len(given), **{str(k.arg): None for k in call.keywords})
    except TypeError as error:
        return f"'{'.'.join(chain)}' cannot be called like this: {error}"
    return None
