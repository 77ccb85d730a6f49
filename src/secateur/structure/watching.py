"""Watches every operation of a pass, and reads of values that do not reach the dispatcher."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch._ops import HigherOrderOperator
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.core.errors import RequestError
from secateur.structure.base import tensors_in
from secateur.structure.labels import Labels
from secateur.structure.operations import Rules

_PEEKS = frozenset({"_local_scalar_dense", "item", "nonzero", "equal", "is_nonzero", "masked_select"})
_LISTED = frozenset("tensor as_tensor asarray new_tensor".split())
_READS = frozenset("tolist numpy __array__ __dlpack__".split())
"""Functions that the dispatcher does not see; those of `_LISTED` read tensors in lists."""
_RECURRENT = frozenset("lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell".split())


_UNCALLED = frozenset({"detach", "alias", "lift_fresh"})
"""Operations that PyTorch itself calls where it wraps tensors."""


_RANDOM = frozenset(
    "randn_like rand_like randint_like bernoulli bernoulli_ normal normal_ uniform_ exponential_ poisson "
    "native_dropout dropout feature_dropout rrelu_with_noise".split()
)


class Watcher(TorchDispatchMode):
    """Labels every tensor of one forward pass.

    Attributes:
        rules: the rules, with all that they have learned from the pass.
        training: whether the pass is in training mode.
        available_tensors: returns the tensors that the running code may have passed to compiled code.
        reads: a mode to enter together with this one: it sees reads of values that do not reach the dispatcher, and
            whether an operation was called by Python code.
    """

    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Keep PyTorch from loading its compiler, which takes seconds, only to exclude this method."""
        return False

    def __init__(self, labels: Labels, batch: int, stream: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.labels = labels
        self.rules = Rules(labels, batch, stream)
        self.reads = _Reads(self.rules)
        self.training = False
        self.available_tensors: Callable[[], Iterable[torch.Tensor]] = tuple

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, HigherOrderOperator):
            raise RequestError(
                f"the network's code calls '{func.name()}', which cannot be traced; write it in plain torch operations"
            )
        name = func._schema.name.split("::")[-1]
        if name in _PEEKS:
            _peeked(self.rules, name, list(tensors_in((args, kwargs))))
        for tensor in tensors_in((args, kwargs)):
            self.labels.recognise(tensor)
            if name in _RANDOM and not self.training:
                self.labels.lock(tensor, "is combined with random numbers, which a smaller network draws differently")
        result = func(*args, **kwargs)
        inplace = name.endswith("_") and not name.startswith("__")
        self.labels.hold(result)
        if not self.reads.depth and name not in _UNCALLED:
            # it may have read the size of any tensor that it received, which no operation shows
            for tensor in (*tensors_in((args, kwargs)), *self.available_tensors()):
                self.labels.lock(tensor, "is used by compiled code, which may compute with its size")
        self.rules.apply(name.rstrip("_") if inplace else name, func, args, kwargs, result, inplace)
        return result


class _Reads(TorchFunctionMode):
    """Sees functions that read or pass on values without reaching the dispatcher."""

    def __init__(self, rules: Rules) -> None:
        super().__init__()
        self.rules = rules
        self.depth = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.depth += 1
        try:
            return self._watched(func, args, kwargs or {})
        finally:
            self.depth -= 1

    def _watched(self, func: Any, args: Any, kwargs: Any) -> Any:
        name = getattr(func, "__name__", "")
        if name in _READS or (name in _LISTED and not isinstance(args[0], torch.Tensor)):
            tensors = list(tensors_in((args, kwargs)))
            _peeked(self.rules, name, tensors)
            for tensor in tensors:
                self.rules.used(tensor)
                self.rules.labels.lock(tensor, f"is read by '{name}', outside torch")
        if name in _RECURRENT:
            self._lock_recurrent(name, args)
        result = func(*args, **kwargs)
        if isinstance(result, torch.Tensor) and result.is_nested:
            raise RequestError(f"the network's code makes nested tensors ('{name}'), which have no rules; pad instead")
        return result

    def _lock_recurrent(self, name: str, args: Any) -> None:
        """Lock what recurrent layers read, except the inputs of a cell, which the columns of its first weight read."""
        labels = self.rules.labels
        for tensor in tensors_in(args):
            labels.recognise(tensor)
            free = name.endswith("_cell") and (tensor is args[0] or tensor is args[2])
            dims = [0] if free and tensor is args[2] else [] if free else None
            labels.lock(tensor, f"is read by a recurrent layer ('{name}'), whose sizes stay", dims)


def _peeked(rules: Rules, name: str, tensors: Sequence[torch.Tensor]) -> None:
    """Refuse code that reads values of activations; note where it reads values of inputs."""
    labels = rules.labels
    if not rules.with_values and any(id(t) in labels.weighed for t in tensors):
        raise RequestError(f"the network's code reads values of parameters ('{name}'), which are not known here")
    if not any(id(t) in labels.dependent for t in tensors):
        return
    if any(id(t) in labels.weighed for t in tensors):
        raise RequestError(
            f"the network's code reads values of activations ('{name}'): what it computes may depend on the "
            "data, so that one run does not show its structure; take the branch out of forward, or trace the "
            "part before or after it"
        )
    shapes = ", ".join(str(tuple(t.shape)) for t in tensors)
    rules.note_peek(f"the code reads values of inputs ('{name}', shape {shapes}): the branch that the example took")
