"""Calls of a pruned network that were not traced: exact, or refused.

A pruned network is right for the calls that were traced. Another kind of call (with a mask, a cache, another optional
argument) may run code in which removed units matter, or which names sizes that no traced call showed. So the first call
of each kind is traced on the network as it was before it was pruned, whose parameters take no memory here. The call
passes if what was removed can be removed in it as well, and its code needs no other corrections than were made.
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
    """A copy whose parameters are zeros that take no memory; buffers are those of the network."""
    held: dict[int, Any] = {id(p): _zeros(p, p.device, p.dtype) for p in model.parameters()}
    held |= {id(buffer): buffer.detach() for buffer in model.buffers()}
    made = copied_network(model, held)
    remove_guard(made)
    return made


def _zeros(like: torch.Tensor, device: torch.device, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(torch.zeros((), dtype=dtype, device=device).expand(like.shape), requires_grad=False)


def guard_of(model: nn.Module) -> CallGuard | None:
    """The guard of a pruned network; None for another one."""
    return next((hook for hook in model._forward_pre_hooks.values() if isinstance(hook, CallGuard)), None)


def remove_guard(model: nn.Module) -> None:
    """Let a network take any call."""
    for hooks in (model._forward_pre_hooks, model._forward_hooks):
        for key in [key for key, hook in hooks.items() if isinstance(hook, (CallGuard, _AfterCall))]:
            del hooks[key]
            for flags in (model._forward_pre_hooks_with_kwargs, model._forward_hooks_with_kwargs):
                flags.pop(key, None)


def set_guard(model: nn.Module, before: nn.Module, edits: Edits) -> None:
    """Let a pruned network take only calls for which it is right.

    Args:
        model: the network; a guard that it has is replaced.
        before: as it was before it was ever pruned: `outline`.
        edits: all that was done to it.
    """
    remove_guard(model)
    guard = CallGuard(before, edits)
    model.register_forward_pre_hook(guard, with_kwargs=True)
    model.register_forward_hook(_AfterCall(guard), with_kwargs=True)


class CallGuard:
    """Forward pre-hook of a pruned network; see the module's text.

    Args:
        before: the network before it was pruned, as `outline` gives it.
        edits: all that was done to it.
    """

    def __init__(self, before: nn.Module, edits: Edits) -> None:
        self.before = before
        self.edits = edits
        self.kinds = {kind(call, edits.lengths) for call in edits.calls}
        self.caches = _Caches()
        setattr(self, ASIDE, True)

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse a call for which the network may not be right."""
        if torch.compiler.is_compiling() or torch.jit._trace.is_tracing():
            return  # no pass can be watched here; kinds that were never called outside are not checked (see the docs)
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
        # views of other types, say, need parameters that have memory of their own
        parameters = list(self.before.parameters())
        for parameter in parameters:
            parameter.data = torch.zeros(parameter.shape, dtype=parameter.dtype, device=parameter.device)
        try:
            return watched(self.before, [copied(call)], self.edits.stream, None, with_values=False)
        finally:
            for parameter in parameters:
                parameter.data = _zeros(parameter, parameter.device, parameter.dtype).data

    def _follow(self, module: nn.Module) -> None:
        """Go to the device and take the type that the pruned network has by now."""
        now = dict(module.named_parameters())
        default = next(iter(now.values()))
        for name, parameter in self.before.named_parameters():
            like = now.get(name, default)
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
        whole = {(axis.tensor, axis.dim) for axis in structure.axes if _same(axis.stays(keep), stays, axis)}
        state = assembly.labels.state_dims
        for (tensor, dim), cut in cuts.items():
            if tensor in state and (tensor, dim) not in whole:
                return f"what was removed of '{tensor}' {_reason(assembly, tensor, dim, cut.removed)}"
        for axis in structure.axes:
            if (axis.tensor, axis.dim) not in whole:
                return f"'{axis.tensor}' would have to be cut, too"
        return misfit(structure.modules, keep, self._applied())

    def _applied(self) -> Changes:
        edits = self.edits
        attributes = {(path, name): v for path, values in edits.attributes.items() for name, v in values.items()}
        code = {path: dict(steps) for path, steps in edits.code.items()}
        return Changes(attributes, dict(edits.corrections), dict(edits.heads), code)

    def __deepcopy__(self, memo: dict[int, Any]) -> CallGuard:
        made = CallGuard(copy.deepcopy(self.before, memo), self.edits)
        made.kinds = set(self.kinds)
        memo[id(self)] = made
        return made

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "caches": _Caches()}


def _same(found: np.ndarray, stays: Mapping[tuple[str, int], np.ndarray], axis: Any) -> bool:
    return np.array_equal(found, stays[axis.tensor, axis.dim])


