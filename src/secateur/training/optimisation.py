"""Optimisers and the learning rate of each step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from secateur.training.objective import Objective, optimiser_groups
from secateur.training.settings import TrainSettings


def optimiser_of(
    model: nn.Module, settings: TrainSettings, objective: Objective | None = None
) -> torch.optim.Optimizer:
    """A new optimiser of the trainable parameters, or of those that an objective trains.

    Norms and biases are not decayed: their size says nothing about complexity.
    """
    groups: list[dict[str, Any]]
    if objective is not None:
        groups = optimiser_groups(objective, model)
    else:
        trained = [p for p in model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": settings.weight_decay, "scale": 1.0},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0, "scale": 1.0},
        ]
    if settings.optimiser == "adam":
        return torch.optim.Adam(groups, lr=settings.learning_rate)
    if settings.optimiser == "adamw":
        return torch.optim.AdamW(groups, lr=settings.learning_rate)
    nesterov = settings.nesterov and settings.momentum > 0
    return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum, nesterov=nesterov)


def rate(settings: TrainSettings, step: int, steps_per_epoch: int) -> float:
    """Factor on the learning rate at a step, counted from the beginning of the training."""
    epoch = step / steps_per_epoch
    if epoch < settings.warmup_epochs:
        return (epoch + 1 / steps_per_epoch) / (settings.warmup_epochs + 1 / steps_per_epoch)
    if settings.schedule == "cosine":
        span = max(settings.epochs - settings.warmup_epochs, 1e-9)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (epoch - settings.warmup_epochs) / span)))
    if settings.schedule == "step":
        return float(settings.step_factor ** sum(epoch >= e for e in settings.step_epochs))
    return 1.0


def steps_per_epoch(samples: int, batch_size: int) -> int:
    """Optimiser steps in one epoch.

    A single sample left over after whole batches is passed over (another one each epoch, as the order
    changes): batch norm has no statistics of it.
    """
    batches = math.ceil(samples / batch_size)
    if batches > 1 and batch_size > 1 and samples % batch_size == 1:
        batches -= 1
    return batches
