"""Watches forward passes: layers, the modules that read their outputs, and the sums that these are part of."""

from __future__ import annotations

import bisect
import contextlib
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import TorchFunctionMode

from secateur.core.errors import RequestError
from secateur.structure.attention import multi_head_attention
from secateur.structure.tracing import failure

_FORWARDS = (
    nn.Linear.forward,
    nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward,
    nn.ConvTranspose1d.forward, nn.ConvTranspose2d.forward, nn.ConvTranspose3d.forward,
)  # fmt: skip
_SUMS = {"add", "add_", "__add__", "__radd__", "__iadd__"}


@dataclass(frozen=True)
class Origin:
    """Where a tensor comes from.

    Attributes:
        layer: the layer whose output it is.
        chain: the modules after the layer, which scale and shift each channel.
        number: position among all noted tensors.
        swapped: whether its first two dimensions are swapped.
    """

    layer: str
    chain: tuple[str, ...] = ()
    number: int = 0
    swapped: bool = False


class Watcher:
    """Callbacks of a pass; a returned tensor replaces the output or the sum."""

    def layer(self, name: str, module: nn.Module, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor | None:
        """Called after a layer has run."""

    def module(self, origin: Origin, name: str, module: nn.Module) -> None:
        """Called after a module has read a layer's output, directly or after the modules of ``origin.chain``."""

    def sum(self, origin: Origin, whole: torch.Tensor, other: torch.Tensor) -> torch.Tensor | None:
        """Called after a layer's output, or that of its ``origin.chain``, was added to another tensor."""


def projections(model: nn.Module) -> dict[str, nn.Linear]:
    """Linear layers of attention modules that are not called as modules, by name; they share the parameters."""
    layers = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.MultiheadAttention):
            continue
        prefix = f"{name}." if name else ""
        if module.in_proj_weight is not None:
            layers[f"{prefix}in_proj"] = _linear(module.in_proj_weight, module.in_proj_bias)
        layers[f"{prefix}out_proj"] = module.out_proj
    return layers


