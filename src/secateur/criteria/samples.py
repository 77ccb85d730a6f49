"""Which reference samples a criterion looks at, and their losses."""

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
    """The reference samples that this rank looks at, neighbours in their order; of one rank, all of them.

    Attributes:
        samples: these.
        ranks: among which all samples are shared; one alone where there are fewer samples than ranks.
        first: place of the first of them among all.
    """

    samples: ReferenceSet
    ranks: Ranks
    first: int

    @classmethod
    def of(cls, reference: ReferenceSet) -> Share:
        """Of these samples, the same on all ranks."""
        sharing = ranks().sharing(len(reference))
        mine = sharing.share(len(reference))
        return cls(reference.part(mine) if sharing.several else reference, sharing, mine.start)

    def joined(self, figures: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Figures of all samples from each rank's own, [own samples, ...] by layer.

        Raises:
            SecateurError: where other layers ran on another rank's samples.
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
    """Figures of all maps on all reference samples, see `secateur.attribution.maps`; each rank looks at its share."""
    share = Share.of(reference)
    return share.joined(maps(model, (inputs for inputs, _ in share.samples.batches(batch_size)), reduce, stage))


def tracked(
    reference: ReferenceSet, batch_size: int, what: str = "batches of reference samples"
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The reference set's batches, with progress."""
    known = isinstance(batch_size, int) and batch_size > 0  # what else is given, is refused with the first batch
    return track(reference.batches(batch_size), what, math.ceil(len(reference.inputs) / batch_size) if known else None)


def first_balanced(reference: ReferenceSet, count: int | None, asked_by: str) -> ReferenceSet:
    """The first ``count`` samples, taken from the classes in turn; None: all.

    Args:
        reference: labelled samples.
        count: how many; they keep their order.
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
    turn, seen = [], dict[int, int]()
    for place, target in enumerate(targets):
        turn.append((seen.get(target, 0), place))
        seen[target] = seen.get(target, 0) + 1
    chosen = sorted(place for _, place in sorted(turn)[:count])
    indices = tuple(reference.indices[place] for place in chosen)
    return ReferenceSet(reference.inputs[chosen], reference.targets[chosen], indices, reference.bounds)


def sample_losses(output: object, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each sample, [N] float64; of a single logit, the log-odds of class 1, see `losses`.

    Args:
        output: of the network: logits [N, K], or an object or dictionary with ``logits``.
        targets: class indices, [N].

    Raises:
        RequestError: for an output that is none, or a class that the network does not know.
    """
    logits = logits_of(output)
    return losses(logits.to(torch.float64), targets.to(logits.device))


def device_of(model: nn.Module) -> torch.device:
    """Where the network's parameters are."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))
