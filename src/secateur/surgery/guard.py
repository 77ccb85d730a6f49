"""Calls of a pruned network that were not traced are exact, or refused.

A pruned network is correct for the calls that were traced. Another kind of call (with a mask, a cache, another optional
argument) may run code in which removed units matter, or which names sizes that no traced call showed. Therefore the
first call of each kind is traced on an outline of the network before pruning, whose parameters take no memory. The call
is accepted if the removed units can be removed in it as well, and its code needs no further corrections.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from secateur.core.errors import RequestError
from secateur.selection.plan import Edits
from secateur.structure.assembly import Assembly
from secateur.structure.base import FIXED_INDEX
from secateur.structure.calls import cache_tensors, describe, kind, named
from secateur.structure.changes import Changes, misfit
from secateur.structure.tracing import ASIDE, Call, lock_outputs, watched
from secateur.surgery.comparison import copied
from secateur.surgery.copies import copied_network

_UNTRACED = "this call of the pruned network is of a kind that was not traced"
_REMEDY = "trace such a call as well: sc.trace(model, example, variants=[...])"


def outline(model: nn.Module) -> nn.Module:
    """A copy whose parameters are zeros that take no memory, and which shares the network's buffers."""
    held: dict[int, Any] = {id(p): _zeros(p, p.device, p.dtype) for p in model.parameters()}
    held |= {id(buffer): buffer.detach() for buffer in model.buffers()}
    empty = copied_network(model, held)
    remove_guard(empty)
    return empty


