"""Training by one process, `DistributedDataParallel` or FSDP2, to be compared: `sharded.py WORK FILE [...]`.

Without a launcher, one process trains; by torchrun, several do.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from torch import nn
from torch.distributed import fsdp
from torch.distributed.tensor import DTensor
from torch.utils.data import Dataset, TensorDataset

import secateur as sc
from secateur.core.ranks import launched, ranks
from secateur.models import build
from secateur.training import DistillationSettings, Epoch, TrainSettings, WeightMask, fit, parallel
from several_ranks import images, plain, resnet, small

GENTLE = TrainSettings(epochs=4, batch_size=8, learning_rate=0.02, device="cpu", gradient_clip=5.0, sharding="full")


class Tied(nn.Module):
    """Blocks that are attributes, one of them used twice; a weight used within a block and outside of it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 16, 3, bias=False)
        self.twice = nn.ModuleList([nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.Tanh())])
        self.inner = nn.Sequential(nn.Linear(16, 20, bias=False), nn.Tanh(), nn.Linear(20, 16))
        self.back = nn.Linear(20, 16, bias=False)
        self.inner[2].weight = self.back.weight
        self.head = nn.Sequential(nn.Linear(16, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = self.twice[0](x + self.twice[0](x)).mean((2, 3))
        return self.head(self.back(torch.ones(len(x), 20, dtype=x.dtype)) + self.inner(x))


class Auxiliary(nn.Module):
    """Gives two outputs in training; a head that nothing uses, and a block that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.Sequential(nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU()), nn.Sequential(nn.Conv2d(12, 12, 3)))
        self.head, self.second = nn.Linear(12, 3), nn.Sequential(nn.Linear(12, 30), nn.Linear(30, 3))
        self.unused = nn.Sequential(nn.Linear(12, 40))
        self.blocks[0].requires_grad_(False)
        self.head.bias.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        x = self.blocks(x).mean((2, 3))
        return (self.head(x), self.second(x)) if self.training else self.head(x)


def vit() -> nn.Module:
    torch.manual_seed(0)
    return build("vit-32", num_classes=3, width=16, depth=3, heads=2, mlp_ratio=2, patch=16)


def data(model: nn.Module, count: int = 43) -> TensorDataset:
    """Images that a network takes, in its precision."""
    return images(count, 32 if hasattr(model, "positions") else 12, next(model.parameters()).dtype)


def pruned(model: nn.Module) -> nn.Module:
    """After surgery."""
    samples = sc.ReferenceSet(*data(model).tensors, tuple(range(43)))
    return sc.compress(model, samples, sc.Budget(macs=0.6), settings=sc.PruneSettings(repair="none")).model


def trained(
    model: nn.Module, state: Path | None = None, on_epoch: Callable[[Epoch], None] | None = None, **changes
) -> dict:
    settings = GENTLE.model_copy(update=changes)
    teacher = vit().to(next(model.parameters())) if settings.distillation else None
    before = parts(model)
    history = fit(model, data(model), data(model, 31), settings, state, teacher=teacher, on_epoch=on_epoch)
    assert parts(model) == before
    check_plain(model)
    return {"rows": history.rows, "weights": model.state_dict()}


def parts(model: nn.Module) -> list:
    """Modules, parameters, and what was put on them: that of surgery stays, that of training goes."""
    modules = [(type(each), *each._forward_hooks, *each._forward_pre_hooks, *vars(each)) for each in model.modules()]
    return [*modules, *(id(tensor) for tensor in (*model.parameters(), *model.buffers()))]


def check_plain(model: nn.Module) -> None:
    """A network without a trace of training on several ranks."""
    assert not model.training
    for tensor in (*model.parameters(), *model.buffers()):
        assert not isinstance(tensor, DTensor)
        assert tensor.device.type == "cpu"
        assert tensor.grad is None
        assert tensor.is_contiguous()
    assert not any("FSDP" in type(module).__name__ for module in model.modules())


def masked() -> dict:
    model = vit().double()
    mask = WeightMask({name: p.detach() > 0 for name, p in model.named_parameters() if p.ndim > 1})
    history = fit(
        model, data(model), data(model, 31), GENTLE.model_copy(update={"optimiser": "adamw"}), weight_mask=mask
    )
    assert all(bool((model.get_parameter(name)[~keep] == 0).all()) for name, keep in mask.kept.items())
    return {"rows": history.rows, "weights": model.state_dict()}


def brief() -> dict:
    return {
        "norms": trained(small().double()),
    }


def thorough() -> dict:
    return {
        "vit": trained(vit().double(), optimiser="adamw", learning_rate=0.003),
        "single": trained(plain()),
        "deep": trained(resnet().double(), learning_rate=0.05),
        "deep, single": trained(resnet(), learning_rate=0.002),
        "vit, single": trained(vit(), optimiser="adamw", learning_rate=0.002),
        "adam": trained(plain().double(), optimiser="adam", learning_rate=0.003),
        "plain sgd": trained(plain().double(), momentum=0.0, gradient_clip=None, schedule="constant"),
        "tied": trained(Tied().double()),
        "auxiliary": trained(Auxiliary().double(), optimiser="adamw", learning_rate=0.003, weight_decay=0.1),
        "last": trained(plain().double(), keep="last"),
        "tiny batches": trained(plain().double(), batch_size=1, epochs=1, learning_rate=0.005),
        "distilled": trained(vit().double(), distillation=DistillationSettings()),
        "masked": masked(),
        "traced": trained(torch.fx.symbolic_trace(small().double())),
        "pruned": trained(pruned(small()).double()),
        "pruned vit": trained(pruned(vit()).double(), optimiser="adam", learning_rate=0.003),
    }


def resumed(folder: str) -> dict:
    """Trainings that go on from a state of two epochs, held in parts or not; and uninterrupted ones."""
    found = {}
    for optimiser, rate in (("sgd", 0.02), ("adam", 0.003), ("adamw", 0.003)):
        how = {"optimiser": optimiser, "learning_rate": rate, "gradient_clip": None}
        for before, after in (("full", "none"), ("none", "full"), ("full", "full")):
            file = Path(folder) / f"{optimiser}-{before}-{after}.state"
            if ranks().main:
                shutil.copy(state_after_two_epochs(Path(folder), optimiser, before), file)
            ranks().gather("copied")
            found[optimiser, before, after] = trained(Auxiliary().double(), file, sharding=after, **how)
    return found


def interrupted(folder: str) -> dict:
    """Whole trainings, which leave a copy of their state after two epochs."""
    found = {}
    for optimiser, rate in (("sgd", 0.02), ("adam", 0.003), ("adamw", 0.003)):
        how = {"optimiser": optimiser, "learning_rate": rate, "gradient_clip": None}
        for sharding in ("full", "none"):
            copy = state_after_two_epochs(Path(folder), optimiser, sharding)
            file = copy.with_suffix(".whole")

            def keep(epoch: Epoch, file: Path = file, copy: Path = copy) -> None:
                if epoch.index == 1:
                    shutil.copy(file, copy)

            found[optimiser, sharding] = trained(Auxiliary().double(), file, keep, sharding=sharding, **how)
    return found


def state_after_two_epochs(folder: Path, optimiser: str, sharding: str) -> Path:
    return folder / f"{optimiser}-{sharding}.two"


def held() -> dict:
    """What this rank keeps between steps, and the most that is gathered within one; of the whole network, likewise."""
    model = vit()
    whole = sum(p.numel() for p in model.parameters())
    moved, shard = [], fsdp.fully_shard

    def noted(block: nn.Module, **how: object) -> nn.Module:
        moved.append(sum(p.numel() for p in block.parameters() if not isinstance(p, DTensor)))
        return shard(block, **how)

    with mock.patch.object(fsdp, "fully_shard", noted):
        network, seen = parallel.Sharded(model, torch.device("cpu"), ranks()).network, []

    def look(*_: object) -> None:
        gathered = [p for p in network.parameters() if not isinstance(p, DTensor)]
        seen.append(sum(p.numel() for p in gathered if p.untyped_storage().nbytes()))

    for module in list(network.modules()):
        if not list(module.children()):
            module.register_forward_pre_hook(look)
            module.register_full_backward_hook(look)
    optimiser = torch.optim.AdamW(network.parameters(), lr=0.001)
    inputs, targets = data(model).tensors
    for _ in range(2):
        nn.functional.cross_entropy(network(inputs), targets).backward()
        optimiser.step()
        gradients = sum(p.grad.to_local().numel() for p in network.parameters())
        optimiser.zero_grad()
    states = [each for state in optimiser.state.values() for each in state.values() if each.ndim]
    return {
        "whole": whole,
        "parameters": sum(p.to_local().numel() for p in network.parameters()),
        "gradients": gradients,
        "optimiser": sum(each.to_local().numel() for each in states),
        "moved": moved,
        "gathered": max(seen),
        "blocks": len(list(parallel.blocks(model, parallel.LEAST_PARAMETERS))),
    }


def scaled() -> dict:
    """Steps of a gradient scaler, where a gradient of one rank's part overflows, and where none does."""
    sharded = parallel.Sharded(plain(), torch.device("cpu"), ranks())
    network = sharded.network
    optimiser, scaler = torch.optim.SGD(network.parameters(), lr=0.1), torch.amp.GradScaler("cpu", init_scale=8.0)
    inputs, targets = images().tensors
    found = [sharded.weights()]
    for overflow in (True, False):
        optimiser.zero_grad()
        scaler.scale(nn.functional.cross_entropy(network(inputs), targets)).backward()
        if overflow and ranks().rank == 1:
            next(network.parameters()).grad.to_local().fill_(torch.inf)
        scaler.unscale_(optimiser)
        sharded.clip(5.0)
        scaler.step(optimiser)
        scaler.update()
        found.append(sharded.weights())
    return {"weights": found, "scale": scaler.get_scale()}


def half() -> dict:
    """In bfloat16, whole and in parts."""
    return {
        each: trained(vit(), mixed_precision="bf16", learning_rate=0.005, sharding=each) for each in ("none", "full")
    }


class Failing(Dataset):
    """Images, one of which only the second rank finds unreadable in the second epoch."""

    def __init__(self) -> None:
        self.images, self.read = images(), 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.read += 1
        if ranks().rank == 1 and self.read == 30:
            raise sc.RequestError("an image that cannot be read")
        return self.images[index]


def failing() -> dict:
    """A training that one rank ends: the model is what it was, on both."""
    model = plain()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        fit(model, Failing(), None, GENTLE)
    except Exception:
        check_plain(model)
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
        raise
    return {}


class Outside(nn.Module):
    """Uses a block's weights without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.blocks = plain(), nn.Sequential(nn.Linear(30, 30))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x) * self.blocks[0].weight.mean()


def outside() -> dict:
    return trained(Outside())


WORK: dict[str, Callable[..., object]] = {
    work.__name__: work for work in (brief, thorough, resumed, interrupted, held, scaled, half, failing, outside)
}

if __name__ == "__main__":
    parallel.LEAST_PARAMETERS = 200  # small networks, yet blocks within blocks
    try:
        with launched(muted=True) as mine:
            found = WORK[sys.argv[1]](*sys.argv[3:])
            torch.save(found, Path(sys.argv[2]).with_suffix(f".{mine.rank}"))
    except sc.SecateurError as error:
        if str(error):
            sys.stderr.write(f"said: {error}\n")
        sys.exit(error.exit_code)
    assert not ranks().several
