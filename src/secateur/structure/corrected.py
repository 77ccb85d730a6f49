"""Modules that run their own code with single calls corrected."""

from __future__ import annotations

import inspect
import json
import types
from collections.abc import Sequence
from functools import cache
from typing import Any

from torch import nn

from secateur.core.errors import RequestError
from secateur.structure.corrections import Correction
from secateur.structure.edited import Edited, own_class, state_of
from secateur.structure.replacing import InnerFunction, Replacement, compile_corrected
from secateur.structure.source import PASSED_OVER, CallPath, Span, text_of

CORRECTED = "_secateur_corrected"
"""Attribute in which a module keeps the corrections of its code."""
PASSED_OVER.add(__file__)


class _Corrected(Edited):
    def __reduce_ex__(self, protocol: Any) -> Any:
        return _restored, (type(self)._secateur_base, self.__dict__[CORRECTED]), state_of(self)


def correct(module: nn.Module, corrections: Sequence[Correction], path: str) -> None:
    """Let a module's own code run with corrected calls from now on.

    Args:
        module: to be changed in place.
        corrections: all corrections of its code.
        path: of the module, for messages.

    Raises:
        RequestError: when its code is not the one that was traced.
    """
    text = json.dumps([c.to_json() for c in corrections])
    base = own_class(module)
    try:
        subclass = _class(base, text)
    except RequestError as error:
        raise RequestError(f"module '{path}' ({base.__module__}.{base.__qualname__}): {error}") from error
    module.__dict__[CORRECTED] = text
    module.__class__ = subclass


def corrections_of(module: nn.Module) -> tuple[Correction, ...]:
    """The corrections that a module's code runs with."""
    return tuple(map(Correction.from_json, json.loads(module.__dict__.get(CORRECTED, "[]"))))


@cache
def _class(base: Any, text: str) -> Any:
    corrections = [Correction.from_json(value) for value in json.loads(text)]
    function = plain_function(base.forward)
    forward = _corrected(function, [(c.path, c) for c in corrections])
    return type(
        base.__name__,
        (_Corrected, base),
        {"__module__": base.__module__, "__qualname__": base.__qualname__, "forward": forward, "_secateur_base": base},
    )


def _restored(base: type, text: str) -> Any:
    subclass = _class(base, text)
    return object.__new__(subclass)


def plain_function(function: Any) -> types.FunctionType | None:
    """The Python function behind a method; None for anything else."""
    function = getattr(function, "__func__", function)
    return function if isinstance(function, types.FunctionType) else None


def _corrected(function: types.FunctionType | None, calls: Sequence[tuple[CallPath, Correction]]) -> Any:
    """A function with corrections applied to the call paths that begin in it."""
    expected = calls[0][0][0]
    text = None if function is None else text_of(function.__code__)
    if function is None or text is None or text.hash != expected.text:
        raise RequestError(
            f"the code of '{expected.function}' is not the one that was pruned (another version of its package?); "
            "install that version, or prune the network again"
        )
    here: dict[Span, Replacement | InnerFunction] = {}
    further: dict[Span, list[tuple[CallPath, Correction]]] = {}
    for path, correction in calls:
        if len(path) == 1:
            if path[0].span in here:
                raise RequestError(f"one call in '{expected.function}' is corrected in two ways")
            here[path[0].span] = correction
        else:
            further.setdefault(path[0].span, []).append((path[1:], correction))
    for span, inner in further.items():
        if span in here:
            raise RequestError(f"one call in '{expected.function}' is corrected in two ways")
        here[span] = _Inner(inner)
    return compile_corrected(function, here)


class _Inner:
    """Replaces a function whose own calls are corrected."""

    def __init__(self, calls: Sequence[tuple[CallPath, Correction]]) -> None:
        self.calls = calls
        self._replacements: dict[Any, Any] = {}

    def inner(self, function: Any, /) -> Any:
        """The same function, corrected."""
        plain = plain_function(function)
        module = function if isinstance(function, nn.Module) else None
        replacement = self._replacements.get(plain)
        if replacement is None:
            text = None if plain is None else text_of(plain.__code__)
            # one call may run several functions, as in a loop over them
            own = [item for item in self.calls if text is not None and item[0][0].text == text.hash]
            replacement = self._replacements[plain] = _corrected(plain, own or self.calls)
        if inspect.ismethod(function) and module is None:
            return types.MethodType(replacement, function.__self__)
        return replacement