def _reason(assembly: Assembly, tensor: str, dim: int, removed: tuple[int, ...]) -> str:
    """Why these indices of a parameter cannot go."""
    con = assembly.conditions
    nodes = assembly.labels.state_dims[tensor][dim]
    leaves = [] if nodes is None else [leaf for node in nodes[list(removed)] for leaf in sorted(con.leaves(int(node)))]
    reasons = list(dict.fromkeys(filter(None, map(con.reason, leaves))))
    # the three parts of a packed projection are picked apart in every call
    telling = [reason for reason in reasons if reason != FIXED_INDEX] or reasons
    return telling[0] if telling else "is combined with what stays"


class _AfterCall:
    """Forward hook that remembers which caches a call has filled."""

    def __init__(self, guard: CallGuard) -> None:
        self.guard = guard
        setattr(self, ASIDE, True)

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Look at what the call gave."""
        if not (torch.compiler.is_compiling() or torch.jit._trace.is_tracing()):
            self.guard.caches.filled(args, kwargs, output)


# -- caches ----------------------------------------------------------------------------------------------------------


@dataclass
class _Filled:
    """A cache that a call has filled.

    Attributes:
        call: with an empty cache, or none.
        place: of the cache among the arguments, or in the output.
        shapes: of its tensors then.
    """

    call: Call
    place: tuple[str, Any]
    shapes: list[tuple[int, ...]]


class _Caches:
    """Caches of keys and values that calls hand on to each other, in objects of classes of the network's own.

    Those of a pruned network are smaller than those that the network before it would have. Which dimensions differ, and
    by how much, shows once both networks have filled one in the same call.
    """

    def __init__(self) -> None:
        self._whole: dict[tuple[str, int], list[tuple[int | None, ...]]] = {}
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
        """Remember a call and the one that the network before was traced with."""
        self._open, self._pair = None, (call, twin)

    def filled(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """See which caches a call has filled."""
        call, pair, self._open, self._pair = self._open, self._pair, None, None
        places = [*_opaque(args, kwargs), *_opaque_results(output)]
        for place, cache in places:
            found = cache_tensors(cache)
            key = type(cache).__name__, len(found)
            if not found or key in self._whole:
                continue
            if pair is not None and place[0] == "argument":
                self._learn(key, [t.shape for t in found], cache_tensors(_at(pair[1], place)))
            elif call is not None:
                self._filled[key] = _Filled(call, place, [tuple(t.shape) for t in found])

    def _learn(self, key: tuple[str, int], shapes: list[Any], whole: list[torch.Tensor]) -> None:
        if len(whole) == len(shapes):
            self._whole[key] = [
                tuple(b if a != b else None for a, b in zip(shape, tensor.shape, strict=True))
                for shape, tensor in zip(shapes, whole, strict=True)
            ]

    def twin(self, call: Call, before: nn.Module) -> Call:
        """The same call for the network before it was pruned.

        Raises:
            RequestError: for caches that are not known to come from the pruned network.
        """
        made = copied(call)
        for place, cache in _opaque(*call):
            found = cache_tensors(cache)
            if not found:
                continue
            key = type(cache).__name__, len(found)
            if key not in self._whole and key in self._filled:
                self._fill(key, before)
            if key not in self._whole:
                raise RequestError(
                    f"it is given a {type(cache).__name__} with tensors that the pruned network has not made; {_REMEDY}"
                )
            for tensor, whole in zip(cache_tensors(_at(made, place)), self._whole[key], strict=True):
                shape = [a if b is None else b for a, b in zip(tensor.shape, whole, strict=True)]
                tensor.data = torch.zeros(shape, dtype=tensor.dtype, device=tensor.device)
        return made

    def _fill(self, key: tuple[str, int], before: nn.Module) -> None:
        """Let the network before fill the cache that the pruned one has filled."""
        filled = self._filled.pop(key)
        with torch.no_grad():
            output = before(*filled.call[0], **filled.call[1])
        cache = _at(filled.call, filled.place) if filled.place[0] == "argument" else _part(output, filled.place[1])
        self._learn(key, filled.shapes, cache_tensors(cache))


def _is_opaque(value: Any) -> bool:
    described = describe(value)
    return isinstance(described, dict) and "other" in described


def _opaque(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[tuple[tuple[str, Any], Any]]:
    """Arguments that are objects of classes of their own, with their places."""
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


def _at(call: Call, place: tuple[str, Any]) -> Any:
    return call[0][place[1]] if isinstance(place[1], int) else call[1][place[1]]


def _part(output: Any, key: Any) -> Any:
    return output[key]
