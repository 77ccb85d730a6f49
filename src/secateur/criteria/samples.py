"""The reference samples that a criterion uses, and their losses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from secateur.attribution import maps
from secateur.attribution.starts import logits_of, losses
from secateur.core.errors import RequestError
from secateur.core.progress import track
from secateur.core.ranks import Ranks, ranks
from secateur.data import ReferenceSet


@dataclass(frozen=True, eq=False)
class Share:
    """The consecutive reference samples that this rank processes; with one rank, all of them.

    Attributes:
        samples: the samples of this rank.
        ranks: the ranks that share all samples; one rank where there are fewer samples than ranks.
        first: index of this rank's first sample among all.
    """

    samples: ReferenceSet
    ranks: Ranks
    first: int

    @classmethod
    def of(cls, reference: ReferenceSet) -> Share:
        """This rank's share of samples, which must be the same on all ranks."""
        sharing = ranks().sharing(len(reference))
        own = sharing.share(len(reference))
        return cls(reference.part(own) if sharing.several else reference, sharing, own.start)

    def joined(self, figures: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Figures of all samples, joined from those of each rank's samples, [own samples, ...] by layer.

        Raises:
            SecateurError: where other layers ran on the samples of another rank.
        """
        if not self.ranks.several:
            return figures
        self.ranks.check_same("which layers run on the reference samples", list(figures))
        return {name: self.ranks.joined(figure) for name, figure in figures.items()}


def sample_maps(
    model: nn.Module,
    reference: ReferenceSet,
    batch_size: int,
    reduce: Callable[[torch.Tensor], torch.Tensor],
    stage: Literal["next", "activation"] = "next",
) -> dict[str, torch.Tensor]:
    """Figures of all maps on all reference samples, see `secateur.attribution.maps`; ranks share the samples."""
    share = Share.of(reference)
    return share.joined(maps(model, (inputs for inputs, _ in share.samples.batches(batch_size)), reduce, stage))


def tracked(
    reference: ReferenceSet, batch_size: int, what: str = "batches of reference samples"
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The reference set's batches, with progress."""
    known = isinstance(batch_size, int) and batch_size > 0  # other values are refused with the first batch
    return track(reference.batches(batch_size), what, math.ceil(len(reference.inputs) / batch_size) if known else None)


def first_balanced(reference: ReferenceSet, count: int | None, asked_by: str) -> ReferenceSet:
    """The first ``count`` samples, taken from the classes in turn; None: all.

    Args:
        reference: labelled samples.
        count: number of samples; they keep their order.
        asked_by: name of the criterion, for the message.

    Raises:
        RequestError: when there are fewer.

    Example:
        >>> reference = ReferenceSet(torch.zeros(6, 1), torch.tensor([0, 0, 0, 1, 1, 1]), tuple(range(6)))
        >>> first_balanced(reference, 3, "ocap").indices
        (0, 1, 3)
    """
    if count is None:
        return reference
    targets = reference.targets.tolist()
    if count > len(targets):
        classes = max(1, len(set(targets)))
        raise RequestError(
            f"criterion '{asked_by}' asks for {count} reference samples, there are {len(targets)}; raise per_class to "
            f"{math.ceil(count / classes)}, or ask for fewer"
        )
    turn, counts = [], dict[int, int]()
    for position, target in enumerate(targets):
        turn.append((counts.get(target, 0), position))
        counts[target] = counts.get(target, 0) + 1
    positions = sorted(position for _, position in sorted(turn)[:count])
    indices = tuple(reference.indices[position] for position in positions)
    return ReferenceSet(reference.inputs[positions], reference.targets[positions], indices, reference.bounds)


def sample_losses(output: object, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each sample, [N] float64; a single logit is the log-odds of class 1, see `losses`.

    Args:
        output: output of the network: logits [N, K], or an object or dictionary with ``logits``.
        targets: class indices, [N].

    Raises:
        RequestError: for an output without logits, or a class that the network does not have.
    """
    logits = logits_of(output)
    return losses(logits.to(torch.float64), targets.to(logits.device))


def device_of(model: nn.Module) -> torch.device:
    """The device of the network's parameters."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))
