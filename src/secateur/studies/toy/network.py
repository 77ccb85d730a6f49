"""The network of the study, trained once and kept by the hash of how it was trained."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import ConcatDataset, TensorDataset

from secateur.core.errors import RequestError
from secateur.core.files import cache_folder, ensure_folder
from secateur.core.randomness import derive_seed
from secateur.core.threads import one_thread
from secateur.models import load_weights, save_weights
from secateur.studies.toy.data import Points, classes_of, draw
from secateur.studies.toy.settings import NetworkSettings
from secateur.training import TrainSettings, fit

WIDTH = 1000
HIDDEN = ("hidden1", "hidden2", "hidden3")


def build(classes: int, all_relu: bool = False) -> nn.Sequential:
    """The network 2-1000-1000-1000-K with fresh weights.

    As published: ReLU and dropout (0.5) behind the first hidden layer, ReLU behind the second, and nothing behind the
    third, unless ``all_relu``.

    Example:
        >>> build(classes=2)(torch.zeros(3, 2)).shape
        torch.Size([3, 2])
    """
    layers: list[tuple[str, nn.Module]] = [
        ("hidden1", nn.Linear(2, WIDTH)),
        ("relu1", nn.ReLU()),
        ("dropout", nn.Dropout(0.5)),
        ("hidden2", nn.Linear(WIDTH, WIDTH)),
        ("relu2", nn.ReLU()),
        ("hidden3", nn.Linear(WIDTH, WIDTH)),
        *([("relu3", nn.ReLU())] if all_relu else []),
        ("output", nn.Linear(WIDTH, classes)),
    ]
    return nn.Sequential(OrderedDict(layers))


def trained(dataset: str, settings: NetworkSettings, given: Points | None = None) -> nn.Sequential:
    """The trained network in eval mode: found in the cache, or trained now and put there.

    Training runs on one thread, so that the weights depend on the settings alone; interrupted, it goes on at its last
    whole epoch.

    Args:
        dataset: see `secateur.studies.toy.data.classes_of`.
        settings: how to train.
        given: training points; None: they are drawn.
    """
    model = build(classes_of(dataset), settings.all_relu)
    path = place(dataset, settings, given)
    ensure_folder(path.parent)
    if path.exists():
        try:
            load_weights(model, path)
        except RequestError as error:
            raise RequestError(f"{error}; delete it, and it is trained again") from error
        return model.eval()
    data = given or draw(dataset, settings.per_class, settings.seed)
    points = TensorDataset(torch.from_numpy(data.x), torch.from_numpy(data.labels))
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(settings.seed, "toy network", dataset))
        model = build(classes_of(dataset), settings.all_relu)
        state = path.with_suffix(".state")
        repeated: ConcatDataset[Any] = ConcatDataset([points] * max(1, round(settings.epoch / len(points))))
        fit(model, repeated, None, _training(settings), state)
    save_weights(model, path, {"dataset": dataset, "settings": settings.model_dump(mode="json")})
    state.unlink(missing_ok=True)
    return model.eval()


def place(dataset: str, settings: NetworkSettings, given: Points | None = None) -> Path:
    """Where the trained weights are, or will be: named by data set and the hash of settings and given points."""
    return cache_folder("toy") / f"{dataset}-{settings.hash(given)}.safetensors"


def _training(settings: NetworkSettings) -> TrainSettings:
    return TrainSettings(
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=False,
        weight_decay=settings.weight_decay,
        keep="last",
        seed=settings.seed,
        device="cpu",
    )