def _linear(weight: nn.Parameter, bias: nn.Parameter | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = weight
    layer.register_parameter("bias", bias)
    return layer


class _Functions(TorchFunctionMode):
    """Reports sums of layers' outputs, and linear layers within attention modules, to a watcher.

    Where both terms of a sum are outputs of layers, the later one counts.
    """

    def __init__(self, watcher: Watcher, layers: Mapping[str, nn.Linear]) -> None:
        super().__init__()
        self._watcher = watcher
        self._layers = {id(layer.weight): (name, layer) for name, layer in layers.items()}
        # by id, with a weak reference: the id of a deleted tensor may be used again, and holding tensors costs memory
        self._origins: dict[int, tuple[weakref.ref[torch.Tensor], Origin]] = {}
        self._noted = 0

    def note(self, tensor: torch.Tensor, layer: str, chain: tuple[str, ...] = (), swapped: bool = False) -> None:
        """Note that a tensor comes from a layer."""
        self._noted += 1
        self._origins[id(tensor)] = (weakref.ref(tensor), Origin(layer, chain, self._noted, swapped))

    def origin(self, tensor: Any) -> Origin | None:
        """Where a tensor comes from; None where that is not known."""
        held, origin = self._origins.get(id(tensor), (None, None))
        return origin if held is not None and held() is tensor else None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See `torch.overrides.TorchFunctionMode`."""
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            with self:  # in steps that this mode sees
                return multi_head_attention(*args, **kwargs)
        if func is F.linear:
            return self._linear(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name == "transpose" and not kwargs and sorted(args[1:]) == [0, 1]:
            return self._swapped(func, args)
        if name in _SUMS and len(args) == 2 and not kwargs and all(isinstance(arg, torch.Tensor) for arg in args):
            return self._sum(func, args)
        return func(*args, **kwargs)

    def _linear(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        output: torch.Tensor = F.linear(x, weight, bias)
        name, layer = self._layers.get(id(weight), ("", None))
        if layer is None:
            return output
        changed = self._watcher.layer(name, layer, x, output)
        output = output if changed is None else changed
        self.note(output, name)
        return output

    def _swapped(self, func: Callable[..., torch.Tensor], args: Any) -> torch.Tensor:
        """Note swapped dimensions: attention modules compute with samples in the second dimension and swap back."""
        origin, output = self.origin(args[0]), func(*args)
        if origin is not None and not origin.chain:
            self.note(output, origin.layer, swapped=not origin.swapped)
        return output

    def _sum(self, func: Callable[..., torch.Tensor], args: Any) -> torch.Tensor:
        known = [(self.origin(one), other) for one, other in (args, args[::-1])]
        sides = [(origin, other) for origin, other in known if origin is not None and not origin.swapped]
        if not sides or args[0].shape != args[1].shape:
            return func(*args)
        origin, other = max(sides, key=lambda side: side[0].number)
        held = other.clone()  # the sum may be written into it
        whole = func(*args)
        changed = self._watcher.sum(origin, whole, held)
        if changed is not None:
            whole.copy_(changed)
        return whole


@contextlib.contextmanager
def followed(model: nn.Module, watcher: Watcher) -> Iterator[None]:
    """Report each pass of the network within the context to a watcher."""
    functions, handles = _Functions(watcher, projections(model)), []
    modules = {**dict(model.named_modules()), **projections(model)}
    names = {module: name for name, module in model.named_modules()}

    def at_layer(module: nn.Module, inputs: Any, named: Any, output: torch.Tensor) -> torch.Tensor | None:
        changed = watcher.layer(names[module], module, inputs[0] if inputs else named["input"], output)
        functions.note(output if changed is None else changed, names[module])
        return changed

    def at_other(module: nn.Module, inputs: Any, output: Any) -> None:
        origin = functions.origin(inputs[0]) if inputs else None
        if origin is None or origin.swapped or not isinstance(output, torch.Tensor) or output.shape != inputs[0].shape:
            return
        if _is_batch_norm(module) and output.ndim > 2 and not isinstance(modules[origin.layer], _ConvNd):
            return  # it normalises tokens, not the layer's features
        watcher.module(origin, names[module], module)
        if _scales_channels(module):
            functions.note(output, origin.layer, (*origin.chain, names[module]))

    try:
        for module in names:
            if _is_layer(module):
                handles.append(module.register_forward_hook(at_layer, with_kwargs=True))
            elif not list(module.children()):
                handles.append(module.register_forward_hook(at_other))
        with functions:
            yield
    finally:
        for handle in handles:
            handle.remove()


def _is_layer(module: nn.Module) -> bool:
    """Whether a module is a layer that runs PyTorch's code with its own weight, not one computed from parameters."""
    known = isinstance(module, (nn.Linear, _ConvNd)) and type(module).forward in _FORWARDS
    return known and module._parameters.get("weight") is not None


def _is_batch_norm(module: nn.Module) -> bool:
    """Whether a module is a batch norm that runs PyTorch's code, with channels in the second dimension."""
    return isinstance(module, _BatchNorm) and type(module).forward is _BatchNorm.forward


def _scales_channels(module: nn.Module) -> bool:
    """Whether a module in eval mode only scales and shifts each channel."""
    plain = _is_batch_norm(module) or isinstance(module, (nn.Identity, _DropoutNd))
    return plain or type(module).__name__ == "LayerScale"


def channel_dim(module: nn.Module) -> int:
    """The dimension of the channels in a layer's output."""
    return 1 if isinstance(module, _ConvNd) else -1


@dataclass
class Site:
    """A layer at the position where it is called.

    Attributes:
        norm: name of the batch norm that reads its output, if there is one.
        chain: modules between the layer and a sum; None: its output is not part of a sum.
        items: length of the first dimension of the output per sample.
        size: bytes of its inputs and outputs per sample.
        last: whether its output is the network's output.
        reason: why it cannot be refitted.
    """

    norm: str | None = None
    chain: tuple[str, ...] | None = None
    items: int = 1
    size: int = 0
    last: bool = False
    reason: str = ""


class _Discovery(Watcher):
    def __init__(self, samples: int) -> None:
        self.sites: dict[str, Site] = {}
        self._samples = samples
        self._outputs: dict[str, torch.Tensor] = {}
        self._norms: dict[str, list[str]] = {}

    def layer(self, name: str, module: nn.Module, x: torch.Tensor, output: torch.Tensor) -> None:
        """See `Watcher`."""
        if name in self.sites:
            self.sites[name].reason = "it is called more than once"
            return
        reason = "" if output.is_floating_point() else "it does not compute with real numbers"
        if len(output) % self._samples or (isinstance(module, _ConvNd) and x.ndim != module.weight.ndim):
            reason = "its outputs are not ordered by sample"
        self._outputs[name] = output
        size = (x.nbytes + output.nbytes) // self._samples
        self.sites[name] = Site(items=len(output) // self._samples, size=size, reason=reason)

    def module(self, origin: Origin, name: str, module: nn.Module) -> None:
        """See `Watcher`."""
        if _is_batch_norm(module) and module.track_running_stats and not origin.chain:
            self._norms.setdefault(name, []).append(origin.layer)

    def sum(self, origin: Origin, whole: torch.Tensor, other: torch.Tensor) -> None:
        """See `Watcher`."""
        site = self.sites[origin.layer]
        if site.chain is None:
            site.chain = origin.chain

    def finish(self, result: Any) -> dict[str, Site]:
        """All sites, with the norms that read their outputs only.

        Args:
            result: output of the pass.
        """
        values = result.values() if isinstance(result, Mapping) else result if isinstance(result, tuple) else (result,)
        given = [id(value) for value in values]
        for name, output in self._outputs.items():
            self.sites[name].last = id(output) in given
        for norm, layers in self._norms.items():
            for layer in layers:
                self.sites[layer].norm = norm
                if len(layers) > 1 and not self.sites[layer].reason:
                    self.sites[layer].reason = f"its norm '{norm}' reads other outputs, too"
        return self.sites


class _Uses(TorchFunctionMode):
    """Counts how often each weight is used, by its address in memory, which also recognises its views.

    Weights may share a storage, such as those that were read from one file; their addresses tell them apart.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        weights = {p.data_ptr(): p.nbytes for p in model.parameters() if p.numel()}
        self._starts = sorted(weights)
        self._ends = [start + weights[start] for start in self._starts]
        self._count: Counter[int] = Counter()

    def of(self, weight: torch.Tensor) -> int:
        """How often a weight was used."""
        return self._count[weight.data_ptr()]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See `torch.overrides.TorchFunctionMode`."""
        result = func(*args, **(kwargs or {}))
        output = result[0] if isinstance(result, (tuple, list)) and result else result
        if isinstance(output, torch.Tensor):
            given = [value for value in (*args, *(kwargs or {}).values()) if isinstance(value, torch.Tensor)]
            self._count.update({self._weight(value) for value in given} - {self._weight(output)})
        return result

    def _weight(self, tensor: torch.Tensor) -> int:
        """Address of the weight that a tensor is, or is a view of; -1 for other tensors."""
        if tensor.layout != torch.strided or tensor.is_nested:
            return -1
        where = tensor.data_ptr()
        index = bisect.bisect_right(self._starts, where) - 1
        return self._starts[index] if index >= 0 and where < self._ends[index] else -1


def discover(model: nn.Module, inputs: torch.Tensor) -> dict[str, Site]:
    """Layers in the order of the pass, with what follows them and why some cannot be refitted."""
    discovery, uses = _Discovery(len(inputs)), _Uses(model)
    with uses, followed(model, discovery):
        try:
            result = model(inputs)
        except Exception as error:  # whatever the network's code raises, the remedy is the same
            raise RequestError(failure(error, [inputs], model, "reference samples")) from error
    sites = discovery.finish(result)
    for name, layer in projections(model).items():
        site = sites.setdefault(name, Site(reason="it is not computed by itself"))
        if layer._parameters.get("bias") is None and not site.reason:
            site.reason = "its attention module has no biases"
    layers = {**projections(model), **{name: module for name, module in model.named_modules() if name in sites}}
    for name, site in sites.items():
        if not site.reason and uses.of(layers[name].get_parameter("weight")) > 1:
            site.reason = "its weight is used in another way, too"
        if not site.reason and site.last and layers[name]._parameters.get("bias") is None:
            site.reason = "it gives the network's output without a bias, which it should not get"
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        weight = module._parameters.get("weight")
        if weight is not None:
            owners.setdefault(id(weight), []).append(name)
    for name in (name for names in owners.values() if len(names) > 1 for name in names):
        if name in sites:
            sites[name].reason = "its weights are another module's, too"
    return sites
