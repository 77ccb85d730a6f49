"""What `secateur.training.fit` minimises, where it is not the cross-entropy of the logits alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from secateur.core.errors import RequestError


@dataclass(frozen=True, eq=False)
class ParameterGroup:
    """Parameters that are trained alike.

    Attributes:
        parameters: of the network.
        rate: learning rate, as a factor on that of the settings.
        weight_decay: of those with more than one dimension; norms and biases are not decayed.
    """

    parameters: tuple[nn.Parameter, ...]
    rate: float = 1.0
    weight_decay: float = 0.0


class Objective(Protocol):
    """A loss of one's own, and which parameters it trains."""

    @property
    def identity(self) -> str:
        """All that it depends on, as text: interrupted training goes on under the same objective alone."""

    def groups(self, model: nn.Module) -> Sequence[ParameterGroup]:
        """Trained parameters; all others keep their values. No parameter is in two groups."""

    def loss(self, model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [N, K] and the loss of a batch."""


def optimiser_groups(objective: Objective, model: nn.Module) -> list[dict[str, Any]]:
    """Groups as PyTorch's optimisers take them; ``scale`` is the factor on the learning rate.

    Raises:
        RequestError: when nothing is trained, or a parameter twice.
    """
    found: list[dict[str, Any]] = []
    seen: set[int] = set()
    for group in objective.groups(model):
        for decayed in (True, False):
            own = [p for p in group.parameters if (p.ndim > 1) is decayed]
            if seen & {id(p) for p in own}:
                raise RequestError("a parameter is in two groups of the objective; give each once")
            seen |= {id(p) for p in own}
            decay = group.weight_decay if decayed else 0.0
            if own:
                found.append({"params": own, "weight_decay": decay, "scale": group.rate})
    if not found:
        raise RequestError("the objective trains no parameter of the network; give it one with a rate above 0")
    return found


@contextlib.contextmanager
def trained_alone(model: nn.Module, objective: Objective | None) -> Iterator[None]:
    """Let the parameters that an objective trains require gradients, and no others; afterwards all is as it was."""
    if objective is None:
        yield
        return
    before = {p: p.requires_grad for p in model.parameters()}
    trained = {id(p) for group in objective.groups(model) for p in group.parameters}
    try:
        for parameter in before:
            parameter.requires_grad_(id(parameter) in trained)
        yield
    finally:
        for parameter, wanted in before.items():
            parameter.requires_grad_(wanted)
