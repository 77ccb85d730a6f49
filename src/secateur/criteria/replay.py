"""Repeated evaluation of a network on the same inputs while only some of its parameters change."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import TensorWeakRef

from secateur.structure.base import tensors_in

_READS_SHAPE = frozenset({"__get__", "size", "dim", "ndimension", "numel", "__len__", "is_floating_point"})


class Replay:
    """Skips the operations before the first one that reads a changing parameter: their results stay the same.

    The first call runs the whole network, records the results of its operations up to that one, and keeps those still
    in use there. Later calls return them in the same order, and run the other operations. Results that these overwrite
    in place are restored before the next call.

    Args:
        model: a network in eval mode; run it once before, so that one-time computations are not recorded.
        inputs: inputs of every call.
        parameters: parameters that change between calls.
    """

    def __init__(self, model: nn.Module, inputs: torch.Tensor, parameters: Iterable[torch.Tensor]) -> None:
        self.model, self.inputs = model, inputs
        self._read = {id(p) for p in parameters}
        self._given: torch.Tensor | None = None
        self._recorder: _Recorder | None = None
        self.replays = True

    def __call__(self) -> Any:
        """The network's output."""
        with torch.no_grad():
            if not self.replays:
                return self.model(self.inputs.clone())
            if self._recorder is None:
                self._given = self.inputs.clone()
                recorder = _Recorder(self._read, self._given)
                with recorder:
                    output = self.model(self._given)
                recorder.finish()
                self._recorder = recorder
                return output
            self._recorder.write_back()
            with _Player(self._recorder.calls):
                return self.model(self._given)

    @property
    def skipped(self) -> int:
        """Number of operations that are not run again."""
        return 0 if self._recorder is None or not self.replays else len(self._recorder.calls)

    def check(self, figure: Callable[[Any], torch.Tensor]) -> torch.Tensor:
        """A figure of the output; stop using replay where it gives another figure than a plain pass.

        Code that a function mode does not see (scripted modules, a user's own autograd functions) may read the
        parameters within the skipped operations, or get a placeholder for a tensor that was not kept. Change the
        parameters between the first call and this one.
        """
        with torch.no_grad():
            plain = figure(self.model(self.inputs.clone()))
        try:
            replayed = figure(self())
        except (RuntimeError, TypeError, ValueError, IndexError):
            self.replays = False
            return plain
        self.replays = bool(torch.allclose(replayed, plain, rtol=1e-4, atol=1e-6, equal_nan=True))
        return replayed if self.replays else plain


class _Diverged(RuntimeError):
    """The network runs other operations than the recorded ones."""


class _Recorder(TorchFunctionMode):
    """Records results until a parameter is read."""

    def __init__(self, read: set[int], inputs: torch.Tensor) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any]] = []
        self._read, self._inputs = read, inputs
        self._kept: list[tuple[torch.Tensor, int]] | None = None
        self._saved: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._kept is None and any(id(t) in self._read for t in tensors_in((args, kwargs))):
            if getattr(func, "__name__", "") not in _READS_SHAPE:
                self._stop()
            elif list(tensors_in(result := func(*args, **kwargs))):
                self._stop()
                return result
        result = func(*args, **kwargs)
        if self._kept is None:
            self.calls.append((func, _mapped(result, TensorWeakRef)))
        return result

    def _stop(self) -> None:
        """Keep results that are still in use; later operations cannot use those that the network has released."""
        kept = [self._inputs]

        def resolve(reference: Any) -> torch.Tensor:
            tensor = reference()
            if tensor is None:
                return _STAND_IN
            kept.append(tensor)
            return tensor  # type: ignore[no-any-return]

        self.calls = [(func, _mapped(result, resolve)) for func, result in self.calls]
        self._kept = [(tensor, tensor._version) for tensor in kept]
        for tensor in kept:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self._saved:
                self._saved[storage.data_ptr()] = (storage, storage.clone())

    def finish(self) -> None:
        """After the pass, keep saved copies of those results only that later operations have overwritten."""
        if self._kept is None:
            self._stop()
        assert self._kept is not None
        written = {t.untyped_storage().data_ptr() for t, version in self._kept if t._version != version}
        self._saved = {address: saved for address, saved in self._saved.items() if address in written}

    def write_back(self) -> None:
        for storage, saved in self._saved.values():
            storage.copy_(saved, non_blocking=False)


_STAND_IN = torch.empty(0)


class _Player(TorchFunctionMode):
    """Returns recorded results in order, and runs the operations after them."""

    def __init__(self, calls: list[tuple[Any, Any]]) -> None:
        super().__init__()
        self._calls, self._next = calls, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._next == len(self._calls):
            return func(*args, **(kwargs or {}))
        recorded, result = self._calls[self._next]
        if recorded != func:
            raise _Diverged(f"'{getattr(func, '__name__', func)}' runs where another operation was recorded")
        self._next += 1
        return result


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same nested value with every tensor, or reference to one, replaced."""
    if isinstance(value, (torch.Tensor, TensorWeakRef)):
        return change(value)
    if isinstance(value, dict):
        return {key: _mapped(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_mapped(item, change) for item in value]
    if isinstance(value, tuple) and not isinstance(value, torch.Size):
        items = [_mapped(item, change) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value
