"""Lets copies and pickles of networks that `torch.fx` traced keep the edits of surgery.

A `torch.fx.GraphModule` is rebuilt from its graph when it is copied or unpickled, and loses all attributes that the
graph does not use, including surgery's records for later bundles and corrections of its code. Each such module has its
own class, into which PyTorch compiles its ``forward``; that class gets copy methods that keep these.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.fx import GraphModule

from secateur.structure.code import WRITTEN
from secateur.structure.corrected import CORRECTED, correct, corrections_of
from secateur.structure.edited import Edited
from secateur.structure.rewritten import rewrite
from secateur.surgery.guard import CallGuard, guard_of, set_guard

_NOTES = "_secateur"
"""Prefix of the attributes that surgery sets."""


def keep_when_copied(model: nn.Module) -> None:
    """Let all traced networks in ``model`` keep the records of surgery when they are copied or pickled.

    Example:
        >>> import torch
        >>> net = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2)))
        >>> net._secateur_example = "noted"
        >>> keep_when_copied(net)
        >>> copy.deepcopy(net)._secateur_example
        'noted'
    """
    for module in model.modules():
        if isinstance(module, GraphModule):
            _extend(type(module))


def _extend(kind: Any) -> None:
    if vars(kind).get("_secateur_extended"):
        return
    edited = issubclass(kind, Edited)
    methods: dict[str, Callable[..., Any]] = {"__reduce_ex__": _reduce_edited, "__copy__": _copy_edited}
    if not edited:
        # PyTorch creates each such class for one network, so that nothing else changes with it
        def deep_copy(self: Any, memo: dict[int, Any]) -> Any:
            copied = super(kind, self).__deepcopy__(memo)
            return _carry(copied, *copy.deepcopy((_notes(self), guard_of(self)), memo))

        def shallow_copy(self: Any) -> Any:
            return _carry(super(kind, self).__copy__(), _notes(self), guard_of(self))

        def reduce(self: Any, protocol: Any) -> Any:
            return _unpickled, (*super(kind, self).__reduce__(), _notes(self), guard_of(self))

        methods = {"__deepcopy__": deep_copy, "__copy__": shallow_copy, "__reduce_ex__": reduce}
    for name, method in methods.items():
        setattr(kind, name, method)
    kind._secateur_extended = True


def _copy_edited(self: Any) -> Any:
    copied = object.__new__(type(self))
    tables = {key: copy.copy(value) for key, value in self.__dict__.items() if isinstance(value, dict)}
    copied.__dict__.update({**self.__dict__, **tables})
    return copied


def _reduce_edited(self: Any, protocol: Any) -> Any:
    # PyTorch compiles a network's code into its class before pickling, so a plain one is pickled instead
    graph = self.graph
    plain = GraphModule(self, graph)
    graph.owning_module = self
    return _unpickled, (*plain.__reduce__(), _notes(self), guard_of(self))


def _notes(module: nn.Module) -> dict[str, Any]:
    return {key: value for key, value in module.__dict__.items() if key.startswith(_NOTES)}


def _carry(module: Any, notes: dict[str, Any], guard: CallGuard | None) -> Any:
    """Copy the records to a new module, correct its code like the old one's, and guard its calls."""
    module.__dict__.update(notes)
    if CORRECTED in notes:
        correct(module, corrections_of(module), "")
    elif WRITTEN in notes:
        steps = [{"call": call, "args": args, "kwargs": kwargs} for call, args, kwargs in notes[WRITTEN]["steps"]]
        rewrite(module, {**notes[WRITTEN], "steps": steps}, "")
    if guard is not None:
        set_guard(module, guard.before, guard.edits)
    _extend(type(module))
    return module


def _unpickled(
    function: Callable[..., Any], arguments: tuple[Any, ...], notes: dict[str, Any], guard: CallGuard | None
) -> Any:
    return _carry(function(*arguments), notes, guard)
