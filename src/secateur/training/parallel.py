"""How the ranks of a training hold its network: whole on each of them, or in parts.

PyTorch does both: `DistributedDataParallel`, and FSDP2 (`torch.distributed.fsdp.fully_shard`). One rank holds a network
as it is.
"""

from __future__ import annotations

import abc
import contextlib
import copy
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from secateur.core.errors import RequestError
from secateur.core.layouts import training_layout
from secateur.core.ranks import Ranks, ranks

Weights = dict[str, torch.Tensor]

LEAST_PARAMETERS = 1_000_000
"""Of a block that is gathered by itself: some MB at a time keep a GPU's connection busy, and its memory free."""

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class DataParallel(abc.ABC):
    """A network in training, as the ranks hold it; its methods must be called by all of them in the same order.

    Attributes:
        network: whose parameters are trained; it gives the outputs that are measured.
        called: gives the outputs that are trained on: its gradients are means over ranks.
        layout: of images.
    """

    network: nn.Module
    called: nn.Module
    layout: torch.memory_format

    @abc.abstractmethod
    def weights(self) -> Weights:
        """A copy of the whole state dict on the CPU; where parts are held, rank 0 has it, and others nothing."""

    @abc.abstractmethod
    def whole(self, state: dict[str, Any]) -> dict[str, Any]:
        """An optimiser's state with whole tensors, on the ranks that `weights` gives whole ones."""

    @abc.abstractmethod
    def sent(self, state: Any) -> Any:
        """What rank 0 has read, on all ranks; where parts are held, others get tensors of its shapes without values.

        Args:
            state: dicts and lists of tensors and plain values; None on other ranks.
        """

    @abc.abstractmethod
    def load(self, weights: Weights, optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Take over weights, and the state of an optimiser of the network's parameters, as `sent` gave them.

        Raises:
            ValueError: for those of another network.
            RuntimeError: likewise.
        """

    @abc.abstractmethod
    def part(self, tensor: torch.Tensor, parameter: nn.Parameter) -> torch.Tensor:
        """What belongs with a parameter's values on this rank, of a tensor that all ranks have.

        Args:
            tensor: of the whole parameter's shape.
            parameter: of `network`.
        """

    @abc.abstractmethod
    def clip(self, norm: float) -> None:
        """Scale gradients down to a norm of all of them together, see `torch.nn.utils.clip_grad_norm_`."""

    @contextlib.contextmanager
    def explaining(self) -> Iterator[None]:
        """Say in one line what a network does, within the context, that cannot be done where it is held so."""
        yield

    @abc.abstractmethod
    def finish(self, weights: Weights) -> None:
        """Give weights to the network that the training was asked for, on all ranks.

        Args:
            weights: by `weights`.
        """


def data_parallel(model: nn.Module, sharding: str, device: torch.device) -> DataParallel:
    """The network, on the device, as the ranks are to hold it.

    Args:
        model: trained in place, or when it is finished.
        sharding: see `secateur.training.TrainSettings`.
        device: of this rank.

    Raises:
        RequestError: for a network or device that cannot be held in parts.
    """
    if sharding == "full" and ranks().several:
        return Sharded(model, device, ranks())
    return Replicated(model, device, ranks())


class Replicated(DataParallel):
    """The whole network on each rank, by `DistributedDataParallel`; of one rank, the network itself.

    Args:
        model: in place.
        device: of this rank.
        of: the ranks.
    """

    def __init__(self, model: nn.Module, device: torch.device, of: Ranks) -> None:
        self.layout, self._ranks = training_layout(model, device), of
        model.to(device=device, memory_format=self.layout)  # type: ignore[call-overload]
        self.network = self.called = model
        if of.several:
            numbers = [device] if device.type == "cuda" else None
            # parameters that a network does not use, such as those of auxiliary heads, have no gradient to wait for
            self.called = DistributedDataParallel(model, device_ids=numbers, find_unused_parameters=True)

    def weights(self) -> Weights:
        """See `DataParallel.weights`."""
        return {name: tensor.detach().cpu().clone() for name, tensor in self.network.state_dict().items()}

    def whole(self, state: dict[str, Any]) -> dict[str, Any]:
        """See `DataParallel.whole`."""
        return state

    def sent(self, state: Any) -> Any:
        """See `DataParallel.sent`."""
        return self._ranks.broadcast(state)

    def load(self, weights: Weights, optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """See `DataParallel.load`."""
        self.network.load_state_dict(weights)
        optimiser.load_state_dict(state)

    def part(self, tensor: torch.Tensor, parameter: nn.Parameter) -> torch.Tensor:
        """See `DataParallel.part`."""
        return tensor.to(parameter.device)

    def clip(self, norm: float) -> None:
        """See `DataParallel.clip`."""
        nn.utils.clip_grad_norm_(self.network.parameters(), norm)

    def finish(self, weights: Weights) -> None:
        """See `DataParallel.finish`."""
        self.network.load_state_dict(weights)


class Sharded(DataParallel):
    """Each rank holds its part of every parameter, gradient and optimiser state, by FSDP2.

    Blocks (`blocks`) are gathered when they are computed, and let go again. The model itself waits on the CPU until the
    training is finished: what is trained is a copy that shares no values with it.

    Args:
        model: moved to the CPU.
        device: of this rank.
        of: the ranks.
        least: parameters of a block that is gathered by itself.

    Raises:
        RequestError: for parameters without dimensions, and devices that PyTorch does not shard on.
    """

    def __init__(self, model: nn.Module, device: torch.device, of: Ranks, least: int | None = None) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import FSDPModule, fully_shard

        if device.type not in ("cpu", "cuda"):
            raise RequestError(f"train.sharding 'full' needs CUDA GPUs or CPUs, got {device.type}; set it to 'none'")
        for name, parameter in model.named_parameters():
            if parameter.ndim == 0:
                raise RequestError(
                    f"parameter '{name}' is a single number without dimensions, which cannot be sharded; give it the "
                    "shape [1], or set train.sharding to 'none'"
                )
        if device.type == "cuda":
            torch.cuda.set_device(device)  # fully_shard takes the current one
        self._model, self._ranks, self._device = model.to("cpu"), of, device
        self.layout = torch.contiguous_format  # the only one that FSDP2 takes
        self._mesh = init_device_mesh(device.type, (of.size,))
        network = _sharing_values(model)
        for block in (*blocks(network, LEAST_PARAMETERS if least is None else least), network):
            fully_shard(block, mesh=self._mesh)
            assert isinstance(block, FSDPModule)
            # gloo of some versions takes a sum for a mean, without a word (pytorch/pytorch#162338): sum, then divide
            block.set_force_sum_reduction_for_comms(True)
        self.network = self.called = network

    def weights(self) -> Weights:
        """See `DataParallel.weights`."""
        found = {name: self._gathered(tensor) for name, tensor in self.network.state_dict().items()}
        return found if self._ranks.main else {}

    def whole(self, state: dict[str, Any]) -> dict[str, Any]:
        """See `DataParallel.whole`."""
        found: dict[str, Any] = _mapped(self._gathered, state)
        return found if self._ranks.main else {}

    def sent(self, state: Any) -> Any:
        """See `DataParallel.sent`."""
        outline = self._ranks.broadcast(_mapped(lambda each: each.to("meta") if each.ndim else each, state))
        return state if self._ranks.main else outline

    def load(self, weights: Weights, optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """See `DataParallel.load`."""
        own = self.network.state_dict()
        if {name: each.shape for name, each in weights.items()} != {name: each.shape for name, each in own.items()}:
            raise ValueError("the state holds other tensors than the network")
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(self._scattered(weights[name], tensor))
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        if len(parameters) != sum(len(group["params"]) for group in state["param_groups"]):
            raise ValueError("the state is of another number of parameters")
        parts = {
            index: {key: self._scattered(value, parameters[index]) for key, value in values.items()}
            for index, values in state["state"].items()
        }
        optimiser.load_state_dict({**state, "state": parts})

    def part(self, tensor: torch.Tensor, parameter: nn.Parameter) -> torch.Tensor:
        """See `DataParallel.part`."""
        from torch.distributed.tensor import DTensor, distribute_tensor

        assert isinstance(parameter, DTensor)
        return distribute_tensor(tensor.to(self._device), self._mesh, parameter.placements, src_data_rank=None)

    def clip(self, norm: float) -> None:
        """See `DataParallel.clip`."""
        parameters = [p for p in self.network.parameters() if p.grad is not None]
        total: Any = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        # summed over ranks first: clip_grad_norm_ of PyTorch 2.9 adds its 1e-6 to the norm of each rank's part
        nn.utils.clip_grads_with_norm_(parameters, norm, total.full_tensor())

    @contextlib.contextmanager
    def explaining(self) -> Iterator[None]:
        """See `DataParallel.explaining`."""
        try:
            yield
        except RuntimeError as error:
            if "DTensor" not in str(error):
                raise
            raise RequestError(
                "the network uses weights of a block without calling the block, which cannot be sharded "
                f"({str(error).splitlines()[0]}); set train.sharding to 'none'"
            ) from error

    def finish(self, weights: Weights) -> None:
        """See `DataParallel.finish`."""
        with torch.no_grad():
            for name, tensor in self._model.state_dict().items():
                tensor.copy_(self._ranks.broadcast(weights.get(name)))

    def _gathered(self, tensor: torch.Tensor) -> torch.Tensor:
        """A whole tensor: a copy on the CPU of rank 0, nothing on others, and no two of them at once on a GPU."""
        from torch.distributed.tensor import DTensor

        whole = tensor.detach()
        if isinstance(whole, DTensor):
            whole = whole.full_tensor()
        return whole.to("cpu", copy=True) if self._ranks.main else whole.new_empty(0)

    def _scattered(self, value: Any, like: torch.Tensor) -> Any:
        """This rank's part of what rank 0 has, held as another tensor is.

        Args:
            value: a whole tensor, on ranks but 0 without values; or anything that all ranks have.
            like: of the whole tensor's shape.
        """
        from torch.distributed.tensor import DTensor, distribute_tensor

        if not isinstance(value, torch.Tensor) or not value.ndim:
            return value
        if not isinstance(like, DTensor):
            return self._ranks.broadcast(value if self._ranks.main else None)
        if value.shape != like.shape:
            raise ValueError(f"the state has {tuple(value.shape)} where the network has {tuple(like.shape)}")
        whole = value.to(self._device) if self._ranks.main else torch.empty_like(value, device=self._device)
        return distribute_tensor(whole, self._mesh, like.placements)


def blocks(network: nn.Module, least: int) -> Iterator[nn.Module]:
    """Modules to gather by themselves, inner ones before those around them.

    A block is a module that is called as a whole: what a container of PyTorch holds, or an attribute of a class of the
    user's own. It has ``least`` parameters beside those of blocks within it, none of which is also used outside. Layers
    of PyTorch that are attributes are not taken: code may use their weights without calling them, as
    `torch.nn.MultiheadAttention` does.

    Args:
        network: looked at.
        least: parameters of a block.

    Example:
        >>> net = nn.Sequential(nn.Sequential(nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 2)), nn.Linear(2, 50))
        >>> [type(block).__name__ for block in blocks(net, 80)], [block.out_features for block in blocks(net, 90)]
        (['Linear', 'Linear'], [9, 50])
    """
    uses = Counter(id(p) for module in network.modules() for p in module._parameters.values() if p is not None)
    held: set[int] = set()
    for module in _called_as_wholes(network):
        own = Counter(id(p) for each in module.modules() for p in each._parameters.values() if p is not None)
        left = {id(p): p for p in module.parameters() if id(p) not in held}
        if sum(p.numel() for p in left.values()) >= least and all(uses[key] == count for key, count in own.items()):
            held |= left.keys()
            yield module


def _called_as_wholes(network: nn.Module) -> Iterator[nn.Module]:
    """Modules within a network that may be blocks, inner ones first, each once."""
    seen: set[nn.Module] = {network}

    def within(parent: nn.Module) -> Iterator[nn.Module]:
        for child in parent.children():
            if child in seen:
                continue
            seen.add(child)
            yield from within(child)
            called = type(child).forward is not nn.Module.forward
            if called and (isinstance(parent, _CONTAINERS) or not type(child).__module__.startswith("torch.nn.")):
                yield child

    return within(network)


def _sharing_values(model: nn.Module) -> nn.Module:
    """A copy of a network whose parameters lie in the same memory, until they are sharded; buffers are copied."""
    held: dict[int, Any] = {
        id(p): nn.Parameter(p.detach().contiguous(), requires_grad=p.requires_grad) for p in model.parameters()
    }
    return copy.deepcopy(model, held)


def _mapped(change: Any, value: Any) -> Any:
    """Dicts and lists with their tensors changed."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _mapped(change, each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_mapped(change, each) for each in value)
    return value
