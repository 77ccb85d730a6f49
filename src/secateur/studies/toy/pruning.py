"""The network without some of its hidden neurons, fast for thousands of choices of neurons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import nn

from secateur.studies.toy.network import HIDDEN


@dataclass(frozen=True, eq=False)
class Begun:
    """What all prunings have in common on some points.

    Attributes:
        first: outputs of the first hidden layer behind its ReLU, [H1, N].
        second: outputs of the whole second hidden layer before its ReLU, [H2, N].
    """

    first: torch.Tensor
    second: torch.Tensor


class Cutter:
    """The network with any of its hidden neurons removed, as physical removal leaves it.

    Two things make it fast and change nothing but rounding. Where no ReLU follows the third hidden layer, that layer
    and the output are one linear map with K rows. And the second layer's sums are either added up over the neurons of
    the first that stay, or taken from the whole network less those that go, whichever are fewer.

    Args:
        model: from `secateur.studies.toy.network.build`, in eval mode.

    Example:
        >>> from secateur.studies.toy.network import build
        >>> cutter = Cutter(build(classes=2).eval())
        >>> keep = np.ones(3000, bool)
        >>> keep[:1000:2] = False
        >>> cutter.cut(keep).logits(cutter.begin(np.zeros((5, 2), np.float32))).shape
        torch.Size([5, 2])
    """

    def __init__(self, model: nn.Sequential) -> None:
        layers = [cast(nn.Linear, model.get_submodule(name)) for name in (*HIDDEN, "output")]
        self.weights = [layer.weight.detach() for layer in layers]
        self.biases = [layer.bias.detach() for layer in layers]
        self.all_relu = "relu3" in dict(model.named_children())

    def begin(self, x: np.ndarray) -> Begun:
        """Prepare points, [N, 2]."""
        first = torch.addmm(self.biases[0][:, None], self.weights[0], torch.from_numpy(x).T).relu_()
        return Begun(first, torch.addmm(self.biases[1][:, None], self.weights[1], first))

    def cut(self, keep: np.ndarray) -> Cut:
        """The network that is left.

        Args:
            keep: [H1 + H2 + H3], whether a neuron stays.
        """
        stays = torch.from_numpy(keep).split([len(bias) for bias in self.biases[:3]])
        one, two, three = (mask.nonzero()[:, 0] for mask in stays)
        gone = (~stays[0]).nonzero()[:, 0]
        subtract = len(gone) < len(one)
        rows = gone if subtract else one
        second = self.weights[1].index_select(0, two).index_select(1, rows)
        third = self.weights[2].index_select(0, three).index_select(1, two), self.biases[2][three]
        output = self.weights[3].index_select(1, three)
        if self.all_relu:
            last = [third, (output, self.biases[3])]
        else:
            last = [(output @ third[0], output @ third[1] + self.biases[3])]
        return Cut(rows, two, second, None if subtract else self.biases[1][two], last)


@dataclass(frozen=True, eq=False)
class Cut:
    """A pruned network.

    Attributes:
        rows: neurons of the first layer that are added up, or taken off.
        two: neurons of the second layer that stay.
        second: weights from ``rows`` to ``two``.
        bias: of ``two``; None: what goes is taken off the whole network's sums.
        last: (weight, bias) of the maps behind, with a ReLU before each.
    """

    rows: torch.Tensor
    two: torch.Tensor
    second: torch.Tensor
    bias: torch.Tensor | None
    last: list[tuple[torch.Tensor, torch.Tensor]]

    def logits(self, begun: Begun) -> torch.Tensor:
        """[N, K]."""
        first = begun.first.index_select(0, self.rows)
        if self.bias is None:
            hidden = begun.second.index_select(0, self.two).addmm_(self.second, first, alpha=-1)
        else:
            hidden = torch.addmm(self.bias[:, None], self.second, first)
        for weight, bias in self.last:
            hidden = torch.addmm(bias[:, None], weight, hidden.relu_())
        return hidden.T

    def accuracy(self, begun: Begun, labels: np.ndarray) -> float:
        """Share of points that are classified right, in %."""
        right = self.logits(begun).argmax(1) == torch.from_numpy(labels)
        return 100 * int(right.sum()) / len(labels)


def remaining(order: np.ndarray, remove: int) -> np.ndarray:
    """Whether each unit stays, [U], when the first ``remove`` of a pruning order go."""
    keep = np.ones(len(order), bool)
    keep[order[:remove]] = False
    return keep
