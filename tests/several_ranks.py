"""Work for one process or several, whose results are compared: `several_ranks.py WORK FILE`, also by torchrun."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

import secateur as sc
from secateur.core.ranks import launched, ranks
from secateur.data import loader
from secateur.models import build
from secateur.surgery import LayerFit, refit
from secateur.training import DistillationSettings, TrainSettings, fit

CRITERIA = [
    "lrp", "lrp:composite=epsilon-plus", "taylor", "grad", "sensitivity", "activation", "apoz", "cap", "ocap",
    "hessian", "taylor-group", "shapley:permutations=1", "weight", "bn-scale", "fpgm", "lamp", "random",
    "mixture:of=[lrp, taylor]",
]  # fmt: skip


GENTLE = TrainSettings(epochs=1, batch_size=8, learning_rate=0.005, device="cpu")


def images(count: int = 43, size: int = 12, dtype: torch.dtype = torch.float32) -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    targets = torch.arange(count) % 3
    inputs = torch.randn(count, 3, size, size, generator=generator) + targets[:, None, None, None]
    return TensorDataset(inputs.to(dtype), targets)


class Residual(nn.Module):
    """A block with a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x + self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))).relu()


def small() -> nn.Module:
    torch.manual_seed(0)
    return with_statistics(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), Residual(), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(), nn.Linear(8, 3),
        )
    )  # fmt: skip


def resnet() -> nn.Module:
    torch.manual_seed(0)
    return with_statistics(build("resnet20", width=4, num_classes=3))


def with_statistics(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # not those of a new network
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model.eval()


def plain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3)
    )  # fmt: skip


def wide() -> nn.Module:
    """Layers with more inputs than rows, and with so many that λ is chosen on a part of the rows."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 300, 3), nn.ReLU(), nn.Conv2d(300, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 3)
    ).double()  # fmt: skip


def reference(count: int = 43, dtype: torch.dtype = torch.float32) -> sc.ReferenceSet:
    inputs, targets = images(count, dtype=dtype).tensors
    return sc.ReferenceSet(inputs, targets, tuple(range(count)))


def scores(model: nn.Module, criteria: list[str]) -> dict:
    samples = reference(17)
    structure = sc.trace(model, samples.inputs[:1])
    found = {}
    for text in criteria:
        name, parameters = sc.criteria.parse(text)
        criterion = sc.criteria.get(name, **parameters)
        for centred in (False, True) if name in ("lrp", "taylor", "activation") else (False,):
            values = sc.score(model, structure, samples, criterion, centred=centred, batch_size=5).values
            found[text, centred] = torch.from_numpy(values)
    # fewer samples than ranks
    found["one sample"] = torch.from_numpy(sc.score(model, structure, reference(1), "taylor").values)
    return found


def repaired(model: nn.Module, count: int = 43) -> dict:
    samples = reference(count, next(model.parameters()).dtype)
    plan = sc.select(sc.score(model, sc.trace(model, samples.inputs[:1]), samples, "taylor"), sc.Budget(macs=0.7))
    slim = sc.prune(model, plan)
    fits: tuple[LayerFit, ...] = refit(slim, model, plan, samples, batch_size=7)
    return {"plan": plan.digest, "strengths": [fit.strength for fit in fits], "weights": slim.state_dict()}


def compressed(repair: str, schedule: str) -> dict:
    settings = sc.PruneSettings(repair=repair, schedule=schedule, step=0.2)
    trained_on = {"train": images(), "val": images(31), "finetune": GENTLE} if schedule == "iterative" else {}
    found = sc.compress(small(), reference(), sc.Budget(macs=0.5), settings=settings, **trained_on)
    return {"plan": found.plan.digest, "weights": found.model.state_dict()}


def trained(model: nn.Module, **changes) -> dict:
    # 43 samples in batches of 8: the last one has 3
    settings = TrainSettings(
        **{"epochs": 4, "batch_size": 8, "learning_rate": 0.05, "device": "cpu", "gradient_clip": 5.0} | changes
    )
    teacher = resnet() if settings.distillation else None
    dtype = next(model.parameters()).dtype
    history = fit(model, images(dtype=dtype), images(31, dtype=dtype), settings, teacher=teacher)
    return {"rows": history.rows, "weights": model.state_dict()}


def evaluated(auc: bool = False) -> dict:
    model = small()
    names = ("a", "b", "c")
    found = {}
    for count in (43, 5):
        data = images(count)
        for what, batches in (("loader", loader(data, 8)), ("pairs", list(loader(data, 8)))):
            result = sc.evaluate(model, batches, class_names=names, auc=auc).to_json()
            found[count, what] = {key: value for key, value in result.items() if key not in ("latency", "memory")}
    return found


def brief() -> dict:
    return {
        "scores": scores(small(), ["lrp", "ocap", "activation", "hessian", "mixture:of=[taylor, weight]"]),
        "repaired": {"small": repaired(small())},
        "trained": {"plain": trained(plain()), "norms": trained(small())},
        "evaluated": evaluated(),
    }


def thorough() -> dict:
    return {
        "scores": scores(resnet(), CRITERIA),
        "repaired": {
            "resnet": repaired(resnet()),
            "wide": repaired(wide()),
            "few": repaired(wide(), 9),
            "mean": compressed("mean", "one-shot"),
            "rescored": compressed("refit", "rescored"),
            "closed": compressed("none", "rescored"),
            "iterative": compressed("refit", "iterative"),
        },
        "trained": {
            "adam": trained(plain(), optimiser="adam", learning_rate=0.003),
            "smoothed": trained(small(), label_smoothing=0.1, schedule="constant"),
            "distilled": trained(small(), distillation=DistillationSettings()),
            "tiny batches": trained(plain(), batch_size=1, epochs=1, learning_rate=0.005),
            "deep": trained(resnet().double()),
        },
        "evaluated": evaluated(auc=True),
    }


def differing() -> dict:
    """Ranks whose criterion draws other numbers."""
    model, samples = small(), reference()
    sc.compress(model, samples, sc.Budget(macs=0.5), sc.criteria.get("random", seed=ranks().rank))
    return {}


def failing() -> dict:
    if ranks().rank == 1:
        raise sc.RequestError("only this one has a reason to stop")
    return dict(enumerate(ranks().gather("never")))


def killed() -> dict:
    if ranks().rank == 1:
        time.sleep(1)
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)
    return dict(enumerate(ranks().gather("never")))


WORK = {work.__name__: work for work in (brief, thorough, differing, failing, killed)}

if __name__ == "__main__":
    try:
        with launched(muted=True) as mine:
            found = WORK[sys.argv[1]]()
            torch.save(found, Path(sys.argv[2]).with_suffix(f".{mine.rank}"))
    except sc.SecateurError as error:
        if str(error):
            sys.stderr.write(f"said: {error}\n")
        sys.exit(error.exit_code)
