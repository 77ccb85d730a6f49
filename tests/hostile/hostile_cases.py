"""Register of odd networks: how each is built, called, and what pruning it must do.

A network is registered by decorating its class (or a function that builds it):

    @network("squeeze then excite", call(real(B, 3, 8, 8)), prunes=["squeeze"])
    class SqueezeExcite(nn.Module): ...

What is written here is what a demanding user wants, whatever the engine does today.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

B = "B"
"""In a shape: the number of samples."""

Expected = Literal["exact", "locked", "refused"]


@dataclass(frozen=True)
class Drawn:
    """A random tensor that is yet to be drawn; ``B`` in its shape is the number of samples."""

    shape: tuple[Any, ...]
    kind: Literal["real", "whole", "truth", "padding", "length"]
    high: int = 0

    def draw(self, batch: int, generator: torch.Generator) -> torch.Tensor:
        shape = [batch if n == B else n for n in self.shape]
        if self.kind == "real":
            return torch.randn(shape, generator=generator, dtype=torch.float64)
        if self.kind == "whole":
            return torch.randint(0, self.high, shape, generator=generator)
        if self.kind == "length":
            return torch.randint(1, self.high + 1, shape, generator=generator)
        drawn = torch.rand(shape, generator=generator) < 0.4
        drawn[..., 0] = False  # something is always left to attend to
        return drawn if self.kind == "truth" else (~drawn).long()


def real(*shape: Any) -> Drawn:
    """Standard normal."""
    return Drawn(shape, "real")


def whole(high: int, *shape: Any) -> Drawn:
    """Integers below ``high``."""
    return Drawn(shape, "whole", high)


def lengths(high: int, *shape: Any) -> Drawn:
    """Integers from 1 to ``high``."""
    return Drawn(shape, "length", high)


def truth(*shape: Any) -> Drawn:
    """Booleans, never true at the first place of the last dimension."""
    return Drawn(shape, "truth")


def padding(*shape: Any) -> Drawn:
    """Zeros and ones, always one at the first place of the last dimension, as tokenizers give them."""
    return Drawn(shape, "padding")


def causal(length: int) -> torch.Tensor:
    """Upper triangle of minus infinity."""
    return torch.full((length, length), float("-inf"), dtype=torch.float64).triu(1)


@dataclass(frozen=True)
class Call:
    """One use of a network.

    Attributes:
        args, kwargs: of the call, with `Drawn` where random tensors go.
        traced: given to `trace` as a variant; where that is not done, the pruned network may refuse the call.
        may_refuse: one clear line of error is as good as the right answer.
        train: in training mode; random: there, it draws random numbers, and must go on doing so.
        batch: the only number of samples that it takes.
        use: what is done with the network and the arguments, instead of calling it.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    traced: bool = False
    may_refuse: bool = False
    train: bool = False
    random: bool = False
    batch: int | None = None
    use: Callable[..., Any] | None = None

    def draw(self, batch: int, seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        generator = torch.Generator().manual_seed(seed)
        batch = self.batch or batch

        def drawn(value: Any) -> Any:
            if isinstance(value, Drawn):
                return value.draw(batch, generator)
            if isinstance(value, torch.Tensor):
                return value.clone()
            if isinstance(value, dict):
                return {key: drawn(item) for key, item in value.items()}
            return type(value)(drawn(item) for item in value) if type(value) in (tuple, list) else value

        return drawn(self.args), drawn(dict(self.kwargs))

    def example(self, model: nn.Module, batch: int, seed: int) -> Any:
        """As `trace` takes it: positional or keyword arguments."""
        args, kwargs = self.draw(batch, seed)
        if not kwargs:
            return args
        if not args:
            return kwargs
        names = [name for name, parameter in inspect.signature(model.forward).parameters.items()
                 if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]  # fmt: skip
        return {**dict(zip(names, args, strict=False)), **kwargs}


def call(*args: Any, **kwargs: Any) -> Call:
    """A plain call in eval mode."""
    return Call(args, kwargs)


def traced(*args: Any, **kwargs: Any) -> Call:
    """A call that `trace` gets as a variant."""
    return Call(args, kwargs, traced=True)


def untraced(*args: Any, **kwargs: Any) -> Call:
    """A call that the pruned network may refuse."""
    return Call(args, kwargs, may_refuse=True)


def trained(*args: Any, random: bool = False, may_refuse: bool = False, **kwargs: Any) -> Call:
    """A call in training mode."""
    return Call(args, kwargs, train=True, random=random, may_refuse=may_refuse)


def used(use: Callable[..., Any], *args: Any, may_refuse: bool = False, traced: bool = False) -> Call:
    """Anything else that is done with a network."""
    return Call(args, use=use, may_refuse=may_refuse, traced=traced)


@dataclass(frozen=True)
class Network:
    """A registered network.

    Attributes:
        name: unique; build: makes it, after the seed is set.
        example: what it is traced with; calls: what else is done with it.
        expected: of tracing and pruning; reason: a part of the line of a refusal.
        prunes: layers whose units must be able to go; locked: layers whose units must not, with a part of the reason.
        limit: relative difference that passes; stream: trace with ``stream=True``.
        slow: not in the default run; exports: to ``torch.export``; batches: whether any number of samples is taken.
        stateful: calls change buffers; compares_step: a step of training is compared with the masked network's.
        double: in float64; fast_path: run with PyTorch's fused inference code of attention, as in daily use; elsewhere
            it is off, for what it gives at padded positions is no part of a network's function.
        may_refuse: one line of refusal is as good as success; group: of networks that belong together.
        checks_with_example: `prune` gets the example, where random inputs of its shapes are no inputs of the network.
    """

    name: str
    build: Callable[[], nn.Module]
    example: Call
    calls: tuple[Call, ...] = ()
    expected: Expected = "exact"
    reason: str = ""
    prunes: tuple[str, ...] = ()
    locked: Mapping[str, str] = field(default_factory=dict)
    limit: float = 1e-9
    stream: bool = False
    slow: bool = False
    exports: bool = False
    batches: bool = True
    stateful: bool = False
    compares_step: bool = True
    double: bool = True
    fast_path: bool = False
    may_refuse: bool = False
    checks_with_example: bool = False
    group: str = ""

    def built(self, seed: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        model = self.build()
        if self.double:
            model = model.double()
        self._randomise(model, seed)
        return model.eval()

    @staticmethod
    def _randomise(model: nn.Module, seed: int) -> None:
        """Statistics, affine parameters and biases that matter, and weights that keep the signal alive."""
        generator = torch.Generator().manual_seed(seed + 1)
        for module in model.modules():
            for name, tensor in module.__dict__.get("_buffers", {}).items():
                if tensor is not None and name in ("running_mean", "running_var"):
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) + (0.5 if name[-3:] == "var" else -0.5))
            if hasattr(module, "_parameters") and not isinstance(module, torch.jit.ScriptModule):
                for parameter in module._parameters.values():
                    if parameter is None or not parameter.is_floating_point():
                        continue
                    if parameter.ndim > 1:
                        parameter.data.mul_(1.6)
                    elif parameter.ndim == 1:
                        extra = torch.randn(parameter.shape, generator=generator) * 0.2
                        parameter.data.add_(extra.to(parameter.dtype))


NETWORKS: dict[str, Network] = {}


def network(
    name: str,
    example: Call,
    *calls: Call,
    prunes: Sequence[str] = (),
    refused: str | None = None,
    locked: Mapping[str, str] | None = None,
    **options: Any,
) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    """Register the network that the decorated class or function builds; see `Network`."""

    def register(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        if name in NETWORKS:
            raise ValueError(f"two networks are called '{name}'")
        expected: Expected = "refused" if refused is not None else "locked" if locked else "exact"
        NETWORKS[name] = Network(
            name, build, example, calls, expected, refused or "", tuple(prunes), locked or {},
            group=build.__module__.rpartition("hostile_networks_")[2], **options,
        )  # fmt: skip
        return build

    return register
