"""The layers of weights, and products of activations with a weight, which are linear layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

MATRIX_PRODUCTS = frozenset("matmul __matmul__ __rmatmul__ mm addmm einsum".split())


@dataclass(frozen=True)
class Owner:
    """The layer of a weight, or of some rows of a weight.

    Attributes:
        name: name of the parameter, without ``.weight``.
        rows: number of rows of the whole weight; 0 when all of them are used.
        first: the first row that is used.
    """

    name: str
    rows: int = 0
    first: int = 0


class Owners:
    """Finds the layers of weights."""

    def __init__(self, model: nn.Module) -> None:
        self._names = {id(p): name.removesuffix(".weight") for name, p in model.named_parameters()}

    def of(self, weight: torch.Tensor) -> Owner | None:
        """The layer of a parameter, of a transposed one, or of rows of one; None for any other tensor."""
        if id(weight) in self._names:
            return Owner(self._names[id(weight)])
        base = weight._base
        if base is None or id(base) not in self._names:
            return None
        if weight.ndim == base.ndim == 2 and weight.stride() == base.stride()[::-1] and weight.shape == base.T.shape:
            return Owner(self._names[id(base)])
        if weight.stride(0) != base.stride(0):
            return None
        return Owner(self._names[id(base)], base.shape[0], int(weight.storage_offset()) // max(1, base.stride(0)))

    def owns_matrix(self, value: Any) -> bool:
        """Whether a value is a weight of a layer with two dimensions."""
        return isinstance(value, torch.Tensor) and value.ndim == 2 and self.of(value) is not None


@dataclass(frozen=True, eq=False)
class Product:
    """A linear layer written as a product: ``arrange(linear(features(), weight(), bias))``."""

    features: Callable[[], torch.Tensor]
    weight: Callable[[], torch.Tensor]
    bias: torch.Tensor | None
    arrange: Callable[[torch.Tensor], torch.Tensor]

    def __call__(self) -> torch.Tensor:
        """Compute the product; call it within a function mode that sees its steps."""
        return self.arrange(F.linear(self.features(), self.weight(), self.bias))


def linear_product(name: str, args: Any, kwargs: Any, is_weight: Callable[[Any], bool]) -> Product | None:
    """The linear layer that a call of a matrix product computes, along any dimension; None where it is none.

    Args:
        name: name of the operation: matmul, mm, addmm, einsum, and their operators.
        args: positional arguments of the call.
        kwargs: keyword arguments of the call.
        is_weight: whether a value is a weight with two dimensions.
    """
    if name == "einsum":
        equation, *operands = args
        if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
            operands = list(operands[0])
        return _einsum(equation, operands, is_weight)
    if name == "addmm":
        return _addmm(args, kwargs, is_weight)
    if name not in MATRIX_PRODUCTS:
        return None
    operands = [*args, *(kwargs[key] for key in ("input", "self", "other", "mat2", "tensor2") if key in kwargs)]
    if len(operands) != 2:
        return None
    a, b = reversed(operands) if name == "__rmatmul__" else operands
    if is_weight(b) and isinstance(a, torch.Tensor) and a.ndim >= 2:
        return Product(lambda: a, lambda: b.T, None, lambda y: y)
    if is_weight(a) and isinstance(b, torch.Tensor) and b.ndim >= 2:
        return Product(lambda: b.mT, lambda: a, None, lambda y: y.mT)
    return None


def _addmm(args: Any, kwargs: Any, is_weight: Callable[[Any], bool]) -> Product | None:
    given = dict(zip(("input", "mat1", "mat2"), args, strict=False)) | kwargs
    bias, x, weight = given.get("input"), given.get("mat1"), given.get("mat2")
    if kwargs.get("beta", 1) != 1 or kwargs.get("alpha", 1) != 1 or not is_weight(weight):
        return None
    if not (isinstance(bias, torch.Tensor) and isinstance(x, torch.Tensor) and isinstance(weight, torch.Tensor)):
        return None
    if bias.ndim == 1:
        return Product(lambda: x, lambda: weight.T, bias, lambda y: y)
    return Product(lambda: x, lambda: weight.T, None, lambda y: y + bias)


def _einsum(equation: Any, operands: list[Any], is_weight: Callable[[Any], bool]) -> Product | None:
    if not isinstance(equation, str) or len(operands) != 2 or equation.count("->") != 1:
        return None
    left, right = equation.replace(" ", "").split("->")
    terms = left.split(",")
    for weight, x, term, other in ((operands[1], operands[0], *terms[::-1]), (operands[0], operands[1], *terms)):
        if not is_weight(weight) or not isinstance(x, torch.Tensor) or len(set(term)) != 2 or "." in term:
            continue
        read = _symbols(other, x.ndim)
        out = _symbols(right, x.ndim)
        summed = [s for s in term if s in read and s not in out]
        produced = [s for s in term if s in out and s not in read]
        if len(set(read)) != len(read) or len(summed) != 1 or len(produced) != 1:
            continue
        result = [*(s for s in read if s != summed[0]), produced[0]]
        if sorted(result) != sorted(out):
            continue
        return _moved(x, weight, read.index(summed[0]), term[0] == summed[0], [result.index(s) for s in out])
    return None


def _moved(x: torch.Tensor, weight: torch.Tensor, dim: int, turned: bool, order: list[int]) -> Product:
    return Product(lambda: x.movedim(dim, -1), lambda: weight.T if turned else weight, None, lambda y: y.permute(order))


def _symbols(term: str, ndim: int) -> list[str]:
    """The subscripts of a term; those of an ellipsis are numbers, for a result with the activation's dimensions."""
    if "..." not in term:
        return list(term)
    before, after = term.split("...")
    return [*before, *(str(i) for i in range(ndim - len(before) - len(after))), *after]
