"""Modules whose own code was rewritten, with the sizes that are right after surgery.

Such a module keeps its class (as a base), children, parameters and names; its forward runs recorded steps. Steps are
plain values and call only public torch functions and the module's own children, so that reading them from a bundle
runs no foreign code.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence, Set
from functools import cache
from typing import Any

import torch
from torch import nn

from secateur.core.errors import RequestError
from secateur.structure.base import tensors_in
from secateur.structure.calls import describe, serves
from secateur.structure.code import WRITTEN
from secateur.structure.edited import Edited, own_class, state_of
from secateur.structure.functions import function_named
from secateur.structure.structure import Structure

_BAKED = "_secateur_baked"
_OPERATORS = ("add", "sub", "mul", "floordiv", "mod")
_LENGTHS = {"slice": 3, "op": 3, "size": 2}
_PLAIN = (bool, int, float, str, type(None))


def rewrite(module: nn.Module, code: Mapping[str, Any], path: str) -> None:
    """Let a module run recorded steps from now on.

    Args:
        module: to be changed in place.
        code: ``{"steps": [{"call", "args", "kwargs"}, ...], "output": ...}``.
        path: of the module, for messages.

    Raises:
        RequestError: for steps that are not of this form, or that call anything but torch functions and children.
    """
    steps, output = _checked(module, code, path)
    given = code.get("given")
    try:
        serves(given, given, lengths=True)
    except (AttributeError, KeyError, RecursionError, TypeError) as error:
        raise RequestError(f"the code of module '{path}' does not say for which call it was recorded") from error
    module.__dict__[WRITTEN] = {
        "steps": steps,
        "output": output,
        "last": _last_uses(steps, output),
        "given": given,
        "lengths": bool(code.get("lengths")),
    }
    module.__class__ = _class(own_class(module))
    if isinstance(module, nn.MultiheadAttention):
        # encoder layers have a fast path that assumes packed weights of full size; this switches it off
        module._qkv_same_embed_dim = False


def _checked(
    module: nn.Module, code: Mapping[str, Any], path: str
) -> tuple[list[tuple[str, list[Any], dict[str, Any]]], Any]:
    try:
        steps = [(str(s["call"]), list(s["args"]), dict(s["kwargs"])) for s in code["steps"]]
        output = code["output"]
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(f"the code of module '{path}' is not readable ({type(error).__name__}: {error})") from error
    children = {f"module:{name}" for name, _ in module.named_modules(remove_duplicate=False) if name}
    states = {name for name, _ in (*module.named_parameters(remove_duplicate=False),
                                   *module.named_buffers(remove_duplicate=False))}  # fmt: skip
    for call, _, _ in steps:
        known = call in children if call.startswith("module:") else callable(function_named(call))
        if not known:
            raise RequestError(
                f"the code of module '{path}' calls '{call[:80]}', which is neither a known torch function nor its own"
            )
    for number, values in enumerate((*([*args, *kwargs.values()] for _, args, kwargs in steps), [output])):
        try:
            valid = _all_recorded(values, number, states)
        except RecursionError:
            valid = False
        if not valid:
            raise RequestError(f"the code of module '{path}' holds a value that is never recorded (step {number})")
    return steps, output


def bake(module: nn.Module, code: Mapping[str, Any], path: str) -> None:
    """Replace parameters, permanently, by the weights that the module's code computes from them."""
    if module.__dict__.get(_BAKED) or not code.get("baked"):
        return
    values = {}
    for name, computation in code["baked"].items():
        steps, output = _checked(module, computation, path)
        with torch.no_grad():
            values[name] = _run(module, {"steps": steps, "output": output, "last": [[] for _ in steps]}, (), {})
    for name in code.get("dropped", ()):
        owner, _, last = name.rpartition(".")
        module.get_submodule(owner)._parameters.pop(last, None)
    for name, value in values.items():
        owner, _, last = name.rpartition(".")
        module.get_submodule(owner).register_parameter(last, nn.Parameter(value.detach().clone()))
    module.__dict__[_BAKED] = True


def bake_weights(model: nn.Module, structure: Structure) -> nn.Module:
    """Turn all weights that modules compute from parameters (standardised convolutions) into parameters, in place."""
    modules = dict(model.named_modules(remove_duplicate=False))
    for path, code in structure.baked().items():
        bake(modules[path], code, path)
        rewrite(modules[path], code, path)
    return model


class Rewritten(Edited):
    """Mixed into the class of a module that runs recorded steps."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the steps.

        Raises:
            RequestError: for another kind of call than the recorded one.
        """
        code = self.__dict__[WRITTEN]
        given = code.get("given")
        if given is not None and not serves(given, [describe(list(args)), describe(kwargs)], code["lengths"]):
            raise RequestError(
                f"a {self._secateur_base.__name__} was rewritten for the call that was traced, and accepts no other; "
                "trace the network with such a call"
            )
        return _run(self, self.__dict__[WRITTEN], args, kwargs)  # type: ignore[arg-type]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _restored, (type(self)._secateur_base,), state_of(self)


