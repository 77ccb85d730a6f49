"""Calls of weighted layers: the tensors kept from the forward pass, and the rule in the backward pass."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch

from secateur.attribution.composites import Composite, LayerContext
from secateur.attribution.functional import ConvolutionMap, TransposedMap, WeightedFunction, in_dtype
from secateur.attribution.names import At
from secateur.attribution.rules import Epsilon, LinearMap, Rule, damped
from secateur.core.errors import RequestError

Kind = Literal["convolution", "linear"]

_PLAIN_GRADIENT = Epsilon(0)


@dataclass(eq=False)
class Observation:
    """A tensor whose units are observed: its value and (modified) gradient, or the relevance itself.

    Attributes:
        a: the tensor's value.
        g: its gradient; None when a rule returned relevance only.
        r: relevance of each element; the memory is reused afterwards.
        dim: dimension of the units.
    """

    a: torch.Tensor
    g: torch.Tensor | None
    r: torch.Tensor
    dim: int


@dataclass(eq=False)
class Kept:
    """Tensors that a backward step needs: aliases outside the graph, which are copied before they are overwritten."""

    x: torch.Tensor | None = None
    z: torch.Tensor | None = None


@dataclass(eq=False, kw_only=True)
class Call(Kept):
    """One call of a weighted layer; ``fold`` holds scale and shift of the batch norm after it."""

    name: str
    kind: Kind
    first: bool
    op: LinearMap
    index: int
    rule: Rule | None = None
    fold: tuple[torch.Tensor, torch.Tensor] | None = None

    def map(self, dtype: torch.dtype) -> LinearMap:
        """The linear map of the call, with the batch norm after it folded in."""
        op = self.op if self.fold is None else self.op.folded(*self.fold)  # type: ignore[attr-defined]
        return in_dtype(op, dtype)


class Layers:
    """The weighted layers of one pass; see `secateur.attribution.watch.Watch` for the arguments."""

    def __init__(
        self,
        samples: int,
        composite: Composite,
        bounds: tuple[float, float] | None,
        at: At,
        observe: Callable[[str, Observation], None],
        account: Callable[[str, torch.Tensor], None] | None,
        exact: bool,
    ) -> None:
        self.samples = samples
        self.composite = composite
        self.bounds = bounds
        self.at = at
        self.observe = observe
        self.account = account
        self.exact = exact
        self.direct: list[torch.Tensor] = []
        # by layer in order of execution, the number of observed units; 0 where there are none
        self.order: dict[str, int] = {}
        self.flat: list[bool] = []
        self.anchor = torch.zeros((), requires_grad=True)
        self._shared: dict[int, list[weakref.ref[Kept]]] = {}
        self._buffer: torch.Tensor | None = None
        self._largest = 0

    def forget(self) -> None:
        """Release all tensors of the pass."""
        self._shared.clear()
        self._buffer = None

    def each_sample(self, relevance: torch.Tensor) -> torch.Tensor:
        """Sum per sample, [N]; windows may be folded into the first dimension."""
        if relevance.numel() % self.samples or relevance.shape[0] % self.samples:
            raise RequestError(
                f"relevance of shape {list(relevance.shape)} does not belong to one of {self.samples} samples each; "
                "account=False does not record absorbed relevance"
            )
        return relevance.reshape(self.samples, -1).sum(1)

    def apply(self, record: Call, x: torch.Tensor, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Run a layer, with its norm if ``record.fold``, and register its backward step."""
        choose = self.composite.choose
        if choose is None:
            record.rule = _PLAIN_GRADIENT
        elif not self.composite.by_depth:
            record.rule = choose(LayerContext(record.kind, record.first, self.bounds))
        keep = record.rule is None or record.rule.needs_input or self.at == "readers" or self.account is not None
        if keep:
            record.x = x.detach()
            self.share(record, record.x)

        def run() -> torch.Tensor:
            z = compute()
            record.z = z.detach()
            return z

        z: torch.Tensor = WeightedFunction.apply(x, self.anchor, run, partial(self._backward, record))
        assert record.z is not None
        self._largest = max(self._largest, z.numel())
        self.share(record, record.z)
        observed = z if self.at == "makers" else x if x.requires_grad else None
        width = 0 if observed is None else observed.shape[record.op.channel_dim]
        self.order[record.name] = max(width, self.order.get(record.name, 0))
        return z

    def _backward(self, record: Call, g: torch.Tensor, wanted: bool) -> torch.Tensor | None:
        """Apply the rule, and release the call's tensors at once, so that the pass needs no extra memory."""
        try:
            return self._passed(record, g, wanted)
        finally:
            record.x = record.z = record.op = record.fold = None  # type: ignore[assignment]

    def _passed(self, record: Call, g: torch.Tensor, wanted: bool) -> torch.Tensor | None:
        assert record.z is not None
        rule = record.rule or self._by_depth(record)
        z = record.z.to(g.dtype)
        r = torch.mul(g, z, out=self._scratch(g))
        op = record.op
        if self.at == "makers":
            self.observe(record.name, Observation(z, g, r, op.channel_dim))
        if not wanted:
            return None
        account = self.account is not None
        before = self.each_sample(r) if account else None
        x = record.x if record.x is None else record.x.to(g.dtype)
        if isinstance(rule, Epsilon) and record.fold is not None and z.numel() < op.weight.numel():
            # in late layers, scaling the gradient is cheaper than folding the norm into the weight
            s = damped(g, z, rule.epsilon, r) * record.fold[0].reshape(-1, *[1] * (z.ndim - 2))
            op = in_dtype(op, g.dtype)
            result = op.transpose(s.to(g.dtype), op.weight)
        else:
            op = record.map(g.dtype)
            result = rule.backward(g, r, x, z, op)  # type: ignore[arg-type]
        direct = rule.gives_relevance
        if self.at == "readers":
            assert x is not None
            g_x, r_x = (None, result) if direct else (result, x * result)
            self.observe(record.name, Observation(x, g_x, r_x, op.channel_dim))
        if self.account is not None:
            assert x is not None
            assert before is not None
            self.account(record.name, before - self.each_sample(result if direct else x * result))
        if direct:
            if not record.first:
                raise RequestError(f"layer '{record.name}': {rule!r} is for layers that read the network's input")
            self.direct.append(result)
            return torch.zeros_like(result)
        return result

    def _scratch(self, like: torch.Tensor) -> torch.Tensor:
        """Memory that all layers share, because allocating new memory costs more than the computation."""
        if self._buffer is None or self._buffer.numel() < like.numel() or self._buffer.dtype != like.dtype:
            self._buffer = torch.empty(max(self._largest, like.numel()), dtype=like.dtype, device=like.device)
        return (
            self._buffer[: like.numel()].as_strided(like.shape, like.stride())
            if _dense(like)
            else torch.empty_like(like)
        )

    def _by_depth(self, record: Call) -> Rule:
        """The rule of a composite with ``by_depth``; the number of layers is known only in the backward pass."""
        assert self.composite.choose is not None
        count = len(self.flat)
        # the classifier reads one vector per sample; if all layers do, it is the last layer
        body = max((i + 1 for i in range(count) if not self.flat[i]), default=count - 1)
        classifier = record.index >= body
        depth = 1.0 if classifier else record.index / max(1, body - 1)
        return self.composite.choose(LayerContext(record.kind, record.first, self.bounds, depth, classifier))

    def share(self, record: Kept, tensor: torch.Tensor) -> None:
        """Note that a call keeps a tensor's memory."""
        self._shared.setdefault(tensor.untyped_storage().data_ptr(), []).append(weakref.ref(record))

    def rescue(self, name: str, tensor: torch.Tensor) -> None:
        """Copy what calls keep, before the operation ``name`` overwrites ``tensor``."""
        address = tensor.untyped_storage().data_ptr()
        for reference in self._shared.get(address, ()):
            record = reference()
            if record is None:
                continue
            if record.x is not None and record.x.untyped_storage().data_ptr() == address:
                record.x = record.x.clone()
            # a ReLU passes no gradient where z < 0 and keeps z elsewhere: no copy, unless z itself is observed
            z = record.z
            if (
                (self.exact or name not in ("relu_", "relu"))
                and z is not None
                and z.untyped_storage().data_ptr() == address
            ):
                record.z = z.clone()


