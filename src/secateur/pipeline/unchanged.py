"""Computes the first layers of networks, which pruning left unchanged, once for all of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from secateur.attribution.starts import logits_of
from secateur.core.borrowing import eval_mode
from secateur.structure.base import tensors_in

MEMORY = 2**30
"""Largest number of bytes of outputs that are kept."""

_MISFITS = (RuntimeError, TypeError, ValueError, IndexError, StopIteration)
"""The error of a pass in which a module gets an unexpected input."""


@dataclass(frozen=True)
class _Call:
    """A module's only call in a pass.

    Attributes:
        name: name of the module.
        shape: shape of its output, without samples; None where the output is not one tensor with an entry per sample.
        begin: number of the begin of the call among all begins and ends of calls.
        end: number of its end.
    """

    name: str
    shape: tuple[int, ...] | None
    begin: int
    end: int


@dataclass(frozen=True)
class _Shortcut:
    """Modules that return stored outputs instead of being computed.

    Attributes:
        given: modules whose outputs later modules need.
        skipped: modules whose outputs only skipped modules read.
    """

    given: tuple[_Call, ...]
    skipped: tuple[_Call, ...]

    @property
    def elements(self) -> int:
        """Number of values that are kept per sample."""
        return sum(int(torch.Size(call.shape or ()).numel()) for call in self.given)


class Unchanged:
    """Computes once the modules that pruned networks share with the original at their begin.

    Modules that end before the first changed one begins are not computed again: those whose outputs later modules read
    return the outputs of the original, the others NaN, so that reading them would show. On a few samples the logits
    must equal those of the whole network to the last bit; otherwise nothing is skipped.

    Args:
        model: the original, in eval mode, as pruned networks are evaluated (with batch norms folded, for example).
        batches: inputs, as they are passed.
        memory: largest number of bytes of outputs that are kept.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
        >>> other = nn.Sequential(net[0], net[1], nn.Linear(3, 2)).eval()
        >>> with Unchanged(net, [torch.rand(4, 2)]).shortened(other) as left_out:
        ...     left_out
        ('0', '1')
    """

    def __init__(self, model: nn.Module, batches: Sequence[torch.Tensor], memory: int = MEMORY) -> None:
        self._model, self._batches, self._memory = model, batches, memory
        self._few = batches[0][:2]
        self._bytes = batches[0].element_size() * sum(len(batch) for batch in batches)  # of one number of all samples
        self._begins, self._calls = _watched(model, self._few)
        self._shortcuts: dict[int, _Shortcut | None] = {}
        self._kept: OrderedDict[_Shortcut, list[dict[str, torch.Tensor]]] = OrderedDict()

    @contextmanager
    def shortened(self, model: nn.Module) -> Iterator[tuple[str, ...]]:
        """Within the context, passes of the batches, in their order, skip unchanged modules.

        Yields the names of the modules that are not computed. The network is restored afterwards.
        """
        shortcut = self._shortcut(model)
        if shortcut is None:
            yield ()
            return
        outputs = iter(self._outputs(shortcut))
        with _replaced(model, shortcut, lambda: next(outputs)):
            yield tuple(call.name for call in (*shortcut.skipped, *shortcut.given))

    def _shortcut(self, model: nn.Module) -> _Shortcut | None:
        """The longest shortcut that is right for a network and fits into memory."""
        first = self._first_changed(model)
        if first is None:
            return None
        for begin in sorted({call.begin for call in self._calls if call.begin < first} | {first}, reverse=True):
            if begin not in self._shortcuts:
                self._shortcuts[begin] = self._found(begin)
            shortcut = self._shortcuts[begin]
            if shortcut is None:
                return None
            if self._bytes * shortcut.elements <= self._memory:
                return shortcut if self._same(model, shortcut, None) else None
        return None

    def _first_changed(self, model: nn.Module) -> int | None:
        """Begin of the first module with other parameters, buffers or code; None where that is unknown."""
        theirs, changed = dict(model.named_modules()), []
        for name, own in self._model.named_modules():
            if name not in theirs or _differ(own, theirs[name]):
                changed.append(name)
        if not changed or not all(name in self._begins for name in changed):
            return None  # a module that is not called may be read anywhere
        return min(self._begins[name] for name in changed)

    def _found(self, first: int) -> _Shortcut | None:
        """The shortcut that skips the modules before this begin."""
        ended = [call for call in self._calls if call.end < first]
        outermost = [each for each in ended if not any(other.begin < each.begin < other.end for other in ended)]
        if not outermost or any(call.shape is None for call in outermost):
            return None
        given: list[_Call] = list(outermost)
        skipped: list[_Call] = []
        values = self._computed(outermost, self._few)
        for call in outermost:
            fewer = [each for each in given if each is not call]
            if fewer and self._same(self._model, _Shortcut(tuple(fewer), (*skipped, call)), values):
                given, skipped = fewer, [*skipped, call]
        return _Shortcut(tuple(given), tuple(skipped))

    def _same(self, model: nn.Module, shortcut: _Shortcut, values: Mapping[str, torch.Tensor] | None) -> bool:
        """Whether the logits of a few samples are the same to the last bit."""
        known = self._computed(shortcut.given, self._few) if values is None else values
        with eval_mode(model), torch.inference_mode():
            expected = logits_of(model(self._few))
            try:
                with _replaced(model, shortcut, lambda: known):
                    return torch.equal(logits_of(model(self._few)), expected)
            except _MISFITS:
                return False

    def _outputs(self, shortcut: _Shortcut) -> list[dict[str, torch.Tensor]]:
        """Outputs of the modules whose outputs are needed, by name, for each batch."""
        if shortcut not in self._kept:
            elements = shortcut.elements
            while self._kept and self._bytes * (elements + sum(s.elements for s in self._kept)) > self._memory:
                self._kept.popitem(last=False)
            self._kept[shortcut] = [self._computed(shortcut.given, batch) for batch in self._batches]
        self._kept.move_to_end(shortcut)
        return self._kept[shortcut]

    def _computed(self, calls: Sequence[_Call], inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Outputs of modules of the original, by name; modules after the last of them are not computed."""
        outputs: dict[str, torch.Tensor] = {}

        def keep(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, args: Any, output: torch.Tensor) -> None:
                outputs[name] = output.clone()  # later modules may change it in place
                if len(outputs) == len(calls):
                    raise _Enough

            return hook

        handles = [self._model.get_submodule(call.name).register_forward_hook(keep(call.name)) for call in calls]
        try:
            with eval_mode(self._model), torch.inference_mode():
                self._model(inputs)
        except _Enough:
            pass
        finally:
            for handle in handles:
                handle.remove()
        return outputs


