"""One forward and one backward pass that give relevance of inputs and units.

A torch function mode watches the forward pass and gives convolutions, linear layers, norms, activations and products
a backward of their own; the network itself is neither hooked nor rewired. Axes: N samples, C channels.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from secateur.attribution import composites
from secateur.attribution.composites import Composite, LayerContext
from secateur.attribution.functional import (
    AffineFunction,
    ConvolutionMap,
    IdentityFunction,
    MatrixMap,
    ProductFunction,
    RuleFunction,
)
from secateur.attribution.rules import stabilise
from secateur.core.errors import RequestError, SecateurError

Start = Literal["one", "logit", "loss"]

_CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv3d"})
# for these, plain autograd already shares relevance out: they are linear, or select
_PLAIN = frozenset(
    "relu relu_ relu6 hardtanh clamp clamp_min threshold max_pool1d _max_pool1d max_pool2d _max_pool2d max_pool3d "
    "_max_pool3d adaptive_max_pool2d _adaptive_max_pool2d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d "
    "adaptive_avg_pool2d adaptive_avg_pool3d add __add__ __radd__ add_ sub __sub__ __rsub__ sub_ subtract rsub neg "
    "__neg__ sum mean cat concat concatenate stack split chunk tensor_split unbind __getitem__ select narrow view "
    "view_as reshape flatten unflatten squeeze unsqueeze permute transpose t mT movedim swapaxes expand expand_as "
    "repeat "
    "contiguous clone pad interpolate upsample pixel_shuffle pixel_unshuffle channel_shuffle roll flip dropout "
    "dropout2d "
    "dropout3d feature_dropout alpha_dropout to type float double half bfloat16 div __truediv__ "
    "true_divide".split()
)
_IDENTITY = frozenset(
    "gelu silu hardswish sigmoid hardsigmoid tanh leaky_relu elu celu selu softplus mish prelu swish softsign".split()
)
_PRODUCTS = frozenset({"mul", "__mul__", "__rmul__", "multiply", "mul_"})


@dataclass(frozen=True, eq=False)
class UnitStatistics:
    """What one layer's units did on each sample, [N, C] each; sums run over positions (space or tokens).

    Attributes:
        relevance: Σ a·g, the relevance of the unit.
        gradient: Σ g, the (modified) gradient.
        activation: mean of a over positions.
    """

    relevance: torch.Tensor
    gradient: torch.Tensor
    activation: torch.Tensor

    def centred(self) -> torch.Tensor:
        """Σ (a - ā)·g with ā the unit's mean activation over samples and positions, [N, C]."""
        return self.relevance - self.activation.mean(0, keepdim=True) * self.gradient


@dataclass(frozen=True, eq=False)
class Relevance:
    """Relevance of the inputs and of every weighted layer's units.

    Attributes:
        input: tensor of the inputs' shape.
        units: by layer name, [samples, units], summed over positions; taken behind a batch norm that directly follows.
        logits: what the network said, [N, classes].
    """

    input: torch.Tensor
    units: dict[str, torch.Tensor]
    logits: torch.Tensor


def attribute(
    model: nn.Module,
    inputs: torch.Tensor,
    targets: torch.Tensor | Iterable[int],
    composite: str | Composite = "epsilon",
    *,
    start: Start = "one",
    bounds: tuple[float, float] | None = None,
    batch_size: int = 64,
) -> Relevance:
    """Layer-wise relevance propagation from the target logits to the inputs and all units.

    Args:
        model: a network giving logits [N, classes]; it comes back as it was.
        inputs: [N, ...] floating point.
        targets: class index of each sample, [N].
        composite: name or object, see `secateur.attribution.composites`.
        start: ``one``: relevance 1 at the target logit; ``logit``: the logit's value.
        bounds: lowest and highest possible input, for the z^B-rule; None: read off ``inputs``.
        batch_size: samples per pass; the result does not depend on it.

    Raises:
        RequestError: for inputs or targets that do not fit, or an operation without a rule.
        SecateurError: when relevance is not finite, naming layer and sample.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False))
        >>> relevance = attribute(net, torch.rand(2, 4), [0, 2])
        >>> relevance.input.shape, sorted(relevance.units), relevance.input.sum(1).round(decimals=3).tolist()
        (torch.Size([2, 4]), ['0', '2'], [1.0, 1.0])
    """
    chosen = composites.get(composite)
    labels = _targets(targets, inputs)
    if bounds is None and inputs.numel():
        bounds = (float(inputs.min()), float(inputs.max()))
    parts = [
        _run(model, x, y, chosen, start, bounds, "makers")
        for x, y in zip(inputs.split(batch_size), labels.split(batch_size), strict=True)
    ]
    units = {name: torch.cat([p.stats[name].relevance for p in parts]) for name in parts[0].stats}
    return Relevance(torch.cat([p.input for p in parts]), units, torch.cat([p.logits for p in parts]))


