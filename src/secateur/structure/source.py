"""Finds calls in the source text of functions.

A module's own code is kept when units are removed; only the calls that name sizes are corrected. Such a call is
identified by its *call path*: the calls from the module's ``forward`` through its helper functions, each by its span in
the source text of its function. The text is identified by a hash, so that a path never refers to another call.
"""

from __future__ import annotations

import ast
import dis
import hashlib
import inspect
import linecache
import tokenize
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

Span = tuple[int, int, int, int]
"""Line, column, last line and last column of a node, from the first character of its function's text."""


@dataclass(frozen=True)
class Site:
    """One call on a call path.

    Attributes:
        function: qualified name of the function that contains the call; for messages.
        text: hash of the function's source text.
        span: span of the call in that text.
    """

    function: str
    text: str
    span: Span


CallPath = tuple[Site, ...]
"""Calls from ``forward`` to the call that names sizes."""
Frames = tuple[tuple[types.CodeType, int], ...]
"""A call path as code objects and instruction offsets."""


def call_codes() -> frozenset[types.CodeType]:
    """Code of `torch.nn.Module` that calls ``forward``."""
    own = nn.Module._call_impl.__code__
    return frozenset({own, *(c for c in own.co_consts if isinstance(c, types.CodeType))})


_CALLS = call_codes()
_WRAPPERS = frozenset(
    str(module.__file__)
    for module in (torch.overrides, torch.functional, torch._tensor, torch.nn.functional, torch._jit_internal)
)
PASSED_OVER: set[str] = {__file__, *_WRAPPERS}
"""Files of functions that only forward a call."""


def frames_from(frame: types.FrameType | None) -> Frames:
    """The frames of a call up to the module's ``forward``, outermost first; empty when no module is on the way."""
    while frame is not None and frame.f_code.co_filename in PASSED_OVER:
        frame = frame.f_back
    frames = []
    while frame is not None and frame.f_code not in _CALLS:
        if frame.f_code.co_filename not in PASSED_OVER:
            frames.append((frame.f_code, frame.f_lasti))
        frame = frame.f_back
    return tuple(reversed(frames)) if frame is not None else ()


_TEXTS: dict[str, FunctionText] = {}