class _Enough(Exception):
    """Stops a pass after the last output that is needed."""


def _differ(one: nn.Module, other: nn.Module) -> bool:
    """Whether modules themselves, not those within them, have other parameters, buffers or code."""
    if type(one) is not type(other):
        return True
    for get in (nn.Module.named_parameters, nn.Module.named_buffers):
        ours, theirs = dict(get(one, recurse=False)), dict(get(other, recurse=False))
        if ours.keys() != theirs.keys() or not all(torch.equal(ours[key], theirs[key]) for key in ours):
            return True
    return False


def _watched(model: nn.Module, inputs: torch.Tensor) -> tuple[dict[str, int], list[_Call]]:
    """The first begins of modules, and the modules that are called once, without the network itself."""
    begins: dict[str, list[int]] = {}
    ends: dict[str, tuple[int, tuple[int, ...] | None]] = {}
    number = iter(range(2**62))
    handles = []

    def watch(name: str, module: nn.Module) -> None:
        def before(*_: Any) -> None:
            begins.setdefault(name, []).append(next(number))

        def after(_: nn.Module, __: Any, output: Any) -> None:
            plain = isinstance(output, torch.Tensor) and output.ndim > 0 and len(output) == len(inputs)
            ends[name] = (next(number), tuple(output.shape[1:]) if plain else None)

        handles.extend([module.register_forward_pre_hook(before), module.register_forward_hook(after)])

    for name, module in model.named_modules():
        if name:
            watch(name, module)
    try:
        with eval_mode(model), torch.inference_mode():
            model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    calls = [
        _Call(name, ends[name][1], numbers[0], ends[name][0])
        for name, numbers in begins.items()
        if len(numbers) == 1 and name in ends
    ]
    return {name: numbers[0] for name, numbers in begins.items()}, calls


@contextmanager
def _replaced(
    model: nn.Module, shortcut: _Shortcut, next_outputs: Callable[[], Mapping[str, torch.Tensor]]
) -> Iterator[None]:
    """Within the context, modules return stored outputs or NaN; the first pass uses the first outputs, and so on."""
    outputs: list[Mapping[str, torch.Tensor]] = []

    def begin(*_: Any) -> None:
        outputs[:] = [next_outputs()]

    def stored(name: str) -> Callable[..., torch.Tensor]:
        return lambda *_, **__: outputs[0][name].clone()

    def nothing(shape: tuple[int, ...]) -> Callable[..., torch.Tensor]:
        def give(*args: Any, **kwargs: Any) -> torch.Tensor:
            x = next(tensors_in((args, kwargs)))
            return x.new_full((len(x), *shape), torch.nan)

        return give

    instead = {call.name: stored(call.name) for call in shortcut.given}
    instead |= {call.name: nothing(call.shape or ()) for call in shortcut.skipped}
    own: dict[str, Any] = {}  # set in the module itself, not in its class
    handle = model.register_forward_pre_hook(begin)
    try:
        for name, forward in instead.items():
            module = model.get_submodule(name)
            own[name] = module.__dict__.get("forward")
            module.__dict__["forward"] = forward
        yield
    finally:
        handle.remove()
        for name, before in own.items():
            attributes = model.get_submodule(name).__dict__
            if before is None:
                del attributes["forward"]
            else:
                attributes["forward"] = before
