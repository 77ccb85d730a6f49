"""Where the entries of removed units are zero in a masked network.

Masking sets all parameters of a removed unit to zero. Its entries in activations stay zero only as long as every
function on the way maps zero to zero; ``exp``, ``x + 1`` or an added buffer (buffers are not masked) do not. This makes
no difference to a layer that reads the unit with masked weights. It does to a product of two activations that is summed
over units, unless one of the factors is still zero there (`secateur.structure.contractions`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch

from secateur.structure.base import Base, tensors_in
from secateur.structure.labels import Labels

_SAMPLES = {"float": (-1.7, -0.4, 0.0, 0.6, 2.3), "int": (-2, -1, 0, 1, 3), "bool": (False, True)}
"""Sample values that represent any value of a type."""
_RANDOM = frozenset("rand_like randn_like randint_like empty_like bernoulli".split())
COPIES = frozenset(
    "clone contiguous alias detach _to_copy lift_fresh lift _conj resolve_conj positive native_dropout".split()
)
"""Operations that return their one tensor unchanged."""
_MOST_OPERANDS = 3


class Zeros(Base):
    """Rules for which operations keep entries of removed units at zero.

    Args:
        labels: nodes of all tensors.
    """

    def __init__(self, labels: Labels) -> None:
        super().__init__(labels)
        self._at_zero: dict[object, float] = {}

    def moved(self, name: str, args: Any, kwargs: Any, result: Any) -> bool:
        """Copied data: zero where all parts that have units are zero."""
        return all(self.labels.zero_without(t) for t in tensors_in((args, kwargs)) if self.has_units(t))

    def looked_up(self, name: str, args: Any, kwargs: Any, result: Any) -> bool:
        """Lookups: zero where the table is, unless positions have units: what position zero holds need not be zero."""
        return self.labels.zero_without(args[0]) and not any(self.has_units(t) for t in args[1:] if _is_tensor(t))

    def padded(self, name: str, args: Any, kwargs: Any, result: Any) -> bool:
        """Padding: zero if the added constant is zero as well."""
        value = args[2] if len(args) > 2 else kwargs.get("value")
        return self.labels.zero_without(args[0]) and not value

    def reduced(self, name: str, args: Any, kwargs: Any, result: Any) -> bool:
        """Sums, maxima, norms and deviations of zeros are zero."""
        return name != "logsumexp" and self.moved(name, args, kwargs, result)

    def scanned(self, name: str, args: Any, kwargs: Any, result: Any) -> bool:
        """A softmax of zeros is not zero; running sums are."""
        return "softmax" not in name and self.moved(name, args, kwargs, result)

    def batch_normed(self, name: str, args: Any, kwargs: Any, result: Any) -> bool:
        """Batch norm: zero where scale and shift are; without a scale, subtracting the mean makes zeros nonzero."""
        x, weight, bias, mean = args[:4]
        output = next(tensors_in(result))
        if any(nodes is not None for d, nodes in enumerate(self.labels.of(output)) if d != 1):
            return False
        if isinstance(weight, torch.Tensor) and weight.numel():
            return self._zero_at(weight, -1) and (bias is None or self._zero_at(bias, -1))
        return not isinstance(mean, torch.Tensor) and self.labels.zero_without(x)

    def normed(self, name: str, args: Any, kwargs: Any, result: Any) -> bool:
        """Other norms: zero where scale and shift are, along normalised dimensions; along others, without a bias."""
        x = args[0]
        output = next(tensors_in(result))
        group = "group" in name
        weight, bias = args[1:3] if group else (*args[2:4], None)[:2]
        within = {1} if group else set(range(x.ndim - len(args[1]), x.ndim))
        if not isinstance(bias, torch.Tensor):
            bias = None
        for dim, nodes in enumerate(self.labels.of(output)):
            if nodes is None:
                continue
            last = -1 if group else dim - x.ndim
            if dim in within and isinstance(weight, torch.Tensor):
                if not self._zero_at(weight, last) or (bias is not None and not self._zero_at(bias, last)):
                    return False
            elif not self.labels.zero_without(x) or bias is not None:
                return False
        return True

    def convolved(self, name: str, args: Any, kwargs: Any, result: Any) -> bool:
        """Convolutions: rows of masked weights produce zeros."""
        x, weight, bias = args[:3]
        batch, channels, *_ = self.labels.of(result)
        if batch is not None and (bias is not None or not self.labels.zero_without(x)):
            return False
        if channels is None:
            return True
        return self.labels.zero_without(weight) and (bias is None or self._zero_at(bias, -1))

    def multiplied(self, name: str, args: Any, kwargs: Any, result: Any) -> bool:
        """Matrix products: rows come from the first factor, columns from the second, batch dimensions from both."""
        labels = self.labels
        bias = args[0] if name in ("addmm", "baddbmm") else None
        x, w = args[1:3] if bias is not None else args[:2]
        if name == "linear":
            bias = args[2] if len(args) > 2 else None
        first, second = labels.zero_without(x), labels.zero_without(w)
        dims = labels.of(result)
        for dim, nodes in enumerate(dims):
            if nodes is None:
                continue
            back = dim - len(dims)
            shared = name in ("bmm", "baddbmm") and dim == 0
            if not ((first or second) if shared else second if back == -1 else first):
                return False
            if bias is not None and not self._zero_at(bias, back):
                return False
        return True

    def weighted(self, name: str, args: Any, kwargs: Any, result: Any) -> bool:
        """Matrix times vector: the rows are those of the matrix."""
        return self.labels.zero_without(args[0])

    def elementwise(self, name: str, func: Any, args: Any, kwargs: Any, result: Any) -> bool:
        """Whether a function returns zero where its operands that have the unit are zero, found by calling it."""
        if name in COPIES:
            return self.moved(name, args, kwargs, result)
        given = {key: value for key, value in kwargs.items() if key != "out"}
        operands = list(tensors_in((args, given)))
        keeps = True
        patterns = {
            tuple(self._zero_at(t, dim - output.ndim) for t in operands): (output, dim)
            for output in tensors_in(result)
            for dim, nodes in enumerate(self.labels.of(output))
            if nodes is not None
        }
        for pattern, (output, dim) in patterns.items():
            if not any(pattern) or name in _RANDOM:
                keeps = False
                continue
            value = self._value(name, func, args, given, operands, pattern)
            if not math.isfinite(value):
                reason = f"passes '{name}', which is not finite where a removed unit leaves zeros"
                for tensor, zero in zip(operands, pattern, strict=True):
                    if zero:
                        self.labels.lock(tensor, reason, [dim - output.ndim + tensor.ndim])
            keeps &= value == 0
        return keeps

    def has_units(self, tensor: torch.Tensor) -> bool:
        """Whether any dimension carries nodes."""
        return any(nodes is not None for nodes in self.labels.of(tensor))

    def _zero_at(self, tensor: Any, dim: int) -> bool:
        """Whether a tensor is zero at removed units along a dimension, counted from the end."""
        if not isinstance(tensor, torch.Tensor) or tensor.ndim < -dim:
            return False
        return self.labels.of(tensor)[dim] is not None and self.labels.zero_without(tensor)

    def _value(
        self, name: str, func: Any, args: Any, kwargs: Any, operands: Sequence[torch.Tensor], pattern: tuple[bool, ...]
    ) -> float:
        """The largest absolute result where some operands are zero and others have any value; inf: never finite."""
        values = [
            (0,) if zero else self._constant(t) or _SAMPLES[_kind(t)] for t, zero in zip(operands, pattern, strict=True)
        ]
        if sum(len(v) > 1 for v in values) > _MOST_OPERANDS:
            return 1.0
        overload = str(func)
        key = (overload, repr(_shown(args)), repr(_shown(kwargs)), tuple(values), tuple(t.dtype for t in operands))
        if key not in self._at_zero:
            rows = list(zip(*itertools.product(*values), strict=True))
            probes = iter(
                [torch.tensor(row, dtype=t.dtype, device=t.device) for row, t in zip(rows, operands, strict=True)]
            )
            try:
                results = list(tensors_in(func(*_replaced(args, probes), **_replaced(kwargs, probes))))
                sizes = torch.stack([t.to(torch.complex128).abs().flatten() for t in results])
            except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError):
                # it does not accept vectors: nothing is known
                self._at_zero[key] = 1.0
                return 1.0
            finite = torch.isfinite(sizes)
            # where another operand is zero as well (0/0, 0·log 0), the network itself would have no value
            samples = itertools.product(*values)
            usual = [all(v or v is False or len(of) == 1 for v, of in zip(row, values, strict=True)) for row in samples]
            ordinary = finite[:, torch.tensor(usual, device=finite.device)]
            if not bool(ordinary.any()):
                self._at_zero[key] = math.inf
            else:
                self._at_zero[key] = float(sizes[finite].max()) if bool(ordinary.all()) else 1.0
        return self._at_zero[key]

    def _constant(self, tensor: torch.Tensor) -> tuple[Any, ...] | None:
        """The value of a constant in the code; None for anything that could differ."""
        if tensor.numel() != 1 or id(tensor) in self.labels.dependent or id(tensor) in self.labels.weighed:
            return None
        return None if self.labels.name(tensor) is not None else (tensor.detach().reshape(()).tolist(),)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def _kind(tensor: torch.Tensor) -> str:
    return "bool" if tensor.dtype == torch.bool else "float" if tensor.dtype.is_floating_point else "int"


def _shown(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return "tensor"
    if isinstance(value, dict):
        return {key: _shown(item) for key, item in value.items()}
    return [_shown(item) for item in value] if isinstance(value, (tuple, list)) else value


def _replaced(value: Any, probes: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return next(probes)
    if isinstance(value, dict):
        return {key: _replaced(item, probes) for key, item in value.items()}
    return type(value)(_replaced(item, probes) for item in value) if type(value) in (tuple, list) else value