@cache
def call_path(frames: Frames) -> CallPath:
    """The call path of frames; empty where source text is missing or does not show the calls."""
    path: list[tuple[types.CodeType, types.CodeType, int]] = []  # function, the code within it, offset
    for code, offset in frames:
        if path and _holds(path[-1][0], code):
            path[-1] = (path[-1][0], code, offset)  # a comprehension or inner function: part of the same text
        else:
            path.append((code, code, offset))
    sites = []
    for function, code, offset in path:
        text = text_of(function)
        position = _positions(code)[offset // 2]
        if text is None or None in position:
            return ()
        line, last, column, end = position
        span = text.relative((line, column, last, end))  # type: ignore[arg-type]
        node = text.find(span)
        if node is None:
            return ()
        _TEXTS[text.hash] = text
        sites.append(Site(text.name, text.hash, node[1]))
    return tuple(sites)


@cache
def kind_of(frames: Frames) -> str | None:
    """The kind of the last call of a call path: ``call``, ``item`` (in brackets), ``operator`` or ``comparison``."""
    path = call_path(frames)
    if not path:
        return None
    node = _TEXTS[path[-1].text].find(path[-1].span)
    return None if node is None else node[0]


@dataclass(frozen=True)
class Comparison:
    """One comparison in the code, perhaps one of a chain.

    Attributes:
        position: index of its left operand in the chain; the right one is the next.
        operator: its name in `operator`, or empty.
        fixed: whether the left, and the right, operand is a number in the text.
    """

    position: int
    operator: str
    fixed: tuple[bool, bool]


@cache
def comparison_at(frames: Frames) -> Comparison | None:
    """The comparison at the end of a call path; None where the text shows none."""
    path = call_path(frames)
    if not path:
        return None
    node = _TEXTS[path[-1].text].comparisons.get(path[-1].span)
    if node is None:
        return None
    code, offset = frames[-1]
    positions = _positions(code)
    same = [
        2 * index
        for index, opcode in enumerate(code.co_code[::2])
        if dis.opname[opcode] in ("COMPARE_OP", "CONTAINS_OP") and positions[index] == positions[offset // 2]
    ]
    if offset not in same or len(same) != len(node.ops):
        return None
    position = same.index(offset)
    operands = [node.left, *node.comparators][position : position + 2]
    name = type(node.ops[position]).__name__
    names = {"Eq": "eq", "NotEq": "ne", "Lt": "lt", "LtE": "le", "Gt": "gt", "GtE": "ge"}
    first, second = (isinstance(operand, ast.Constant) for operand in operands)
    return Comparison(position, names.get(name, ""), (first, second))


@cache
def _positions(code: types.CodeType) -> tuple[tuple[int | None, ...], ...]:
    return tuple(code.co_positions())


@cache
def _holds(outer: types.CodeType, inner: types.CodeType) -> bool:
    return any(
        const is inner or const == inner or _holds(const, inner)
        for const in outer.co_consts
        if isinstance(const, types.CodeType)
    )


class FunctionText:
    """The source text of one function.

    Attributes:
        name: qualified name.
        first: its first line in its file; file: that file.
        comparisons: its comparisons, by span.
        text: the text, not indented; hash: hash of the text.
    """

    def __init__(self, code: types.CodeType, lines: Sequence[str], first: int) -> None:
        self.name = code.co_qualname
        self.first, self.file = first, code.co_filename
        self._indented = lines[0][:1].isspace()
        self._lines = lines
        self._margin = margin = len(lines[0]) - len(lines[0].lstrip())
        plain = "\n".join(line[min(margin, len(line) - len(line.lstrip())) :].rstrip() for line in lines)
        self.text = plain
        self.hash = hashlib.sha256(plain.encode()).hexdigest()[:24]
        nodes = dict(self.nodes(self.tree()))
        self._spans = {key: self.span(node) for key, node in nodes.items()}
        self.comparisons = {self.span(node): node for node in nodes.values() if isinstance(node, ast.Compare)}

    def relative(self, position: Span) -> Span:
        """A span in the file as a span in this text."""
        line, column, last, end = position
        return line - self.first, column - self._margin, last - self.first, end - self._margin

    def span(self, node: ast.expr | ast.stmt) -> Span:
        """The span of a node in this text."""
        end = node.end_lineno or 0, node.end_col_offset or 0
        return self.relative((node.lineno, node.col_offset, *end))

    def nodes(self, tree: ast.AST) -> Iterator[tuple[tuple[Any, ...], ast.expr | ast.stmt]]:
        """All nodes in a tree of this text that can be corrected, by kind and span."""
        for node in ast.walk(tree):
            kind = next((name for name, types_ in KINDS.items() if isinstance(node, types_)), None)
            if kind is not None and isinstance(node, (ast.expr, ast.stmt)):
                yield key_of_span(kind, self.span(node)), node

    def tree(self) -> ast.FunctionDef | ast.AsyncFunctionDef:
        """A new syntax tree, with line numbers of the file."""
        text = "".join(self._lines)
        module = ast.parse(f"if True:\n{text}" if self._indented else text)
        ast.increment_lineno(module, self.first - 1 - self._indented)
        body = module.body[0].body if isinstance(module.body[0], ast.If) else module.body
        function = body[0]
        if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            raise SyntaxError("not a function")
        return function

    def find(self, span: Span) -> tuple[str, Span] | None:
        """The kind of node at a span (``call``, ``item``, ``operator``, ``comparison``), and its whole span."""
        for kind in KINDS:
            whole = self._spans.get(key_of_span(kind, span))
            if whole is not None:
                return kind, whole
        return None


ORIGINAL_CODE: dict[types.CodeType, types.CodeType] = {}
"""Code of functions from which corrected ones were compiled, by the code of the corrected ones."""


@cache
def text_of(code: types.CodeType) -> FunctionText | None:
    """The source text of a function's code; None where it is not available."""
    if code.co_name == "<lambda>":
        return None
    code = ORIGINAL_CODE.get(code, code)
    try:
        lines = inspect.getblock(linecache.getlines(code.co_filename)[code.co_firstlineno - 1 :])
        text = FunctionText(code, lines, code.co_firstlineno) if lines else None
        # a file may have changed since it was run
        return text if text is not None and _same_code(compiled_function(text.tree(), code, []), code) else None
    except (OSError, TypeError, SyntaxError, tokenize.TokenError, IndexError, AttributeError, StopIteration):
        return None


def _same_code(compiled: types.CodeType, code: types.CodeType) -> bool:
    """Whether two code objects name, load, store and compute the same in the same order.

    Jumps and calls are not compared, because they also depend on the rest of the file.
    """
    ours, theirs = _instructions(compiled), _instructions(code)
    inner = [[const for const in each.co_consts if isinstance(const, types.CodeType)] for each in (compiled, code)]
    return ours == theirs and len(inner[0]) == len(inner[1]) and all(map(_same_code, *inner))


def _instructions(code: types.CodeType) -> list[tuple[str, type, Any]]:
    return [
        (instruction.opname.replace("METHOD", "ATTR"), type(instruction.argval), instruction.argval)
        for instruction in dis.get_instructions(code)
        if instruction.opname.startswith(_COMPARED) and not isinstance(instruction.argval, types.CodeType)
    ]


_COMPARED = ("LOAD_", "STORE_", "DELETE_", "BINARY_", "COMPARE_", "CONTAINS_", "IS_", "UNARY_", "KW_", "BUILD_")


def key_of_span(kind: str, span: Span) -> tuple[Any, ...]:
    """The key under which a node of a kind is stored."""
    # calls are identified by their end: where a method's name starts a new line, its position is taken for theirs
    return (kind, *(span[2:] if kind == "call" else span))


KINDS: Mapping[str, tuple[type, ...]] = {
    "call": (ast.Call,),
    "item": (ast.Subscript,),
    "operator": (ast.BinOp, ast.AugAssign),
    "comparison": (ast.Compare,),
}


def compiled_function(
    tree: ast.FunctionDef | ast.AsyncFunctionDef, own: types.CodeType, names: Sequence[str]
) -> types.CodeType:
    """The code object of a function that uses names of its enclosing scopes, and further names.

    The function is only compiled: neither decorators (they keep their lines) nor defaults run.
    """
    body: list[ast.stmt] = [tree]
    *outer, _ = own.co_qualname.split(".")
    around = f"{'_' * 9}{outer[-1].lstrip('_')}" if outer and outer[-1].isidentifier() else ""
    if around:  # names that begin with two underscores are mangled by the class, whose own name must mean what it did
        body = [ast.ClassDef(around, [], [], body, [], **_TYPE_PARAMETERS)]
    free = [name for name in (*own.co_freevars, *names) if name != "__class__" or body == [tree]]
    arguments = ast.arguments([], [ast.arg(name) for name in free], None, [], [], None, [])
    factory = ast.FunctionDef("factory", arguments, body, [], **_TYPE_PARAMETERS)
    module = ast.fix_missing_locations(ast.Module([factory], []))
    flags = own.co_flags & _FUTURE
    code: types.CodeType = compile(module, own.co_filename, "exec", flags, dont_inherit=True)
    for step in ("factory", *([around] if around else []), tree.name):
        code = next(c for c in code.co_consts if isinstance(c, types.CodeType) and c.co_name == step)
    return code.replace(co_qualname=own.co_qualname)


_TYPE_PARAMETERS: dict[str, Any] = {"type_params": []} if "type_params" in ast.FunctionDef._fields else {}
_FUTURE = 0x1000000  # annotations are not evaluated
