"""Criteria based on feature maps, from one forward pass: OCAP, CAP, APoZ. Axes: N images, U units, P positions.

Sources: Hu et al., "Network trimming" (2016) for APoZ; published class-aware pruning by per-image activation thresholds
(OCAP) and by mean activations (CAP), which use the output of the module after a layer: its batch norm or, in networks
without batch norm, its ReLU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from secateur.core.errors import RequestError, check_count
from secateur.criteria.base import Criterion, register
from secateur.criteria.names import ACTIVATIONS, NORMALISATIONS, check_known

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

    from secateur.criteria.scores import Scores
    from secateur.data import ReferenceSet
    from secateur.structure import Structure


@register("ocap")
@dataclass(frozen=True)
class OCAP(Criterion):
    """Per-image thresholds: the ratio up to which at least one image keeps the unit.

    In every image, the size of a channel is the L2 norm of its map after the layer's norm or, where it has none, its
    nonlinearity; at a nominal ratio r the ⌊r·C⌋ smallest of the layer's C channels are switched off in that image, and
    at least one stays on. A unit stays when any image (and any layer that produces it) keeps it. One score holds for
    all ratios:

        score = (max_n rank_n + t) / C,

    with rank_n the unit's rank among the layer's units in image n (0 = lowest) and t in (0, 1) its mean rank, as a
    tie-break. `kept_at` returns the units that stay at a ratio. Scaling an image's norms within the layer, as
    published, does not change ranks. The nominal ratio is not the share that is removed: a unit that any image keeps
    stays, so that fewer are removed.

    Among equal norms in an image, the unit that is weaker on average ranks lower.

    Args:
        activation: function applied to a map before its size is computed: None, ``relu``, ``leaky-relu`` (slope 0.01),
            ``sigmoid``, ``tanh``.
        images: number of reference samples that are used: the first ones, taken from the classes in turn; None: all.
    """

    activation: str | None = None
    images: int | None = None
    standing: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_known("activation", self.activation, ACTIVATIONS)
        if self.images is not None:
            check_count("images", self.images)

    @property
    def asks_for(self) -> int | None:
        """See `Criterion.asks_for`."""
        return self.images

    def unit_scores(
        self, model: nn.Module, structure: Structure, reference: ReferenceSet, *, centred: bool, batch_size: int
    ) -> np.ndarray:
        """See `Criterion.unit_scores`; ranks have no mean that could be compensated: ``centred`` is ignored."""
        import numpy as np

        from secateur.criteria.aggregation import check_observed, summed, unmade_last
        from secateur.criteria.samples import first_balanced, sample_maps

        used = first_balanced(reference, self.images, self.name)
        squares = sample_maps(model, used, batch_size, self._squares)
        check_observed(structure, structure.made, squares)
        scores = np.zeros(structure.num_units)
        for layer, figures_NC in squares.items():
            if layer not in structure.made:
                continue
            sizes = summed(structure, structure.made, {layer: figures_NC.numpy()})
            here = np.isin(np.arange(structure.num_units), structure.made[layer])
            for group in structure.groups:
                if here[group.units].any():
                    scores[group.units] = np.maximum(scores[group.units], _rank_scores(sizes[:, group.units]))
        return unmade_last(structure, scores)

    def _squares(self, maps_NCP: torch.Tensor) -> torch.Tensor:
        """Squared L2 norms, which can be summed over a unit's channels and have the same ranks as the norms."""
        return _size(maps_NCP, 2, self.activation) ** 2


def _rank_scores(figures_NU: np.ndarray) -> np.ndarray:
    """(max rank + mean rank as a tie-break) / C, [C]."""
    import numpy as np

    count = figures_NU.shape[1]
    means = np.broadcast_to(figures_NU.mean(0), figures_NU.shape)
    ranks = np.lexsort((means, figures_NU), axis=-1).argsort(-1)
    return np.asarray((ranks.max(0) + (ranks.mean(0) + 0.5) / count) / count)