def unit_statistics(
    model: nn.Module,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    composite: str | Composite | None,
    *,
    start: Start = "one",
    bounds: tuple[float, float] | None = None,
    at: Literal["makers", "readers"] = "readers",
) -> dict[str, UnitStatistics]:
    """Per-sample unit statistics of every weighted layer, from one pass over the batches.

    At ``makers``, a layer's statistics are of its outputs (behind a batch norm that directly follows), [N, outputs];
    at ``readers``, of its inputs, with only what comes back through this layer, [N, inputs].

    Args:
        model: a network giving logits; it comes back as it was.
        batches: (inputs, targets) pairs.
        composite: rules of the backward pass; None: the plain gradient.
        start: see `attribute`; ``loss``: the gradient of each sample's cross-entropy.
        bounds: for the z^B-rule.
        at: where units are looked at.
    """
    chosen = None if composite is None else composites.get(composite)
    parts = [_run(model, x, _targets(y, x), chosen, start, bounds, at).stats for x, y in batches]
    if not parts:
        raise RequestError("there are no reference samples to look at")
    return {
        name: UnitStatistics(
            *(torch.cat([getattr(p[name], f) for p in parts]) for f in ("relevance", "gradient", "activation"))
        )
        for name in parts[0]
    }


def _targets(targets: torch.Tensor | Iterable[int], inputs: torch.Tensor) -> torch.Tensor:
    if not inputs.is_floating_point():
        raise RequestError(f"inputs must be floating point, got {inputs.dtype}; normalise them first")
    if inputs.shape[0] == 0:
        raise RequestError("inputs are empty; give at least one sample")
    labels = torch.as_tensor(targets if isinstance(targets, torch.Tensor) else list(targets))
    labels = labels.to(device=inputs.device, dtype=torch.int64)
    if labels.shape != inputs.shape[:1]:
        raise RequestError(
            f"targets must be one class index per sample [{len(inputs)}], got shape {tuple(labels.shape)}"
        )
    return labels


@dataclass(frozen=True, eq=False)
class _Pass:
    input: torch.Tensor
    logits: torch.Tensor
    stats: dict[str, UnitStatistics]


def _run(
    model: nn.Module,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    composite: Composite | None,
    start: Start,
    bounds: tuple[float, float] | None,
    at: Literal["makers", "readers"],
) -> _Pass:
    device = next((p.device for p in model.parameters()), inputs.device)
    x = inputs.detach().to(device).clone().requires_grad_(True)
    targets = targets.to(device)
    with borrowed(model):
        count = 0
        if composite is not None:
            counter = _Mode(model, None, None, 0)
            with torch.no_grad(), counter:
                model(x[:1])
            count = counter.index
        mode = _Mode(model, composite, bounds, count, at)
        with torch.enable_grad(), mode.forgetting():
            with mode:
                output = model(x)
            logits = output[0] if isinstance(output, tuple) else output
            if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
                raise RequestError("the network must give logits of shape [N, classes]")
            if int(targets.max()) >= logits.shape[1] or int(targets.min()) < 0:
                raise RequestError(f"target {int(targets.max())} is out of range for {logits.shape[1]} outputs")
            gradient = _start_gradient(logits.detach(), targets, start)
            (found,) = torch.autograd.grad(logits, x, gradient, allow_unused=True)
    if found is None:
        raise RequestError("the logits do not depend on the inputs")
    relevance = x.detach() * found
    for direct in mode.direct:
        if direct.shape != relevance.shape:
            raise RequestError("a rule for the input layer met a layer that does not read the network's input as it is")
        relevance = relevance + direct
    _check_finite("the input", relevance)
    return _Pass(relevance, logits.detach(), mode.statistics())


