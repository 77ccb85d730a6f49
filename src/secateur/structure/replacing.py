"""Recompiles functions from their source text, with single calls replaced."""

from __future__ import annotations

import ast
import types
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch

from secateur.core.errors import RequestError
from secateur.structure.source import KINDS, ORIGINAL_CODE, Span, compiled_function, key_of_span, text_of


@runtime_checkable
class InnerFunction(Protocol):
    """Replacement of a function that is called and is corrected itself."""

    def inner(self, function: Any, /) -> Any:
        """The corrected function."""


class Replacement(Protocol):
    """Replacement of one call, item, operator or comparison in a function's code."""

    @property
    def is_method(self) -> bool:
        """Whether the call is a call of a tensor's method."""

    @property
    def side(self) -> str:
        """Which operand of an operator is corrected: ``left`` or ``right``."""

    def call(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function with corrected arguments."""

    def method(self, name: str, tensor: torch.Tensor, /, *args: Any, **kwargs: Any) -> Any:
        """Call a tensor's method with corrected arguments."""

    def item(self, index: Any, /) -> Any:
        """The corrected index."""

    def number(self, value: Any, /) -> Any:
        """The corrected number."""

    def compared(self, position: int, value: Any, /) -> Any:
        """The corrected operand of a comparison."""


def compile_corrected(
    function: types.FunctionType, replacements: Mapping[Span, Replacement | InnerFunction]
) -> types.FunctionType:
    """The function with some calls replaced; everything else, names and defaults included, stays the same.

    Args:
        function: a function whose source text is available.
        replacements: replacements of calls, by their span in the text.

    Raises:
        RequestError: where the text does not show such a call.
    """
    function = getattr(function, _ORIGINAL, function)  # corrections start from the original function
    text = text_of(function.__code__)
    if text is None:
        raise RequestError(f"the source text of '{function.__qualname__}' is not available")
    tree = text.tree()
    nodes = dict(text.nodes(tree))
    names: dict[str, Any] = {"_secateur_slice": slice}
    by_node: dict[int, tuple[str, Replacement | InnerFunction]] = {}
    for number, (span, replacement) in enumerate(replacements.items()):
        node = next((nodes[key_of_span(kind, span)] for kind in KINDS if key_of_span(kind, span) in nodes), None)
        if node is None:
            raise RequestError(f"the code of '{text.name}' has no call at {span}; it is not the code that was pruned")
        name = f"_secateur_{number}"
        names[name] = replacement
        by_node[id(node)] = name, replacement
    tree = _Replace(by_node).visit(tree)
    code = compiled_function(tree, function.__code__, [*names])
    ORIGINAL_CODE[code] = function.__code__
    free = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    cells = tuple(free[name] if name in free else types.CellType(names[name]) for name in code.co_freevars)
    result = types.FunctionType(code, function.__globals__, function.__name__, function.__defaults__, cells)
    result.__kwdefaults__ = function.__kwdefaults__
    result.__qualname__, result.__doc__, result.__module__ = (
        function.__qualname__,
        function.__doc__,
        function.__module__,
    )
    result.__annotations__ = function.__annotations__
    result.__dict__.update(function.__dict__)
    setattr(result, _ORIGINAL, function)
    return result


_ORIGINAL = "_secateur_original"
"""Attribute of a corrected function: the function from which it was compiled."""


class _Replace(ast.NodeTransformer):
    def __init__(self, replacements: Mapping[int, tuple[str, Replacement | InnerFunction]]) -> None:
        self.replacements = replacements

    def visit(self, node: ast.AST) -> Any:
        self.generic_visit(node)
        if id(node) not in self.replacements:
            return node
        name, replacement = self.replacements[id(node)]
        target = ast.Name(name, ast.Load())

        def part(method: str, *values: ast.expr, keywords: Sequence[ast.keyword] = ()) -> ast.Call:
            return ast.Call(ast.Attribute(target, method, ast.Load()), list(values), list(keywords))

        if isinstance(replacement, InnerFunction):
            if isinstance(node, ast.Call):
                node.func = ast.copy_location(part("inner", node.func), node.func)
            return node
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute) and replacement.is_method:
                new = part("method", ast.Constant(node.func.attr), node.func.value, *node.args, keywords=node.keywords)
            else:
                new = part("call", node.func, *node.args, keywords=node.keywords)
            new.func = ast.copy_location(new.func, node)
            return ast.copy_location(new, node)
        if isinstance(node, ast.Subscript):
            node.slice = ast.copy_location(part("item", _as_value(node.slice)), node.slice)
            return node
        if isinstance(node, ast.BinOp) and replacement.side == "left":
            node.left = ast.copy_location(part("number", node.left), node.left)
        elif isinstance(node, ast.BinOp):
            node.right = ast.copy_location(part("number", node.right), node.right)
        elif isinstance(node, ast.AugAssign):
            node.value = ast.copy_location(part("number", node.value), node.value)
        elif isinstance(node, ast.Compare):
            operands = [
                ast.copy_location(part("compared", ast.Constant(position), value), value)
                for position, value in enumerate((node.left, *node.comparators))
            ]
            node.left, node.comparators = operands[0], list(operands[1:])
        return node


def _as_value(index: ast.expr) -> ast.expr:
    """The expression between brackets, as one that is valid elsewhere (slices as calls)."""
    if isinstance(index, ast.Slice):
        ends = [part or ast.Constant(None) for part in (index.lower, index.upper, index.step)]
        return ast.copy_location(ast.Call(ast.Name("_secateur_slice", ast.Load()), ends, []), index)
    if isinstance(index, ast.Tuple):
        return ast.copy_location(ast.Tuple([_as_value(part) for part in index.elts], ast.Load()), index)
    return index