def _zeros(like: torch.Tensor, device: torch.device, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(torch.zeros((), dtype=dtype, device=device).expand(like.shape), requires_grad=False)


def guard_of(model: nn.Module) -> CallGuard | None:
    """The guard of a network; None where it has none."""
    return next((hook for hook in model._forward_pre_hooks.values() if isinstance(hook, CallGuard)), None)


def remove_guard(model: nn.Module) -> None:
    """Remove the guard of a network, which then accepts any call."""
    for hooks in (model._forward_pre_hooks, model._forward_hooks):
        for key in [key for key, hook in hooks.items() if isinstance(hook, (CallGuard, _AfterCall))]:
            del hooks[key]
            for flags in (model._forward_pre_hooks_with_kwargs, model._forward_hooks_with_kwargs):
                flags.pop(key, None)


def set_guard(model: nn.Module, before: nn.Module, edits: Edits) -> None:
    """Let a pruned network accept only calls for which it is correct.

    Args:
        model: the network; a guard that it has is replaced.
        before: the network before it was ever pruned, as `outline` returns it.
        edits: all edits of the network.
    """
    remove_guard(model)
    guard = CallGuard(before, edits)
    model.register_forward_pre_hook(guard, with_kwargs=True)
    model.register_forward_hook(_AfterCall(guard), with_kwargs=True)


class CallGuard:
    """Forward pre-hook of a pruned network that checks its calls; see the module's docstring.

    Args:
        before: the network before it was pruned, as `outline` returns it.
        edits: all edits of the network.
    """

    def __init__(self, before: nn.Module, edits: Edits) -> None:
        self.before = before
        self.edits = edits
        self.kinds = {kind(call, edits.lengths) for call in edits.calls}
        self.caches = _Caches()
        setattr(self, ASIDE, True)

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse a call for which the network may not be correct."""
        if torch.compiler.is_compiling() or torch.jit._trace.is_tracing():
            return  # passes cannot be traced here; only kinds of calls made outside are checked (see the docs)
        given = named(self.before.forward, args, kwargs)
        for name, value in given.items():
            if isinstance(value, Iterator):
                raise RequestError(f"argument '{name}' is an iterator, which a check would use up; give a list")
        described = describe(given)
        this = kind(described, self.edits.lengths)
        if this in self.kinds:
            self.caches.note(args, kwargs)
            return
        self._check(module, (args, kwargs))
        self.kinds.add(this)

    def _check(self, module: nn.Module, call: Call) -> None:
        if any(parameter.is_meta for parameter in module.parameters()):
            raise RequestError("the network is on the meta device and holds no values")
        self._follow(module)
        try:
            twin = self.caches.twin(call, self.before)
            assembly, outputs = self._watched(twin)
        except RequestError as error:
            raise RequestError(f"{_UNTRACED}, and {error}") from error
        self.caches.traced(call, twin)
        lock_outputs(assembly, outputs)
        why = self._misfit(assembly)
        if why:
            raise RequestError(f"{_UNTRACED}, and {why}; {_REMEDY}")

    def _watched(self, call: Call) -> tuple[Assembly, list[list[torch.Tensor]]]:
        try:
            return watched(self.before, [call], self.edits.stream, None, with_values=False)
        except RequestError as error:
            if not isinstance(error.__cause__, RuntimeError):
                raise
        # some code, such as views of other types, needs parameters with their own memory
        parameters = list(self.before.parameters())
        for parameter in parameters:
            parameter.data = torch.zeros(parameter.shape, dtype=parameter.dtype, device=parameter.device)
        try:
            return watched(self.before, [copied(call)], self.edits.stream, None, with_values=False)
        finally:
            for parameter in parameters:
                parameter.data = _zeros(parameter, parameter.device, parameter.dtype).data

    def _follow(self, module: nn.Module) -> None:
        """Move the outline to the current device and type of the pruned network."""
        parameters = dict(module.named_parameters())
        default = next(iter(parameters.values()))
        for name, parameter in self.before.named_parameters():
            like = parameters.get(name, default)
            if (parameter.device, parameter.dtype) != (like.device, like.dtype):
                parameter.data = _zeros(parameter, like.device, like.dtype).data
        own = dict(self.before.named_buffers())
        for name, buffer in module.named_buffers():
            if name in own and (own[name].device, own[name].dtype) != (buffer.device, buffer.dtype):
                own[name].data = own[name].to(buffer.device, buffer.dtype)

    def _misfit(self, assembly: Assembly) -> str:
        """Why the removed units cannot be removed in a call; empty when they can."""
        structure = assembly.build(None)
        cuts = {(cut.tensor, cut.dim): cut for cut in self.edits.cuts}
        stays = {
            (axis.tensor, axis.dim): np.isin(np.arange(axis.unit.shape[1]), cut.removed, invert=True)
            if (cut := cuts.get((axis.tensor, axis.dim))) is not None
            else np.ones(axis.unit.shape[1], bool)
            for axis in structure.axes
        }
        keep = np.zeros(structure.num_units + 1, bool)
        for axis in structure.axes:
            keep[axis.unit[:, stays[axis.tensor, axis.dim]]] = True
        keep = keep[:-1]
        matching = {(axis.tensor, axis.dim) for axis in structure.axes if _same(axis.stays(keep), stays, axis)}
        state = assembly.labels.state_dims
        for (tensor, dim), cut in cuts.items():
            if tensor in state and (tensor, dim) not in matching:
                return f"what was removed of '{tensor}' {_reason(assembly, tensor, dim, cut.removed)}"
        for axis in structure.axes:
            if (axis.tensor, axis.dim) not in matching:
                return f"'{axis.tensor}' would have to be cut, too"
        return misfit(structure.modules, keep, self._applied())

    def _applied(self) -> Changes:
        edits = self.edits
        attributes = {(path, name): v for path, values in edits.attributes.items() for name, v in values.items()}
        code = {path: dict(steps) for path, steps in edits.code.items()}
        return Changes(attributes, dict(edits.corrections), dict(edits.heads), code)

    def __deepcopy__(self, memo: dict[int, Any]) -> CallGuard:
        guard = CallGuard(copy.deepcopy(self.before, memo), self.edits)
        guard.kinds = set(self.kinds)
        memo[id(self)] = guard
        return guard

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "caches": _Caches()}


def _same(kept: np.ndarray, stays: Mapping[tuple[str, int], np.ndarray], axis: Any) -> bool:
    return np.array_equal(kept, stays[axis.tensor, axis.dim])


def _reason(assembly: Assembly, tensor: str, dim: int, removed: tuple[int, ...]) -> str:
    """Why these indices of a parameter cannot be removed."""
    con = assembly.conditions
    nodes = assembly.labels.state_dims[tensor][dim]
    leaves = [] if nodes is None else [leaf for node in nodes[list(removed)] for leaf in sorted(con.leaves(int(node)))]
    reasons = list(dict.fromkeys(filter(None, map(con.reason, leaves))))
    # the three parts of a packed projection are indexed in every call
    telling = [reason for reason in reasons if reason != FIXED_INDEX] or reasons
    return telling[0] if telling else "is combined with what stays"


class _AfterCall:
    """Forward hook that remembers which caches a call has filled."""

    def __init__(self, guard: CallGuard) -> None:
        self.guard = guard
        setattr(self, ASIDE, True)

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Note the caches in the arguments and the output of a call."""
        if not (torch.compiler.is_compiling() or torch.jit._trace.is_tracing()):
            self.guard.caches.filled(args, kwargs, output)


# -- caches ----------------------------------------------------------------------------------------------------------


@dataclass
class _Filled:
    """A cache that a call has filled.

    Attributes:
        call: the call, with an empty cache or none.
        position: where the cache is: ``("argument", key)`` or ``("output", key)``.
        shapes: shapes of its tensors after the call.
    """

    call: Call
    position: tuple[str, Any]
    shapes: list[tuple[int, ...]]


class _Caches:
    """Caches of keys and values that one call passes to the next, in objects of the network's own classes.

    Those of a pruned network are smaller than those of the network before pruning. Which dimensions differ, and by how
    much, is known once both networks have filled one in the same call.
    """

    def __init__(self) -> None:
        self._unpruned_shapes: dict[tuple[str, int], list[tuple[int | None, ...]]] = {}
        self._filled: dict[tuple[str, int], _Filled] = {}
        self._open: Call | None = None
        self._pair: tuple[Call, Call] | None = None

    def note(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Remember a call before its caches are filled."""
        self._open = self._pair = None
        opaque = {id(value): value for _, value in _opaque(args, kwargs)}
        empty = {key: copy.deepcopy(value) for key, value in opaque.items() if not cache_tensors(value)}
        if len(empty) == len(opaque):
            self._open = (
                tuple(empty.get(id(value), value) for value in args),
                {name: empty.get(id(value), value) for name, value in kwargs.items()},
            )

    def traced(self, call: Call, twin: Call) -> None:
        """Remember a call and its twin, with which the network before pruning was traced."""
        self._open, self._pair = None, (call, twin)

    def filled(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Note which caches a call has filled."""
        call, pair, self._open, self._pair = self._open, self._pair, None, None
        caches = [*_opaque(args, kwargs), *_opaque_results(output)]
        for position, cache in caches:
            tensors = cache_tensors(cache)
            key = type(cache).__name__, len(tensors)
            if not tensors or key in self._unpruned_shapes:
                continue
            if pair is not None and position[0] == "argument":
                self._learn(key, [t.shape for t in tensors], cache_tensors(_at(pair[1], position)))
            elif call is not None:
                self._filled[key] = _Filled(call, position, [tuple(t.shape) for t in tensors])

    def _learn(self, key: tuple[str, int], shapes: list[Any], unpruned: list[torch.Tensor]) -> None:
        if len(unpruned) == len(shapes):
            self._unpruned_shapes[key] = [
                tuple(b if a != b else None for a, b in zip(shape, tensor.shape, strict=True))
                for shape, tensor in zip(shapes, unpruned, strict=True)
            ]

    def twin(self, call: Call, before: nn.Module) -> Call:
        """The same call for the network before it was pruned.

        Raises:
            RequestError: for caches that are not known to come from the pruned network.
        """
        twin = copied(call)
        for position, cache in _opaque(*call):
            tensors = cache_tensors(cache)
            if not tensors:
                continue
            key = type(cache).__name__, len(tensors)
            if key not in self._unpruned_shapes and key in self._filled:
                self._fill(key, before)
            if key not in self._unpruned_shapes:
                raise RequestError(
                    f"it is given a {type(cache).__name__} with tensors that the pruned network did not compute; "
                    f"{_REMEDY}"
                )
            for tensor, unpruned in zip(cache_tensors(_at(twin, position)), self._unpruned_shapes[key], strict=True):
                shape = [a if b is None else b for a, b in zip(tensor.shape, unpruned, strict=True)]
                tensor.data = torch.zeros(shape, dtype=tensor.dtype, device=tensor.device)
        return twin

    def _fill(self, key: tuple[str, int], before: nn.Module) -> None:
        """Let the network before pruning fill the cache that the pruned one has filled."""
        filled = self._filled.pop(key)
        with torch.no_grad():
            output = before(*filled.call[0], **filled.call[1])
        position = filled.position
        cache = _at(filled.call, position) if position[0] == "argument" else _part(output, position[1])
        self._learn(key, filled.shapes, cache_tensors(cache))


def _is_opaque(value: Any) -> bool:
    described = describe(value)
    return isinstance(described, dict) and "other" in described


def _opaque(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[tuple[tuple[str, Any], Any]]:
    """Arguments that are neither tensors nor plain values, with their positions."""
    return [(("argument", key), value) for key, value in (*enumerate(args), *kwargs.items()) if _is_opaque(value)]


def _opaque_results(output: Any) -> Iterator[tuple[tuple[str, Any], Any]]:
    items: Any = ()
    if isinstance(output, Mapping):
        items = output.items()
    elif isinstance(output, (tuple, list)):
        items = enumerate(output)
    for key, value in items:
        if _is_opaque(value):
            yield ("output", key), value


def _at(call: Call, position: tuple[str, Any]) -> Any:
    return call[0][position[1]] if isinstance(position[1], int) else call[1][position[1]]


def _part(output: Any, key: Any) -> Any:
    return output[key]