def kept_at(scores: Scores, ratio: float) -> np.ndarray:
    """Which units stay at a nominal ratio of OCAP, [U] bool: ⌊score·C⌋ ≥ min(⌊ratio·C⌋, C - 1) in their group of C.

    Args:
        scores: scores by `OCAP`, or another criterion with `Criterion.standing`.
        ratio: share of a layer's channels that each image switches off, 0 to 1; the floor allows for rounding errors
            of decimal fractions (0.29 of 100 channels are 29).

    Raises:
        RequestError: for scores of another criterion, or a ratio out of range.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from secateur.criteria import score
        >>> from secateur.data import ReferenceSet
        >>> from secateur.structure import trace
        >>> net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> reference = ReferenceSet(torch.randn(1, 2), torch.tensor([0]), (0,))
        >>> scores = score(net, trace(net, reference.inputs), reference, "ocap")
        >>> [int(kept_at(scores, ratio).sum()) for ratio in (0, 0.25, 0.5, 1)]  # of one image
        [4, 3, 2, 1]
    """
    import numpy as np

    if not scores.standing:
        raise RequestError(
            f"the scores of '{scores.criterion}' do not define what stays at a nominal ratio; use criterion 'ocap'"
        )
    if not 0 <= ratio <= 1:
        raise RequestError(f"a nominal ratio is between 0 and 1, got {ratio}")
    keep = np.ones(scores.structure.num_units, bool)
    for group in scores.structure.groups:
        off = min(math.floor(ratio * group.size + 1e-9), group.size - 1)
        # the tie-break keeps score·C away from integers by far more than rounding errors
        keep[group.units] = np.floor(scores.values[group.units] * group.size) >= off
    return keep


@register("cap")
@dataclass(frozen=True)
class CAP(Criterion):
    """Mean over images of the L1 norm of the unit's maps, summed over the layers that produce it.

    Maps are those after the layer's norm or, where it has none, its nonlinearity.

    Args:
        normalise: normalisation per layer: None, ``l1``, ``l2``, ``sum``.
        activation: function applied to a map before its size is computed: None, ``relu``, ``leaky-relu`` (slope 0.01),
            ``sigmoid``, ``tanh``.
    """

    normalise: str | None = None
    activation: str | None = None

    def __post_init__(self) -> None:
        check_known("activation", self.activation, ACTIVATIONS)
        check_known("normalisation", self.normalise, NORMALISATIONS)

    def unit_scores(
        self, model: nn.Module, structure: Structure, reference: ReferenceSet, *, centred: bool, batch_size: int
    ) -> np.ndarray:
        """See `Criterion.unit_scores`; sizes have no mean that could be compensated: ``centred`` is ignored."""
        from secateur.criteria.aggregation import normalise_layers, over_makers, unmade_last
        from secateur.criteria.samples import sample_maps

        sizes = sample_maps(model, reference, batch_size, self._sizes)
        values = over_makers(structure, {name: figure.mean(0).numpy() for name, figure in sizes.items()})
        return unmade_last(structure, normalise_layers(structure, values, self.normalise))

    def _sizes(self, maps_NCP: torch.Tensor) -> torch.Tensor:
        return _size(maps_NCP, 1, self.activation)


def _size(maps_NCP: torch.Tensor, p: int, activation: str | None) -> torch.Tensor:
    """The Lp norm of each map after an activation, [N, C] float64."""
    import torch
    from torch.nn import functional as F

    if activation is not None:
        known = {"relu": torch.relu, "leaky-relu": F.leaky_relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh}
        maps_NCP = known[activation](maps_NCP)
    norms: torch.Tensor = torch.linalg.vector_norm(maps_NCP, p, 2, dtype=torch.float64)
    return norms


@register("apoz")
@dataclass(frozen=True)
class APoZ(Criterion):
    """1 - the average percentage of zeros after the nonlinearity: units with many zeros are removed (Hu et al. 2016).

    score = mean over images and positions of [a > 0], and over the layers that produce the unit. A value that is not
    positive counts as a zero, so that activations other than ReLU (GELU, SiLU) have zeros as well. For a layer without
    a nonlinearity, the output of its norm or its own output is used.

    Args:
        normalise: normalisation per layer: None, ``l1``, ``l2``, ``sum``.
    """

    normalise: str | None = None

    def __post_init__(self) -> None:
        check_known("normalisation", self.normalise, NORMALISATIONS)

    def unit_scores(
        self, model: nn.Module, structure: Structure, reference: ReferenceSet, *, centred: bool, batch_size: int
    ) -> np.ndarray:
        """See `Criterion.unit_scores`; shares have no mean that could be compensated: ``centred`` is ignored."""
        import numpy as np

        from secateur.criteria.aggregation import normalise_layers, over_makers, unmade_last
        from secateur.criteria.samples import sample_maps

        shares = sample_maps(model, reference, batch_size, _positive_share, "activation")
        means = {name: share.mean(0).numpy() for name, share in shares.items()}
        count = over_makers(structure, {name: np.ones_like(share) for name, share in means.items()})
        shares_U = over_makers(structure, means) / np.maximum(count, 1)
        return unmade_last(structure, normalise_layers(structure, shares_U, self.normalise))


def _positive_share(maps_NCP: torch.Tensor) -> torch.Tensor:
    import torch

    return (maps_NCP > 0).sum(2).to(torch.float64) / maps_NCP.shape[2]
