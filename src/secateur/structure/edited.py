"""Modules whose class surgery has changed."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

from torch import nn
from torch.nn.utils.parametrize import is_parametrized


class Edited:
    """Mixed into the class of a module whose code surgery changed; otherwise its class stays what it was."""

    _secateur_base: ClassVar[type]

    def __init_subclass__(cls, **_: Any) -> None:
        """Skip what the module's class does with its subclasses."""

    def __deepcopy__(self: Any, memo: dict[int, Any]) -> Any:
        # classes that copy themselves (torch.fx.GraphModule) would return a module with its code before surgery
        copied = object.__new__(type(self))
        memo[id(self)] = copied
        copied.__setstate__(copy.deepcopy(state_of(self), memo))
        return copied


def state_of(module: Any) -> Any:
    """The state of a module for copies and pickles; parametrised modules, which refuse pickling, are copied too."""
    return dict(module.__dict__) if is_parametrized(module) else module.__getstate__()


def own_class(module: nn.Module) -> type:
    """A module's class, also when surgery changed its code."""
    kind: type = getattr(type(module), "_secateur_base", type(module))
    return kind
