"""Seeing every operation of a pass, and reads of values that no operation shows."""

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
        rules: what has been learnt.
        training: whether the pass is one in training mode.
        at_hand: gives the tensors that the code that runs now can have handed to compiled code.
        reads: a mode to be on at the same time: it sees reads of values that do not reach the dispatcher, and whether
            an operation was called by Python code.
    """

    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """PyTorch would else load its compiler, which takes seconds, to leave this method alone."""
        return False

    def __init__(self, labels: Labels, batch: int, stream: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.labels = labels
        self.rules = Rules(labels, batch, stream)
        self.reads = _Reads(self.rules)
        self.training = False
        self.at_hand: Callable[[], Iterable[torch.Tensor]] = tuple

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, HigherOrderOperator):
            raise RequestError(
                f"the network's code calls '{func.name()}', which cannot be watched; write it in plain torch operations"
            )
        name = func._schema.name.split("::")[-1]
        if name in _PEEKS:
            _peeked(self.rules, name, list(tensors_in((args, kwargs))))
        for tensor in tensors_in((args, kwargs)):
            self.labels.recognise(tensor)
            if name in _RANDOM and not self.training:
                self.labels.lock(tensor, "meets random numbers, of which a smaller network draws others")
        result = func(*args, **kwargs)
        inplace = name.endswith("_") and not name.startswith("__")
        self.labels.hold(result)
        if not self.reads.depth and name not in _UNCALLED:
            # it may have asked any tensor that it was given for its size, which no operation shows
            for tensor in (*tensors_in((args, kwargs)), *self.at_hand()):
                self.labels.lock(tensor, "is computed with by compiled code, which may use its size as a number")
        self.rules.apply(name.rstrip("_") if inplace else name, func, args, kwargs, result, inplace)
        return result


class _Reads(TorchFunctionMode):
    """Sees functions that read or pass on values behind the dispatcher's back."""

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
        """Modules of recurrent layers keep their sizes; a cell's inputs are read by its first weight's columns."""
        labels = self.rules.labels
        for tensor in tensors_in(args):
            labels.recognise(tensor)
            free = name.endswith("_cell") and (tensor is args[0] or tensor is args[2])
            dims = [0] if free and tensor is args[2] else [] if free else None
            labels.lock(tensor, f"meets a recurrent layer ('{name}'), whose sizes stay", dims)


def _peeked(rules: Rules, name: str, tensors: Sequence[torch.Tensor]) -> None:
    """Refuse that code looks at values of activations; at inputs it may look, which is noted."""
    labels = rules.labels
    if not rules.with_values and any(id(t) in labels.weighed for t in tensors):
        raise RequestError(f"the network's code looks at values of parameters ('{name}'), which are not known here")
    if not any(id(t) in labels.dependent for t in tensors):
        return
    if any(id(t) in labels.weighed for t in tensors):
        raise RequestError(
            f"the network's code looks at values of activations ('{name}'): what it computes may depend on the "
            "data, so that one run does not show its structure; take the branch out of forward, or trace the "
            "part before or after it"
        )
    shapes = ", ".join(str(tuple(t.shape)) for t in tensors)
    rules.note_peek(f"the code looks at values of inputs ('{name}', shape {shapes}): the branch that the example took")