def _dense(tensor: torch.Tensor) -> bool:
    """Whether a tensor has no gaps or overlaps in memory, with any order of dimensions."""
    return tensor.is_contiguous() or (tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last))


# F.conv*d, F.conv_transpose*d, F.linear and F.batch_norm have no Python signature


def conv_call(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):  # type: ignore[no-untyped-def]
    """Signature of F.conv*d."""


def conv_transpose_call(  # type: ignore[no-untyped-def]
    input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1
):
    """Signature of F.conv_transpose*d."""


def linear_call(input, weight, bias=None):  # type: ignore[no-untyped-def]
    """Signature of F.linear."""


def norm_call(  # type: ignore[no-untyped-def]
    input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
):
    """Signature of F.batch_norm."""


def each(value: Any, x: torch.Tensor) -> tuple[int, ...]:
    """One value per spatial dimension of x."""
    return (value,) * (x.ndim - 2) if isinstance(value, int) else tuple(value)


def convolution_map(x: torch.Tensor, call: dict[str, Any]) -> ConvolutionMap:
    """The linear map of a convolution call, with all arguments given per dimension."""
    weight, padding, dilation = call["weight"], call["padding"], each(call["dilation"], x)
    if isinstance(padding, str):
        reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        if padding == "same" and any(r % 2 for r in reach):
            raise RequestError("padding='same' with an even kernel cannot be read; pad explicitly")
        padding = tuple(r // 2 if padding == "same" else 0 for r in reach)
    return ConvolutionMap(
        weight, call["bias"], each(call["stride"], x), each(padding, x), dilation, call["groups"], tuple(x.shape[2:])
    )


def transposed_map(x: torch.Tensor, call: dict[str, Any]) -> TransposedMap:
    """The linear map of a transposed convolution call."""
    stride, padding, more, dilation = (
        each(call[key], x) for key in ("stride", "padding", "output_padding", "dilation")
    )
    return TransposedMap(call["weight"], call["bias"], stride, padding, more, dilation, call["groups"])