def _start_gradient(logits: torch.Tensor, targets: torch.Tensor, start: Start) -> torch.Tensor:
    """Modified gradient at the logits; R = logit · g there."""
    hot = F.one_hot(targets, logits.shape[1]).to(logits.dtype)
    if start == "one":
        return hot / stabilise(logits, torch.finfo(logits.dtype).tiny)
    if start == "logit":
        return hot
    if start == "loss":
        return logits.softmax(1) - hot
    raise RequestError(f"unknown start '{start}'; known: one, logit, loss")


@contextlib.contextmanager
def borrowed(model: nn.Module) -> Iterator[None]:
    """Eval mode, no parameter gradients; everything as it was afterwards, also after an exception."""
    modes = [(module, module.training) for module in model.modules()]
    wanted = [(p, p.requires_grad) for p in model.parameters()]
    try:
        model.eval()
        for parameter, _ in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, flag in wanted:
            parameter.requires_grad_(flag)


@dataclass(eq=False)
class _Tap:
    name: str
    channel_dim: int
    handle: Any


class _Mode(TorchFunctionMode):
    """Watches functions of one forward pass; ``composite`` None leaves gradients plain."""

    def __init__(
        self,
        model: nn.Module,
        composite: Composite | None,
        bounds: tuple[float, float] | None,
        count: int,
        at: Literal["makers", "readers"] = "makers",
    ) -> None:
        super().__init__()
        self.at = at
        self.composite = composite
        self.bounds = bounds
        self.count = count
        self.index = 0
        self.direct: list[torch.Tensor] = []
        self._names = {id(p): name.removesuffix(".weight") for name, p in model.named_parameters()}
        self._made: dict[int, tuple[torch.Tensor, torch.Tensor, Any, Any, _Tap | None]] = {}
        self._order: list[str] = []
        self._sums: dict[str, UnitStatistics] = {}
        self._hidden: set[int] = set()
        self._held: list[Any] = []
        self._taps: list[_Tap] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        args, kwargs = _not_in_place(func, args, kwargs)
        if name in _CONVOLUTIONS:
            result = self._weighted(func, args, kwargs, "convolution")
        elif name == "linear":
            result = self._weighted(func, args, kwargs, "linear")
        elif name == "batch_norm":
            result = self._batch_norm(func, args, kwargs)
        elif self.composite is not None:
            result = self._other(func, name, args, kwargs)
        else:
            result = func(*args, **kwargs)
        if self.composite is not None:
            self._follow(args, kwargs, result)
        return result

    # -- weighted layers ----------------------------------------------------------------------------------------

    def _weighted(self, func: Any, args: Any, kwargs: Any, kind: Literal["convolution", "linear"]) -> torch.Tensor:
        call = inspect.getcallargs(conv_call if kind == "convolution" else linear_call, *args, **kwargs)
        x, weight = call["input"], call["weight"]
        index, self.index = self.index, self.index + 1
        name = self._names.get(id(weight))
        channel_dim = 1 if kind == "convolution" else -1
        first = id(x) not in self._hidden
        if self.at == "readers" and x.requires_grad:
            # an alias of its own, so that the gradient is what comes back through this reader alone
            x = call["input"] = x.view_as(x)
            self._tap(name, x, x.detach(), channel_dim)
        if self.composite is None or not x.requires_grad:
            z: torch.Tensor = func(**call)
            tap = self._tap(name, z, z.detach().clone(), channel_dim) if self.at == "makers" else None
            self._made[id(z)] = (z, x, None, None, tap)
            return z
        rule = self.composite.choose(LayerContext(kind, first, index, self.count, self.bounds))
        op = convolution_map(x, call) if kind == "convolution" else MatrixMap(weight, call["bias"])
        with torch.no_grad():
            raw = func(**call)
        z = RuleFunction.apply(x, raw, op, rule, self.direct.append)
        tap = self._tap(name, z, raw, channel_dim) if self.at == "makers" else None
        self._made[id(z)] = (z, x, op, rule, tap)
        self._hidden.add(id(z))
        return z

    def _batch_norm(self, func: Any, args: Any, kwargs: Any) -> torch.Tensor:
        call = inspect.getcallargs(norm_call, *args, **kwargs)
        x = call["input"]
        made = self._made.get(id(x))
        if self.composite is None or not x.requires_grad:
            y: torch.Tensor = func(*args, **kwargs)
            value = y.detach().clone()
        elif call["training"] or call["running_mean"] is None:
            raise RequestError(
                "a batch norm without running statistics has no relevance rule; train it with statistics"
            )
        else:
            with torch.no_grad():
                y = func(*args, **kwargs)
                scale = (call["running_var"] + call["eps"]).rsqrt()
                scale = scale if call["weight"] is None else scale * call["weight"]
                shift = -call["running_mean"] * scale
                shift = shift if call["bias"] is None else shift + call["bias"]
            value = y
            if made is not None:
                y = RuleFunction.apply(made[1], y, made[2].folded(scale, shift), made[3], self.direct.append)
            else:
                y = AffineFunction.apply(x, y, scale.reshape(1, -1, *[1] * (x.ndim - 2)), self.composite.epsilon)
        if made is not None and made[4] is not None:
            # the unit is what leaves the norm
            tap = made[4]
            tap.handle.remove()
            self._order.remove(tap.name)
            self._tap(tap.name, y, value, tap.channel_dim)
        return y

    # -- everything else ----------------------------------------------------------------------------------------

    def _other(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        assert self.composite is not None
        tensors = [a for a in _flat((args, kwargs)) if a.requires_grad]
        if not tensors or name in _PLAIN or name.startswith("__get"):
            if name in ("div", "__truediv__", "true_divide") and len(args) > 1 and _depends(args[1]):
                raise RequestError(
                    "a division by an activation has no relevance rule; use criterion='taylor' or 'weight'"
                )
            return func(*args, **kwargs)
        if name in _IDENTITY:
            with torch.no_grad():
                y = func(*args, **kwargs)
            return IdentityFunction.apply(args[0], y, self.composite.epsilon)
        if name in _PRODUCTS:
            a, b = args[0], args[1]
            if name == "mul_" and _depends(b):
                raise RequestError("an in-place product of activations has no relevance rule; write a = a * b instead")
            if name == "mul_":
                return func(*args, **kwargs)
            if _depends(a) and _depends(b):
                return ProductFunction.apply(a, b)
            return torch.mul(a, b)
        if name == "layer_norm":
            return _layer_norm(*args, **kwargs)
        result = func(*args, **kwargs)
        if any(t.requires_grad for t in _flat(result)):
            known = "convolution, linear, norms, pooling, activations, sums, products, reshaping"
            raise RequestError(
                f"operation '{name}' has no relevance rule (there are rules for {known}); use another criterion"
            )
        return result

    def _follow(self, args: Any, kwargs: Any, result: Any) -> None:
        """Remember which tensors lie behind a weighted layer."""
        outputs = list(_flat(result))
        if outputs and any(id(t) in self._hidden for t in _flat((args, kwargs))):
            self._hidden.update(id(t) for t in outputs)
        self._held.append(outputs)  # identities stay unique while the pass runs

    # -- units --------------------------------------------------------------------------------------------------

    def _tap(self, name: str | None, tensor: torch.Tensor, value: torch.Tensor, channel_dim: int) -> _Tap | None:
        if name is None or not tensor.requires_grad:
            return None

        version = value._version

        def collect(g: torch.Tensor) -> None:
            if value._version != version:
                raise SecateurError(f"what '{name}' reads is overwritten later in the pass; avoid in-place operations")
            dims = [d for d in range(1, g.ndim) if d != channel_dim % g.ndim]
            product = value * g
            found = UnitStatistics(
                product.sum(dims) if dims else product,
                g.sum(dims) if dims else g,
                value.mean(dims) if dims else value,
            )
            _check_finite(f"layer '{name}'", found.relevance)
            before = self._sums.get(name)
            if before is not None:
                found = UnitStatistics(
                    before.relevance + found.relevance,
                    before.gradient + found.gradient,
                    (before.activation + found.activation) / 2,
                )
            self._sums[name] = found

        self._order.append(name)
        self._taps.append(_Tap(name, channel_dim, tensor.register_hook(collect)))
        return self._taps[-1]

    @contextlib.contextmanager
    def forgetting(self) -> Iterator[None]:
        """Let go of every tensor of the pass at the end.

        Hooks hold the mode and the mode holds tensors: a cycle through autograd that no collector would find.
        """
        try:
            yield
        finally:
            for tap in self._taps:
                tap.handle.remove()
            self._made.clear()
            self._held.clear()
            self._taps.clear()

    def statistics(self) -> dict[str, UnitStatistics]:
        """Unit statistics by layer, in order of execution."""
        return {name: self._sums[name] for name in dict.fromkeys(self._order) if name in self._sums}


def _check_finite(where: str, relevance: torch.Tensor) -> None:
    if not torch.isfinite(relevance).all():
        sample = int((~torch.isfinite(relevance)).flatten(1).any(1).nonzero()[0, 0])
        raise SecateurError(
            f"relevance or gradient of {where} is not finite for sample {sample}; look for NaN in the weights or inputs"
        )


def _flat(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _flat(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _flat(item)


def _depends(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad


@cache
def _signature(func: Any) -> inspect.Signature | None:
    try:
        found = inspect.signature(func)
    except (TypeError, ValueError):
        return None
    return found if "inplace" in found.parameters else None


def _not_in_place(func: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    signature = _signature(func)
    if signature is None:
        return args, kwargs
    bound = signature.bind(*args, **kwargs)
    if bound.arguments.get("inplace"):
        bound.arguments["inplace"] = False
    return bound.args, bound.kwargs


def conv_call(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):  # type: ignore[no-untyped-def]
    """Argument names of F.conv*d."""


def linear_call(input, weight, bias=None):  # type: ignore[no-untyped-def]
    """Argument names of F.linear."""


def norm_call(  # type: ignore[no-untyped-def]
    input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
):
    """Argument names of F.batch_norm."""


def convolution_map(x: torch.Tensor, call: dict[str, Any]) -> ConvolutionMap:
    """The linear map of a convolution call, with all sizes spelt out per dimension."""
    dims = x.ndim - 2
    weight = call["weight"]

    def each(value: Any) -> tuple[int, ...]:
        return (value,) * dims if isinstance(value, int) else tuple(value)

    stride, dilation, padding = each(call["stride"]), each(call["dilation"]), call["padding"]
    if isinstance(padding, str):
        reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        if padding == "same" and any(r % 2 for r in reach):
            raise RequestError("padding='same' with an even kernel has no relevance rule; pad explicitly")
        padding = tuple(r // 2 for r in reach) if padding == "same" else (0,) * dims
    return ConvolutionMap(weight, call["bias"], stride, each(padding), dilation, call["groups"])


def _layer_norm(
    input: torch.Tensor,
    normalized_shape: Any,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    """Layer norm with the gradient stopped through the standard deviation."""
    dims = tuple(range(input.ndim - len(normalized_shape), input.ndim))
    centred = input - input.mean(dims, keepdim=True)
    y = centred * (centred.detach().pow(2).mean(dims, keepdim=True) + eps).rsqrt()
    y = y if weight is None else y * weight
    return y if bias is None else y + bias
