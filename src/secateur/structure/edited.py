"""Modules whose class surgery has changed."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

from torch import nn
from torch.nn.utils.parametrize import is_parametrized


class Edited:
    """Mixed into the class of a module whose code surgery changed; its class is else what it was."""

    _secateur_base: ClassVar[type]

    def __init_subclass__(cls, **_: Any) -> None:
        """Nothing that the module's class wants of its subclasses is wanted of this one."""

    def __deepcopy__(self: Any, memo: dict[int, Any]) -> Any:
        # classes with a copy of their own (torch.fx.GraphModule) would give a module with the code of before
        made = object.__new__(type(self))
        memo[id(self)] = made
        made.__setstate__(copy.deepcopy(state_of(self), memo))
        return made


def state_of(module: Any) -> Any:
    """What copies and pickles take of a module; parametrised ones are copied although they refuse to be pickled."""
    return dict(module.__dict__) if is_parametrized(module) else module.__getstate__()


def own_class(module: nn.Module) -> type:
    """A module's class, also when surgery changed its code."""
    kind: type = getattr(type(module), "_secateur_base", type(module))
    return kind
