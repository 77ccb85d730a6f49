"""Recording what each module's own code does, and where its sizes come from.

Code of networks says ``x.reshape(B, N, 3, self.num_heads, C // self.num_heads)``; when heads are removed, these numbers
are wrong. While the network runs, every module's own calls of torch functions are recorded as *steps*, and sizes that
the code takes from tensors or from the module's attributes keep their origin through arithmetic. From this, surgery
knows which attributes to set and which calls to correct, or rewrites the module as its steps with the right sizes.
"""

from __future__ import annotations

import contextlib
import functools
import operator
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode, resolve_name

from secateur.structure.attention import multi_head_attention
from secateur.structure.base import tensors_in
from secateur.structure.calls import describe
from secateur.structure.functions import function_named
from secateur.structure.labels import Dims, Labels
from secateur.structure.provenance import Size, plain
from secateur.structure.scopes import NAMES_SIZES, Condition, Factor, Scope, Step, Value, find, key_of, needed
from secateur.structure.source import PASSED_OVER, Frames, frames_from

PASSED_OVER.add(__file__)


class Recorder(TorchFunctionMode):
    """Records every module's own steps during one pass; the modules' integer attributes keep their origin.

    Args:
        model: the network.
        labels: nodes of all tensors.
    """

    def __init__(self, model: nn.Module, labels: Labels) -> None:
        super().__init__()
        self.labels = labels
        self.scopes: list[Scope] = []
        self._stack: list[Scope] = []
        self._paused = False
        self._paths: dict[int, list[str]] = {}
        for path, module in model.named_modules(remove_duplicate=False):
            self._paths.setdefault(id(module), []).append(path)
        self._states: dict[int, list[str]] = {}
        for name, tensor in (
            *model.named_parameters(remove_duplicate=False),
            *model.named_buffers(remove_duplicate=False),
        ):
            self._states.setdefault(id(tensor), []).append(name)

    @contextlib.contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Record all calls of modules within the context, with marked integer attributes; undo both afterwards."""
        original = nn.Module.__call__
        recorder = self

        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            return recorder._call(original, module, args, kwargs)

        marked: list[tuple[nn.Module, str]] = []
        for path, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue
            for name, size in sizes_of(module, path).items():
                module.__dict__[name] = size
                marked.append((module, name))
        nn.Module.__call__ = call  # type: ignore[method-assign]
        Size.on_factor, Size.on_comparison = self._record_factor, self._record_comparison
        try:
            yield
        finally:
            nn.Module.__call__ = original  # type: ignore[method-assign]
            Size.on_factor = Size.on_comparison = None
            for module, name in marked:
                if isinstance(module.__dict__.get(name), Size):
                    module.__dict__[name] = plain(module.__dict__[name])

    def _call(self, original: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any) -> Any:
        paths = self._paths.get(id(module))
        if paths is None:
            return original(module, *args, **kwargs)
        outer = self._stack[-1] if self._stack else None
        prefix = "" if outer is None or not outer.path else f"{outer.path}."
        path = next((p for p in paths if outer is None or p.startswith(prefix)), None)
        with self._pause():
            scope = Scope(paths[0] if path is None else path, module, [describe(list(args)), describe(kwargs)])
            for key, value in (*enumerate(args), *kwargs.items()):
                scope.bind(value, {"in": key}, self.labels)
        if module._forward_hooks or module._forward_pre_hooks:
            scope.broken = "has hooks, which would run in addition to rewritten code"
        given = [item for item in (*scope.given[0], *scope.given[1]["dict"].values()) if isinstance(item, dict)]
        if any("other" in item for item in given):
            scope.broken = scope.broken or "is given an object of another class, which it may change"
        self._stack.append(scope)
        try:
            result = original(module, *args, **kwargs)
        finally:
            self._stack.pop()
        self.scopes.append(scope)
        with self._pause():
            scope.output = self._try(scope, result)
            if outer is not None:
                if path is None:
                    outer.broken = outer.broken or "calls a module that is not its own"
                self._step(outer, f"module:{'' if path is None else path[len(prefix) :]}", args, kwargs, result)
        return result

    @contextlib.contextmanager
    def _pause(self) -> Iterator[None]:
        """Stop recording while the recorder itself reads tensors."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        scope = self._stack[-1] if self._stack else None
        if name == "multi_head_attention_forward":
            with self:
                return multi_head_attention(*args, **kwargs)
        if scope is None or self._paused:
            return func(*args, **kwargs)
        size = self._size_read(scope, name, func, args, kwargs)
        if size is not None:
            return size
        if name in _WEIGHTED:
            self._adopt(scope, args[1] if len(args) > 1 else kwargs.get("weight"))
        if name in ("__getitem__", "__setitem__"):
            for dim in _sliced_by_tensors(args[1], args[0].ndim):
                self.labels.lock(args[0], "is sliced at a value that a tensor holds", [dim])
        if name not in NAMES_SIZES:
            for given in _sizes_in((args, kwargs)):
                self._record_comparison(given, "number", None)
        result = func(*_plain(args), **_plain(kwargs))
        if any(True for _ in tensors_in(result)) or name == "__setitem__":
            frames = frames_from(sys._getframe(1)) if name in NAMES_SIZES else ()
            self._step(scope, resolve_name(func) or "", args, kwargs, result, func, frames)
        return result

    def _size_read(self, scope: Scope, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        """The sizes that a function reads from a tensor, with their origin; None for other functions."""
        if name == "__get__":
            name = getattr(func.__self__, "__name__", "")
        x = args[0] if args else None
        if not isinstance(x, torch.Tensor):
            return None
        if name == "shape":
            return torch.Size([self._size(x, dim, n) for dim, n in enumerate(func(*args))])
        if name == "dtype":
            with self._pause():
                reference = self._try(scope, x)
            if isinstance(reference, dict):
                scope.dtypes[func(*args)] = reference
        if name in ("numel", "nelement"):
            return functools.reduce(operator.mul, [self._size(x, dim, n) for dim, n in enumerate(x.shape)], 1)
        if name == "__len__" and x.ndim:
            self._record_comparison(Size.of(len(x), "size", x, 0), "text", None)
        if name != "size":
            return None
        size = func(*args, **kwargs)
        if isinstance(size, torch.Size):
            return torch.Size([self._size(x, dim, n) for dim, n in enumerate(size)])
        dim = args[1] if len(args) > 1 else kwargs["dim"]
        return self._size(x, dim % x.ndim, size)

    def available_tensors(self) -> list[torch.Tensor]:
        """Tensors that are available to the code of the module that is running."""
        return self._stack[-1].tensors if self._stack else []

    def _record_factor(self, size: Size, side: str) -> None:
        if self._stack and not self._paused:
            frames = frames_from(sys._getframe(1))
            with self._pause():
                factor = self._try(self._stack[-1], size)
            if isinstance(factor, dict):
                self._stack[-1].factors.append(Factor(factor, frames, side))

    def _record_comparison(self, size: Size, name: str, other: Any) -> None:
        if not self._stack or self._paused:
            return
        frames = frames_from(sys._getframe(1))
        with self._pause():
            left, right = (self._try(self._stack[-1], value) for value in (size, other))
            nodes = tuple(self._nodes(size)) + tuple(self._nodes(other))
        if not nodes and name != "number" and any(True for v in (left, right) for _ in find(v, "size")):
            self._stack[-1].compares_lengths = True
        if nodes or any(True for value in (left, right) for _ in find(value, "attr")):
            self._stack[-1].conditions.append(Condition(name, left, right, nodes, frames))

    def _nodes(self, size: Any) -> Iterator[Any]:
        """Nodes of the dimensions that a size comes from."""
        kind, *operands = size.source if isinstance(size, Size) else ("",)
        if kind == "size":
            nodes = self.labels.of(operands[0])[operands[1]]
            if nodes is not None:
                yield nodes
        elif kind in ("op", "corrected"):
            for part in operands:
                yield from self._nodes(part)

    def _adopt(self, scope: Scope, weight: Any) -> None:
        """Treat a computed weight (standardised, normalised) as if it were the parameter that it comes from."""
        labels = self.labels
        if not isinstance(weight, torch.Tensor) or labels.name(weight) is not None or id(weight) in labels.dependent:
            return
        if any(value is weight for value in scope.module.__dict__.values()):
            return  # a hook computes it before the module's own code runs, and will after surgery
        con = labels.conditions
        free = all(
            nodes is not None and not con.locked(con.all_leaves(nodes)).any()
            for nodes, size in zip(labels.of(weight)[:2], weight.shape[:2], strict=True)
            if size > 1
        )
        storages = {p.untyped_storage().data_ptr() for p in scope.module.parameters()}
        if free or weight.untyped_storage().data_ptr() in storages:
            return  # its units can be removed as they are, or it is a view of a parameter
        reference = scope.known(weight)
        if scope.broken or reference is None or "$" not in reference:
            return
        behind = _parameters_of(scope, reference)
        for name in sorted(behind, key=lambda n: not n.endswith("weight")):
            full = f"{scope.path}.{name}" if scope.path else name
            if scope.module.get_parameter(name).shape == weight.shape and full not in labels.computed:
                labels.computed.add(full)
                scope.replaced += behind
                labels.behind.update(f"{scope.path}.{n}" if scope.path else n for n in behind if n != name)
                scope.baked[name] = reference
                labels.adopt(full, weight)
                scope.bind(weight, reference, labels)
                return

    def _size(self, tensor: torch.Tensor, dim: int, value: int) -> int:
        return Size.of(value, "size", tensor, dim)

    def _step(
        self,
        scope: Scope,
        target: str,
        args: Any,
        kwargs: Any,
        result: Any,
        function: Any = None,
        frames: Frames = (),
    ) -> None:
        if not target.startswith("module:") and function_named(target) is None:
            name = getattr(function, "__name__", "without a name")
            scope.broken = scope.broken or f"calls '{target or name}', which is not a public function of torch"
        encoded = self._try(scope, [list(args), list(kwargs.values())]) or [[], []]
        outs: dict[tuple[Any, ...], tuple[tuple[int, ...], Dims]] = {}
        _collect(result, (), outs, self.labels)
        number = len(scope.steps)
        scope.steps.append(Step(target, encoded[0], dict(zip(kwargs, encoded[1], strict=False)), outs, frames))
        scope.bind(result, {"$": number}, self.labels)

    def _try(self, scope: Scope, value: Any) -> Value:
        try:
            return self._encode(scope, value)
        except _Unrecordable as error:
            scope.broken = scope.broken or str(error)
            return None

    def _encode(self, scope: Scope, value: Any) -> Value:
        if isinstance(value, (torch.Tensor, Size)):
            known = scope.known(value)
            if known is not None:
                return {**known, "is": plain(value)} if isinstance(value, Size) else known
            return self._size_source(scope, value) if isinstance(value, Size) else self._state(scope, value)
        if value is None or isinstance(value, (bool, int, str)):
            return value
        if isinstance(value, float):
            return value if value == value and abs(value) != float("inf") else {"float": str(value)}
        if isinstance(value, list):
            return [self._encode(scope, v) for v in value]
        if type(value) in (tuple, torch.Size):
            return {"tuple": [self._encode(scope, v) for v in value]}
        if isinstance(value, dict) and type(value) is dict:
            return {"dict": [[self._encode(scope, k), self._encode(scope, v)] for k, v in value.items()]}
        if isinstance(value, slice):
            return {"slice": [self._encode(scope, v) for v in (value.start, value.stop, value.step)]}
        if value is Ellipsis:
            return {"ellipsis": True}
        if isinstance(value, torch.device):
            return {"device": True}
        if isinstance(value, torch.dtype) and value in scope.dtypes:
            return {"dtype": scope.dtypes[value]}
        if isinstance(value, (torch.dtype, torch.memory_format, torch.layout)):
            return {"torch": str(value).removeprefix("torch.")}
        raise _Unrecordable(f"holds a value of type {type(value).__name__}")

    def _state(self, scope: Scope, tensor: torch.Tensor) -> Value:
        prefix = f"{scope.path}." if scope.path else ""
        for name in self._states.get(id(tensor), ()):
            if name.startswith(prefix):
                reference = {"state": name[len(prefix) :]}
                scope.shapes[key_of(reference)] = tuple(tensor.shape), self.labels.of(tensor)
                return reference
        raise _Unrecordable("uses a tensor that is neither its input nor its parameter")

    def _size_source(self, scope: Scope, size: Size) -> Value:
        """The origin of a size, in terms of the module's own values; a plain number when it has none."""
        kind, *operands = size.source
        if kind == "attr":
            return {"attr": operands, "is": plain(size)}
        if kind == "corrected":
            return {"corrected": self._encode(scope, operands[0]), "is": plain(size)}
        if kind == "size":
            tensor, dim = operands
            known = scope.known(tensor)
            if known is None:
                try:
                    known = self._state(scope, tensor)
                except _Unrecordable as error:
                    # such as a tensor of a cache: code that is kept needs its length only, not its name
                    scope.broken = scope.broken or str(error)
                    known = {"foreign": len(scope.shapes)}
                    scope.bind(tensor, known, self.labels)
            return {"size": [known, dim]}
        name, left, right = operands
        sides = [self._encode(scope, s) for s in (left, right)]
        return {"op": [name, *sides]} if any(isinstance(s, dict) for s in sides) else plain(size)


def sizes_of(module: nn.Module, path: str) -> dict[str, Size]:
    """A module's integer attributes, as sizes that remember where they come from.

    Attributes of PyTorch's own layers are sizes of their parameters; surgery sets them.
    """
    sizes: dict[str, Size] = {}
    own = not type(module).__module__.startswith("torch.nn.")
    heads = isinstance(module, nn.MultiheadAttention)
    by_layer = next((names for kind, names in _OF_LAYERS if isinstance(module, kind)), {})
    for name, value in module.__dict__.items():
        if type(value) is not int or value < 2:
            continue
        tensor_name, dim = by_layer.get(name, ("", 0))
        tensor = module._parameters.get(tensor_name, module._buffers.get(tensor_name))
        if isinstance(module, _ConvNd) and (module.transposed or module.groups > 1):
            tensor = None
        if tensor is not None and tensor.ndim > dim and tensor.shape[dim] == value:
            sizes[name] = Size.of(value, "size", tensor, dim)
        elif own or (heads and name in ("num_heads", "head_dim")):
            sizes[name] = Size.of(value, "attr", path, name)
    return sizes


_OF_LAYERS: tuple[tuple[type, dict[str, tuple[str, int]]], ...] = (
    (nn.Linear, {"out_features": ("weight", 0), "in_features": ("weight", 1)}),
    (_ConvNd, {"out_channels": ("weight", 0), "in_channels": ("weight", 1)}),
    (_NormBase, {"num_features": ("running_mean", 0)}),
    (nn.GroupNorm, {"num_channels": ("weight", 0)}),
    (nn.Embedding, {"num_embeddings": ("weight", 0), "embedding_dim": ("weight", 1)}),
)


class _Unrecordable(Exception):
    """A value that cannot be recorded."""


_WEIGHTED = frozenset("linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d".split())


def _parameters_of(scope: Scope, reference: Value) -> list[str]:
    """Names of the parameters from which a step's result is computed, in order of use."""
    names: dict[str, None] = {}
    for number in sorted(needed(scope.steps, reference)):
        step = scope.steps[number]
        for state in find([step.args, list(step.kwargs.values())], "state"):
            names[state] = None
        if step.target.startswith("module:"):  # a parametrisation
            path = step.target.removeprefix("module:")
            names |= {f"{path}.{name}": None for name, _ in scope.module.get_submodule(path).named_parameters()}
    parameters = {name for name, _ in scope.module.named_parameters()}
    return [name for name in names if name in parameters]


def _sliced_by_tensors(index: Any, ndim: int) -> Iterator[int]:
    """Dimensions that code slices at ends computed with tensors."""
    items = [item for item in (index if isinstance(index, tuple) else (index,)) if item is not None]
    dim = 0
    for item in items:
        if item is Ellipsis:
            dim += ndim - len(items) + 1
            continue
        if isinstance(item, slice) and any(isinstance(end, torch.Tensor) for end in (item.start, item.stop, item.step)):
            yield dim
        dim += 1


def _sizes_in(value: Any) -> Iterator[Size]:
    if isinstance(value, Size):
        yield value
    elif isinstance(value, dict):
        yield from _sizes_in(list(value.values()))
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _sizes_in(item)


def _plain(value: Any) -> Any:
    """A value with sizes replaced by plain integers."""
    if isinstance(value, Size):
        return plain(value)
    if type(value) in (tuple, list):
        return type(value)(_plain(v) for v in value)
    if isinstance(value, torch.Size):
        return torch.Size([plain(v) for v in value])
    if type(value) is dict:
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, slice):
        return slice(_plain(value.start), _plain(value.stop), _plain(value.step))
    return value


def _collect(value: Any, at: tuple[Any, ...], outs: dict[Any, Any], labels: Labels) -> None:
    if isinstance(value, torch.Tensor):
        outs[at] = tuple(value.shape), labels.of(value)
    elif isinstance(value, (tuple, list)):
        for index, item in enumerate(value):
            _collect(item, (*at, index), outs, labels)