def _run(module: nn.Module, code: Mapping[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    frame = _Frame(module, args, kwargs)
    for number, (call, step_args, step_kwargs) in enumerate(code["steps"]):
        if call.startswith("module:"):
            function: Any = module.get_submodule(call[len("module:") :])
        else:
            function = function_named(call)
        values = [frame.get(v) for v in step_args]
        frame.results[number] = function(*values, **{k: frame.get(v) for k, v in step_kwargs.items()})
        for used in code["last"][number]:
            del frame.results[used]
    return frame.get(code["output"])


@cache
def _class(base: Any) -> Any:
    own = {"__module__": base.__module__, "_secateur_base": base}
    return type(f"Rewritten{base.__name__}", (Rewritten, base), own)


def _restored(base: type) -> Any:
    return object.__new__(_class(base))


class _Frame:
    """The values of one run of the steps."""

    def __init__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.module = module
        self.args = args
        self.kwargs = kwargs
        self.results: dict[int, Any] = {}

    def get(self, value: Any) -> Any:
        """The current value of a recorded one."""
        if isinstance(value, list):
            return [self.get(v) for v in value]
        if not isinstance(value, dict):
            return value
        if "$" in value:
            return _part(self.results[value["$"]], value.get("at", ()))
        if "in" in value:
            given = self.args[value["in"]] if isinstance(value["in"], int) else self.kwargs[value["in"]]
            return _part(given, value.get("at", ()))
        if "state" in value:
            return operator.attrgetter(value["state"])(self.module)
        if "size" in value:
            return self.get(value["size"][0]).shape[value["size"][1]]
        if "op" in value:
            name, left, right = value["op"]
            return getattr(operator, name)(self.get(left), self.get(right))
        if "tuple" in value:
            return tuple(self.get(v) for v in value["tuple"])
        if "dict" in value:
            return {self.get(k): self.get(v) for k, v in value["dict"]}
        if "slice" in value:
            return slice(*(self.get(v) for v in value["slice"]))
        if "ellipsis" in value:
            return Ellipsis
        if "float" in value:
            return float(value["float"])
        if "device" in value:
            tensors = (*tensors_in((self.args, self.kwargs)), *self.module.parameters())
            return next(iter(tensors), torch.zeros(0)).device
        if "dtype" in value:
            return self.get(value["dtype"]).dtype
        return getattr(torch, value["torch"])


def _part(value: Any, at: Sequence[Any]) -> Any:
    for key in at:
        value = value[key]
    return value


def _references(value: Any) -> set[int]:
    if isinstance(value, dict):
        if "$" in value:
            return {value["$"]}
        return set().union(*(_references(v) for v in value.values()))
    return set().union(*(_references(v) for v in value)) if isinstance(value, list) else set()


def _last_uses(steps: list[tuple[str, list[Any], dict[str, Any]]], output: Any) -> list[list[int]]:
    """For each step, the results that no later step uses."""
    last: dict[int, int] = {}
    for number, (_, args, kwargs) in enumerate(steps):
        last[number] = number
        for used in _references([args, list(kwargs.values())]):
            last[used] = number
    for used in _references(output):
        last.pop(used, None)
    return [[used for used, at in last.items() if at == number] for number in range(len(steps))]


_CONSTANTS = (torch.dtype, torch.memory_format, torch.layout)


def _is_recorded(value: Any, step: int, states: Set[str]) -> bool:
    """Whether this value has the form of a recorded one; it may come from an untrusted bundle.

    Args:
        value: the value to check.
        step: number of the step that uses it; it can use results of earlier ones.
        states: names of the module's parameters and buffers.
    """
    if not isinstance(value, dict):
        return _all_recorded(value, step, states) if isinstance(value, (list, tuple)) else isinstance(value, _PLAIN)
    kinds = list(value.keys() - {"at", "is"})
    at = value.get("at", [])
    if len(kinds) != 1 or not isinstance(at, (list, tuple)) or any(type(key) not in (int, str) for key in at):
        return False
    kind, item = kinds[0], value[kinds[0]]
    if kind in ("tuple", "slice", "dict", "op", "size"):
        if not isinstance(item, (list, tuple)) or len(item) != _LENGTHS.get(kind, len(item)):
            return False
        if kind == "op":
            return item[0] in _OPERATORS and _all_recorded(item[1:], step, states)
        if kind == "dict" and any(not isinstance(pair, (list, tuple)) or len(pair) != 2 for pair in item):
            return False
        return _all_recorded(item, step, states) and (kind != "size" or type(item[1]) is int)
    if kind in ("$", "in"):
        earlier = type(item) is int and item >= 0 and (kind == "in" or item < step)
        return earlier or (kind == "in" and isinstance(item, str))
    if kind in ("ellipsis", "device"):
        return item is True
    if kind == "dtype":
        return isinstance(item, dict) and _is_recorded(item, step, states)
    if not isinstance(item, str):
        return False
    if kind == "torch":
        return isinstance(vars(torch).get(item), _CONSTANTS)
    return item in states if kind == "state" else kind == "float" and item in ("nan", "inf", "-inf")


def _all_recorded(values: Iterable[Any], step: int, states: Set[str]) -> bool:
    return all(_is_recorded(value, step, states) for value in values)
