"""Watches one forward pass and modifies the backward pass of its operations.

A torch function mode sees every operation; the network itself is not changed and has no hooks. Axes: N samples, C
channels, H heads.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from types import FrameType
from typing import Any, cast

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from secateur.attribution.composites import Composite
from secateur.attribution.functional import (
    AffineFunction,
    IdentityFunction,
    MatrixMap,
    NormFunction,
    RectifiedFunction,
    SoftmaxPlusFunction,
    attention_plus,
)
from secateur.attribution.layers import (
    Call,
    Kept,
    Kind,
    Layers,
    Observation,
    conv_call,
    conv_transpose_call,
    convolution_map,
    each,
    linear_call,
    norm_call,
    transposed_map,
)
from secateur.attribution.names import At
from secateur.attribution.operations import (
    DECOMPOSITIONS,
    Treatment,
    at_zero,
    bound,
    in_place,
    out_of_place,
    treatment_of,
)
from secateur.attribution.products import MATRIX_PRODUCTS, Owners, linear_product
from secateur.attribution.rules import damped
from secateur.attribution.similarity import SimilarityFunction
from secateur.core.errors import RequestError, SecateurError
from secateur.structure.base import tensors_in

_CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv3d"})
_TRANSPOSED = frozenset({"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"})
_MATRIX_PRODUCTS = frozenset({"matmul", "__matmul__", "__rmatmul__", "bmm", "mm", "mv", "einsum"})
_WITH_CONSTANTS = frozenset(
    "add radd iadd sub rsub isub subtract cat concat concatenate stack hstack vstack masked_fill where index_fill pad "
    "maximum minimum".split()
)


@dataclass(eq=False)
class _Facts:
    """What is known about a tensor that depends on the inputs.

    Attributes:
        hidden: it depends on the output of a weighted layer.
        constant: it is treated as a constant.
        attention: it holds attention weights.
        seen: all operations of its graph were watched.
        call: the weighted layer whose unchanged output it is; source: the input of that layer.
    """

    hidden: bool = False
    constant: bool = False
    attention: bool = False
    seen: bool = True
    call: Call | None = None
    source: torch.Tensor | None = None


class Watch(TorchFunctionMode):
    """One watched forward pass.

    Args:
        model: the network, for the names of its layers.
        samples: number of samples, N.
        composite: the composite that chooses the rules.
        bounds: lowest and highest possible input, for the z^B-rule.
        at: observe units where they are produced or where they are read.
        observe: called with (layer name, `Observation`) during the backward pass.
        account: called with (where, absorbed relevance [N]) during the backward pass; None: do not record it.
        exact: whether observations need every activation, also where the gradient is 0 (before an in-place ReLU).
        constants: observe layers that do not depend on the inputs, too (N = 1, or their units belong to no sample).
    """

    def __init__(
        self,
        model: nn.Module,
        samples: int,
        composite: Composite,
        bounds: tuple[float, float] | None,
        at: At,
        observe: Callable[[str, Observation], None],
        account: Callable[[str, torch.Tensor], None] | None = None,
        exact: bool = False,
        constants: bool = False,
    ) -> None:
        super().__init__()
        self.composite = composite
        self.constants = constants
        self._owners = Owners(model)
        self._token_ids = False
        self.account = account
        self.layers = Layers(samples, composite, bounds, at, observe, account, exact)
        self._by_name = dict(model.named_modules())
        self._modules = {id(module): name for name, module in self._by_name.items()}
        self._names: dict[int, str] = {id(p): name.removesuffix(".weight") for name, p in model.named_parameters()}
        self._facts: Any = WeakTensorKeyDictionary()
        self._rests: Any = WeakTensorKeyDictionary()  # f(0) of activations where it is not 0
        self._handles: list[Any] = []

    def begin(self, x: torch.Tensor) -> None:
        """Register the network's input: activations, or token ids, at whose embeddings gradients end."""
        self._token_ids = not x.is_floating_point()
        if not self._token_ids:
            self._facts[x] = _Facts()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        given = list(tensors_in((args, kwargs)))
        known = [t for t in given if t in self._facts]
        if self.composite.choose is not None:
            self.check_seen(given)
        if not known:
            if self._token_ids and name in ("embedding", "embedding_bag"):
                return self._embedding(func, args, kwargs)
            layer = self._constant_layer(func, name, args, kwargs) if self.constants else None
            return func(*args, **kwargs) if layer is None else layer
        tensors = [t for t in known if not self._facts[t].constant]
        if not tensors:
            result = func(*args, **kwargs)
            self._follow(name, known, result)
            return result
        overwrites = in_place(name, kwargs)
        target = args[0] if overwrites and args else kwargs.get("input") if overwrites else None
        if target is not None:
            facts = self._facts.get(target)
            if facts is not None:
                facts.call = facts.source = None  # no longer the unchanged output of a layer
            self.layers.rescue(name, target)
        result = self._handle(func, name, args, kwargs, tensors, overwrites)
        self._follow(name, tensors, (result, target))
        return result

    def _handle(self, func: Any, name: str, args: Any, kwargs: Any, tensors: list[torch.Tensor], over: bool) -> Any:
        if name in _CONVOLUTIONS or name in _TRANSPOSED:
            call = bound(conv_call if name in _CONVOLUTIONS else conv_transpose_call, args, kwargs)
            return self._weighted(func, call, "convolution")
        if name == "linear":
            return self._weighted(func, bound(linear_call, args, kwargs), "linear")
        if name == "batch_norm":
            return self._batch_norm(func, bound(norm_call, args, kwargs))
        if name == "multi_head_attention_forward":
            return self._decomposed(name, args, kwargs)  # it contains weighted layers
        if name in MATRIX_PRODUCTS:
            product = linear_product(name, args, kwargs, lambda v: self._owners.owns_matrix(v) and not self._depends(v))
            if product is not None:
                with self:
                    return product()
        if name == "addmm":
            return self._decomposed(name, args, kwargs)
        if name == "similarity_maps":
            return self._similarities(func, *args, **kwargs)
        if self.composite.choose is None:
            return self._plain_gradient(func, name, args, kwargs, over)
        return self._ruled(func, name, args, kwargs, tensors, over)

    # -- weighted layers ----------------------------------------------------------------------------------------

    def _weighted(self, func: Any, call: dict[str, Any], kind: Kind) -> torch.Tensor:
        x, weight = call["input"], call["weight"]
        if self._depends(weight):
            raise self._no_rule(func.__name__, "with a weight that depends on the input")
        name = self._layer_name(func, weight)
        transposed = func.__name__ in _TRANSPOSED
        channels = weight.shape[0] if transposed else weight.shape[1] * call.get("groups", 1)
        channel_dim = 1 if kind == "convolution" else -1
        if (kind == "convolution" and x.ndim != weight.ndim) or x.shape[channel_dim] != channels:
            raise RequestError(
                f"layer '{name}' ({func.__name__}) reads {channels} channels in {weight.ndim - 2} spatial dimensions, "
                f"got shape {list(x.shape)}; give inputs of the network's shape, samples first"
                if kind == "convolution"
                else f"layer '{name}' (linear) reads {channels} features, got shape {list(x.shape)}; "
                "give inputs of the network's shape, samples first"
            )
        if call.get("padding") == "same" and any(
            d * (k - 1) % 2 for d, k in zip(each(call["dilation"], x), weight.shape[2:], strict=True)
        ):
            return self._uneven(func, call)
        op: Any = transposed_map(x, call) if transposed else (
            # the backward pass needs a tensor of the input's shape, and allocating one is expensive
            replace(convolution_map(x, call), like=x.detach())
            if kind == "convolution"
            else MatrixMap(weight, call["bias"])
        )  # fmt: skip
        first = not self._facts[x].hidden
        record = Call(name=name, kind=kind, first=first, op=op, index=len(self.layers.flat))
        self.layers.flat.append(x.ndim == 2)
        return self._apply(record, x, partial(func, **call))

    def _layer_name(self, func: Any, weight: torch.Tensor) -> str:
        """The parameter's name without ``.weight``; rows of a packed one by their start; else the module that runs."""
        known = self._names.get(id(weight))
        if known is not None:
            return known
        base = weight._base
        if base is not None and id(base) in self._names:
            name = self._names[id(base)]
            return name if weight.numel() == base.numel() else f"{name}[{weight.storage_offset() // weight.stride(0)}:]"
        where = self._where()
        return where if hasattr(self._by_name.get(where), "weight") else f"{where}.{func.__name__}".lstrip(".")

    def _uneven(self, func: Any, call: dict[str, Any]) -> torch.Tensor:
        """padding='same' with an even kernel, which pads one more at the end: pad both sides, drop first outputs."""
        reach = [
            d * (k - 1) for d, k in zip(each(call["dilation"], call["input"]), call["weight"].shape[2:], strict=True)
        ]
        with self:
            z: torch.Tensor = func(**call | {"padding": tuple(r - r // 2 for r in reach)})
            for dim, r in enumerate(reach):
                z = z.narrow(dim + 2, r % 2, z.shape[dim + 2] - r % 2)
            return z

    def _apply(self, record: Call, x: torch.Tensor, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        z = self.layers.apply(record, x, compute)
        self._facts[z] = _Facts(hidden=True, attention=self._facts[x].attention, call=record, source=x)
        return z

    def _batch_norm(self, func: Any, call: dict[str, Any]) -> torch.Tensor:
        x = call["input"]
        if call["training"] or call["running_mean"] is None:
            raise RequestError(
                f"batch norm '{self._where()}' has no running statistics, and with those of a batch a sample's "
                "relevance would depend on the others; train it with track_running_stats=True"
            )
        with torch.no_grad():
            scale = (call["running_var"] + call["eps"]).rsqrt()
            scale = scale if call["weight"] is None else scale * call["weight"]
            shift = -call["running_mean"] * scale
            shift = shift if call["bias"] is None else shift + call["bias"]
        facts = self._facts[x]
        compute = partial(func, **call)
        if facts.call is not None and facts.call.fold is None and (facts.call.kind == "convolution" or x.ndim == 2):
            # units are the outputs of the norm; the call without it is not used any further
            before = facts.call
            record = replace(before, x=None, z=None, fold=(scale, shift))
            return self._apply(record, facts.source, compute)
        per_channel = scale.reshape(1, -1, *[1] * (x.ndim - 2))
        epsilon = 0.0 if self.composite.choose is None else self.composite.epsilon
        record = Kept()

        def run() -> torch.Tensor:
            y: torch.Tensor = compute()
            record.z = y.detach()
            return y

        y: torch.Tensor = AffineFunction.apply(self._given(x), run, record, per_channel, epsilon)
        self.layers.share(record, y.detach())
        self._absorbs(y, y)
        return y

    def _similarities(self, func: Any, x: torch.Tensor, weight: torch.Tensor, similarity: str) -> torch.Tensor:
        """Similarities of patches and prototypes, which are units that read the channels of the patches."""
        name, compute = self._layer_name(func, weight), partial(func, x, weight, similarity)
        rest = self._rests.get(x, 0.0)
        if self.layers.at == "readers":
            x = x.view_as(x)
            self._observe(name, x, 1, "channels")
        if self.composite.choose is None:
            y: torch.Tensor = func(x, weight, similarity)
        else:
            y = SimilarityFunction.apply(self._given(x), weight.detach(), similarity, rest, compute)
            self._absorbs(y, y)
        if self.layers.at == "makers":
            self._observe(name, y, 1, "prototypes")
        return y

    def _observe(self, name: str, y: torch.Tensor, dim: int, units: str) -> None:
        """Observe the units along a dimension of a tensor when its gradient is computed."""
        value = y.detach()
        version = value._version

        def collect(g: torch.Tensor) -> None:
            if value._version != version:
                raise SecateurError(
                    f"the {units} of '{name}' are overwritten later in the pass; avoid in-place operations"
                )
            self.layers.observe(name, Observation(value, g, value * g, dim))

        self.layers.order[name] = max(y.shape[dim], self.layers.order.get(name, 0))
        if y.requires_grad:
            self._handles.append(y.register_hook(collect))

    def _constant_layer(self, func: Any, name: str, args: Any, kwargs: Any) -> torch.Tensor | None:
        """The output of a weighted layer that does not depend on the inputs; None for any other operation."""
        if name in MATRIX_PRODUCTS:
            product = linear_product(name, args, kwargs, self._owners.owns_matrix)
            if product is None:
                return None
            with self:
                return product()
        if name in _CONVOLUTIONS or name in _TRANSPOSED:
            call, kind = bound(conv_call if name in _CONVOLUTIONS else conv_transpose_call, args, kwargs), "convolution"
        elif name == "linear":
            call, kind = bound(linear_call, args, kwargs), "linear"
        else:
            return None
        if self._owners.of(call["weight"]) is None:
            return None
        call["input"] = self._reached(call["input"])
        return self._weighted(func, call, cast(Kind, kind))

    def _embedding(self, func: Any, args: Any, kwargs: Any) -> torch.Tensor:
        """Embeddings of token ids or positions, which get a gradient but do not count as inputs."""
        return self._reached(func(*args, **kwargs))

    def _reached(self, x: torch.Tensor) -> torch.Tensor:
        """The same values in a tensor that requires a gradient, which does not change other gradients."""
        y = x + self.layers.anchor.to(x) * 0
        self._facts[y] = _Facts(hidden=True)
        return y

    # -- everything else ----------------------------------------------------------------------------------------

    def _ruled(self, func: Any, name: str, args: Any, kwargs: Any, tensors: list[torch.Tensor], over: bool) -> Any:
        if name == "layer_norm":
            return self._layer_norm(*args, **kwargs)
        if name in DECOMPOSITIONS:
            return self._decomposed(name, args, kwargs)
        if name == "scaled_dot_product_attention":
            return self._attention(func, *args, **kwargs)
        if name in ("softmax", "softmin", "_softmax"):
            return self._softmax(func, name, tensors[0], args, kwargs)
        if name in _MATRIX_PRODUCTS:
            y = func(*args, **kwargs)
            self._heads_of_product(args, y)  # observes the heads before their gradient is halved
            if len(tensors) > 1:
                _hook(y, _halve)
            return y
        if name in ("pow", "pow_", "__pow__", "__ipow__"):
            treatment: Treatment | None = (
                "identity" if isinstance(args[1], (int, float)) and args[1] > 0 else "constant"
            )
        else:
            treatment = treatment_of(name)
        if treatment in ("plain", "activation", "sum", "average"):
            y = self._linear(func, name, args, kwargs, tensors, over)
            if treatment == "average" or (treatment == "sum" and len(tensors) > 1):
                counted = name.strip("_") in _WITH_CONSTANTS and not over  # by `_linear`
                self._damp(y, None if counted else self.account)
            return y
        if treatment is None:
            result = func(*args, **kwargs)
            if any(t.requires_grad for t in tensors_in(result)):
                raise self._no_rule(name)
            return result
        if over:
            return self._in_place(func, name, args, kwargs, treatment, tensors)
        return self._treated(func, name, args, kwargs, treatment, tensors)

    def _constant(self, result: Any, attention: bool = False) -> Any:
        """Compute a result that is treated as a constant."""
        for tensor in tensors_in(result):
            self._facts[tensor] = _Facts(constant=True, attention=attention)
        return result

    def _damp(self, y: torch.Tensor, account: Callable[[str, torch.Tensor], None] | None) -> None:
        """Apply the stabiliser of the ε-rule to a sum, for which plain autograd is right otherwise."""
        if not (self.composite.epsilon and y.requires_grad):
            return
        record = Kept(z=y.detach())
        self.layers.share(record, y.detach())
        epsilon, per_sample = self.composite.epsilon, self.layers.each_sample
        where = "" if account is None else self._where()

        def damp(g: torch.Tensor) -> torch.Tensor:
            assert record.z is not None
            z = record.z.to(g.dtype)
            after = damped(g, z, epsilon)
            if account is not None:
                account(where, per_sample(z * (g - after)))
            return after

        y.register_hook(damp)

    def _linear(self, func: Any, name: str, args: Any, kwargs: Any, tensors: list[torch.Tensor], over: bool) -> Any:
        """Run an operation for which plain autograd is right, and record what its constants absorb."""
        if self.account is not None and name == "__setitem__" and not self._depends(args[2]):
            func(*args)
            written = torch.zeros_like(args[0].detach())
            written[args[1]] = 1
            self._absorbs(args[0], written * args[0].detach())
            return None
        if self.account is None or name.strip("_") not in _WITH_CONSTANTS:
            return func(*args, **kwargs)
        if over:
            target = args[0]
            before = target.clone()
            self._facts[before] = self._facts.get(target) or _Facts(constant=True)
            others = [before if t is target else t for t in tensors]
            y = self._linear(out_of_place(func, name), "add", (before, *args[1:]), kwargs, others, False)
            return target.copy_(y)
        swap = {id(t): self._given(t) for t in tensors}
        y = func(*_swapped(args, swap), **_swapped(kwargs, swap))
        stacked = name == "stack" and kwargs.get("dim", args[1] if len(args) > 1 else 0) in (0, -y.ndim)
        self._absorbs(y, y, samples_at=1 if stacked else 0)
        return y

    def _treated(
        self, func: Any, name: str, args: Any, kwargs: Any, treatment: str, tensors: list[torch.Tensor]
    ) -> Any:
        if treatment == "identity":
            rest, others = args[1:], kwargs
            if args:
                x = args[0]
            else:
                x, others = kwargs["input"], {k: v for k, v in kwargs.items() if k != "input"}
            offset = at_zero(func, name, x, rest, others)
            y = IdentityFunction.apply(
                self._given(x), lambda t: func(t, *rest, **others), self.composite.epsilon, offset
            )
            self._absorbs(y, y)
            if offset:
                self._rests[y] = offset
            return y
        if treatment == "constant":
            return self._constant(func(*_detached(args), **_detached(kwargs)))
        if treatment == "division" and not self._depends(args[0]):
            return self._constant(func(*_detached(args), **_detached(kwargs)))
        if treatment == "division":
            return func(args[0], *_detached(args[1:]), **_detached(kwargs))
        assert treatment == "product"
        y = func(*args, **kwargs)
        if len(tensors) > 1:
            _hook(y, _halve)
        return y

    def _in_place(
        self, func: Any, name: str, args: Any, kwargs: Any, treatment: str, tensors: list[torch.Tensor]
    ) -> torch.Tensor:
        """Compute the result out of place, and copy it into the tensor."""
        x = args[0] if args else kwargs["input"]
        if treatment == "product" and len(tensors) == 1:
            return func(*args, **kwargs)  # type: ignore[no-any-return]
        before = x.clone()
        self._facts[before] = _Facts()
        again = {k: v for k, v in kwargs.items() if k not in ("inplace", "input")}
        y = self._treated(out_of_place(func, name), name, (before, *args[1:]), again, treatment, tensors)
        x.copy_(y)
        return x  # type: ignore[no-any-return]

    def _decomposed(self, name: str, args: Any, kwargs: Any) -> Any:
        with self:
            return DECOMPOSITIONS[name](*args, **kwargs)

    def _plain_gradient(self, func: Any, name: str, args: Any, kwargs: Any, over: bool) -> Any:
        how = self.composite.activations
        if how == "plain" or treatment_of(name) != "activation":
            y = func(*args, **kwargs)
            if name == "scaled_dot_product_attention":
                self._heads(y)
            elif name in _MATRIX_PRODUCTS:
                self._heads_of_product(args, y)
            return y
        x, rest = args[0], args[1:]
        others = {k: v for k, v in kwargs.items() if k != "inplace"}
        if how == "guided":
            y = func(*args, **kwargs)
            _hook(y, _positive)
            return y
        if over:
            before = x.clone()
            x.copy_(RectifiedFunction.apply(before, lambda t: func(t, *rest, **others)))
            return x
        return RectifiedFunction.apply(x, lambda t: func(t, *rest, **others))

    def _layer_norm(
        self,
        input: torch.Tensor,
        normalized_shape: Any,
        weight: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
        eps: float = 1e-5,
        cudnn_enable: bool = True,
    ) -> torch.Tensor:
        y: torch.Tensor = NormFunction.apply(self._given(input), tuple(normalized_shape), weight, bias, eps)
        self._absorbs(y, y)
        return y

    # -- attention ----------------------------------------------------------------------------------------------

    def _attention(self, func: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Softmax(q k) v: half of each product to each factor, the softmax by its Taylor expansion."""
        weighed = self._depends(query) or self._depends(key)
        if self.composite.softmax == "cp-lrp":
            query, key, weighed = query.detach(), key.detach(), False
        share = 0.5 if weighed and self._depends(query) and self._depends(key) else 1.0
        parts = [self._given(t, f) if self._depends(t) else t for t, f in ((query, share), (key, share), (value, 1.0))]
        if weighed and self.composite.softmax == "attnlrp-plus":
            func = partial(attention_plus, epsilon=self.composite.epsilon)
        y: torch.Tensor = func(*parts, *args, **kwargs)
        self._absorbs(y, y)
        self._heads(y)  # observes the heads before their gradient is halved
        if weighed and self._depends(value):
            _hook(y, _halve)
        return y

    def _softmax(self, func: Any, name: str, x: torch.Tensor, args: Any, kwargs: Any) -> torch.Tensor:
        """A softmax outside fused attention, by the rule of the composite."""
        if self.composite.softmax == "cp-lrp":
            constant: torch.Tensor = self._constant(func(*_detached(args), **_detached(kwargs)), attention=True)
            return constant
        x = self._given(x)
        if self.composite.softmax == "attnlrp-plus":
            y = self._softmax_plus(name, x, *args[1:], **{k: v for k, v in kwargs.items() if k != "input"})
        else:
            y = func(x, *args[1:], **kwargs) if args else func(**kwargs | {"input": x})
        self._absorbs(y, y)
        return y

    def _softmax_plus(
        self,
        name: str,
        x: torch.Tensor,
        dim: int | None = None,
        _stacklevel: Any = None,
        dtype: torch.dtype | None = None,
        **others: Any,
    ) -> torch.Tensor:
        """A softmax under the z⁺-rule, under any of its names."""
        if dim is None or others:
            raise RequestError(f"attnlrp-plus needs a softmax with an explicit dimension at {self._where()}; give dim")
        if isinstance(_stacklevel, torch.dtype):  # softmax(x, dim, dtype) of torch and of tensors
            dtype = _stacklevel
        result: torch.Tensor = SoftmaxPlusFunction.apply(
            -x if name == "softmin" else x, dim, dtype, self.composite.epsilon
        )
        return result

    def _given(self, x: torch.Tensor, factor: float = 1.0) -> torch.Tensor:
        """An alias of x whose gradient is scaled; the relevance that it passes on counts as not absorbed."""
        if not x.requires_grad or (factor == 1.0 and self.account is None):
            return x
        alias: torch.Tensor = x.view_as(x)
        account, per_sample = self.account, self.layers.each_sample
        where = "" if account is None else self._where()
        value = x.detach() if account is None else x.detach().clone()

        def back(g: torch.Tensor) -> torch.Tensor:
            g = g * factor
            if account is not None:
                account(where, -per_sample(value * g))
            return g

        alias.register_hook(back)
        return alias

    def _heads_of_product(self, args: Any, y: torch.Tensor) -> None:
        """Observe heads where attention weights are multiplied with values explicitly."""
        if y.ndim >= 4 and any(t in self._facts and self._facts[t].attention for t in tensors_in(args)):
            self._heads(y)

    def _heads(self, y: torch.Tensor) -> None:
        """Observe the heads [.., H, L, D] of an attention, under the name of its module."""
        if y.ndim >= 4 and y.requires_grad and self.layers.at == "makers":
            self._observe(self._where(), y, y.ndim - 3, "heads")

    # -- bookkeeping --------------------------------------------------------------------------------------------

    def _follow(self, name: str, tensors: list[torch.Tensor], result: Any) -> None:
        """Note for the results what is known about the arguments."""
        known = [facts for facts in (self._facts.get(t) for t in tensors) if facts is not None]
        hidden = any(facts.hidden for facts in known)
        constant = all(facts.constant for facts in known)
        attention = name == "softmax" or (len(known) == 1 and known[0].attention)
        for tensor in tensors_in(result):
            if not tensor.is_floating_point():
                continue
            facts = self._facts.get(tensor)
            if facts is None:
                # within a user's own autograd function nothing requires a gradient, but its results do
                self._facts[tensor] = _Facts(hidden, constant, attention, seen=tensor.requires_grad)
            else:
                facts.seen = facts.seen or tensor.requires_grad

    def _depends(self, value: Any) -> bool:
        """Whether a value depends on the inputs and is not treated as a constant."""
        facts = self._facts.get(value) if isinstance(value, torch.Tensor) else None
        return facts is not None and not facts.constant

    def _absorbs(self, y: torch.Tensor, constant: Any, samples_at: int = 0) -> None:
        """Record the relevance that a constant part of y absorbs."""
        if self.account is None or not y.requires_grad:
            return
        account, per_sample, where, shape = self.account, self.layers.each_sample, self._where(), y.shape
        held = torch.as_tensor(constant, dtype=y.dtype, device=y.device).detach().clone()
        y.register_hook(lambda g: account(where, per_sample((held * g).expand(shape).movedim(samples_at, 0))))

    def _where(self) -> str:
        """The module whose forward is running, from the Python stack."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            name: str | None = self._modules.get(id(frame.f_locals.get("self")))
            if name is not None:
                return name
            frame = frame.f_back
        return ""

    def check_seen(self, tensors: list[torch.Tensor]) -> None:
        """Refuse tensors that depend on the inputs through code that a function mode does not see.

        Raises:
            RequestError: naming the module that uses such a tensor.
        """
        unseen = [t for t in tensors if t.requires_grad and not getattr(self._facts.get(t), "seen", False)]
        if unseen:
            raise RequestError(
                f"a tensor of shape {list(unseen[0].shape)} in module '{self._where()}' comes from code that cannot be "
                "watched (a scripted or compiled module, or an autograd function of its own); give the network in "
                "plain PyTorch, or use composite='gradient-input'"
            )

    def _no_rule(self, name: str, how: str = "") -> RequestError:
        where = self._where()
        location = f"in module '{where}'" if where else "in the network's forward"
        return RequestError(
            f"operation '{name}' {location} has no relevance rule{' ' + how if how else ''}; write it with operations "
            f"that have one, set its rule with secateur.attribution.treat('{name}', 'identity' or 'plain'), or "
            "use composite='gradient-input', or criterion='taylor' to prune"
        )

    @contextlib.contextmanager
    def forgetting(self) -> Iterator[None]:
        """Release every tensor of the pass at the end of the context.

        Hooks hold the mode and the mode holds tensors: a cycle through autograd, which is not garbage collected.
        """
        try:
            yield
        finally:
            for handle in self._handles:
                if hasattr(handle, "remove"):
                    handle.remove()
            self._handles.clear()
            self._facts.clear()
            self._rests.clear()
            self.layers.forget()


def _halve(g: torch.Tensor) -> torch.Tensor:
    return g * 0.5


def _positive(g: torch.Tensor) -> torch.Tensor:
    return g.clamp(min=0)


def _hook(y: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    if y.requires_grad:
        y.register_hook(change)


def _swapped(value: Any, swap: dict[int, torch.Tensor]) -> Any:
    """The arguments of a call with some tensors replaced, by identity."""
    if isinstance(value, torch.Tensor):
        return swap.get(id(value), value)
    if isinstance(value, dict):
        return {key: _swapped(item, swap) for key, item in value.items()}
    if isinstance(value, (tuple, list)) and type(value) in (tuple, list):
        return type(value)(_swapped(item, swap) for item in value)
    return value


def _detached(value: Any) -> Any:
    """The arguments of a call with all tensors detached."""
    return _swapped(value, {id(t): t.detach() for t in tensors_in(value)})
