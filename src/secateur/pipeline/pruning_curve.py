"""Accuracy over pruning rates without training, which measures the quality of a ranking of units.

Source: Hatefi et al., "Pruning by explaining revisited" (2024), for A_PR.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from secateur.attribution.starts import logits_of
from secateur.core.borrowing import eval_mode
from secateur.core.errors import RequestError, SecateurError
from secateur.criteria import Scores
from secateur.pipeline.folding import Folding
from secateur.pipeline.repair import Repair
from secateur.pipeline.unchanged import Unchanged
from secateur.selection import Plan, select_nominal
from secateur.surgery import mask, prune

RATES = tuple(round(0.05 * step, 2) for step in range(20))
"""Shares of removed units: 0, 5, ... 95 %."""

KEEPING = 0.95
"""Share of the unpruned accuracy that counts as kept."""


@dataclass(frozen=True)
class RatePoint:
    """A network at one pruning rate.

    Attributes:
        rate: nominal share of removed units.
        accuracy: share of correct predictions.
        units: share of units that stays.
        params: share of parameters that stays.
        macs: share of MACs that stays.
    """

    rate: float
    accuracy: float
    units: float = 1.0
    params: float = 1.0
    macs: float = 1.0


@dataclass(frozen=True)
class PruningCurve:
    """Accuracy over pruning rates.

    Attributes:
        points: measurements by rate, ascending.
        whole: whether all rates were measured; False where the measurement was stopped early.
    """

    points: tuple[RatePoint, ...]
    whole: bool = True

    @property
    def a_pr(self) -> float:
        """Mean accuracy over the rates."""
        return float(np.mean([point.accuracy for point in self.points]))

    def area(self, kind: str) -> float:
        """Mean accuracy over the removed share, by the trapezoidal rule, up to the largest share reached.

        Args:
            kind: ``units``, ``params`` or ``macs``.

        Example:
            >>> PruningCurve((RatePoint(0, 0.9), RatePoint(0.5, 0.7, macs=0.6))).area("macs").__round__(6)
            0.8
        """
        gone = np.array([1 - getattr(point, kind) for point in self.points])
        accuracy = np.array([point.accuracy for point in self.points])
        order = np.argsort(gone, kind="stable")
        gone, accuracy = gone[order], accuracy[order]
        width = np.diff(gone)
        if not width.sum():
            return float(accuracy[0])
        return float((width * (accuracy[1:] + accuracy[:-1]) / 2).sum() / width.sum())

    def highest(self, keeping: float = KEEPING) -> float:
        """The highest rate up to which every network keeps this share of the unpruned accuracy."""
        least = keeping * self.points[0].accuracy
        highest = 0.0
        for point in self.points:
            if point.accuracy < least:
                break
            highest = point.rate
        return highest


Proceed = Callable[[PruningCurve], bool]


class CurveMeter:
    """Measures pruning curves of one network on images that stay in memory.

    Networks are pruned physically, so that small networks cost less; batch norms are folded into the layers before
    them; the first layers that networks share with the unpruned one are computed once (see `Unchanged`); and the
    unpruned network is measured once. The accuracy is the same as that of `secateur.evaluate` on each network. All
    networks of the first curve are checked against masked ones, see `secateur.verify`, and one of each later curve.
    Different scores often give the same ranking: a network that was measured before is not measured again, unless it is
    masked or repaired.

    Args:
        model: the unpruned network; it is not changed.
        inputs: [N, ...], on the device of the network.
        labels: class indices, [N].
        batch_size: samples per pass.

    Example:
        >>> import numpy as np
        >>> import secateur as sc
        >>> net = nn.Sequential(nn.Linear(4, 20), nn.ReLU(), nn.Linear(20, 2))
        >>> inputs, labels = torch.randn(8, 4), torch.tensor([0, 1] * 4)
        >>> scores = Scores(sc.trace(net, inputs[:1]), np.arange(20.0), "by hand")
        >>> curve = CurveMeter(net, inputs, labels).curve(scores)
        >>> len(curve.points), curve.points[-1].units
        (20, 0.05)
    """

    def __init__(self, model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor, batch_size: int = 250) -> None:
        if not len(inputs):
            raise RequestError("there are no images to measure a pruning curve on")
        self._layout = torch.channels_last if inputs.ndim == 4 else torch.preserve_format
        self.model, self._batch_size = model, batch_size
        self._inputs = inputs.contiguous(memory_format=torch.channels_last) if inputs.ndim == 4 else inputs
        self._labels = labels.to(inputs.device)
        self._folding = Folding.of(model, self._inputs[:2])
        self._batches = self._inputs.split(batch_size)
        self._unchanged: Unchanged | None = None
        self._unpruned: float | None = None
        self._known: dict[bytes, float] = {}
        self._checked = False

    @property
    def unpruned(self) -> float:
        """Accuracy of the unpruned network; measured once."""
        if self._unpruned is None:
            self._unpruned = self.accuracy(self.model)
        return self._unpruned

    def forget(self) -> None:
        """Forget all measurements."""
        self._unpruned = self._unchanged = None
        self._known.clear()

    def accuracy(self, model: nn.Module) -> float:
        """Share of correct predictions of any network."""
        right = 0
        with eval_mode(model), torch.inference_mode():
            for x, y in zip(self._batches, self._labels.split(self._batch_size), strict=True):
                logits = logits_of(model(x))
                if not torch.isfinite(logits).all():
                    raise SecateurError("logits of a pruned network are not finite")
                right += int((logits.argmax(1) == y).sum())
        return right / len(self._labels)

    def curve(
        self,
        scores: Scores,
        rates: Sequence[float] = RATES,
        strategy: str = "global",
        *,
        protect: Sequence[str] = (),
        order: str = "least",
        repair: Repair | None = None,
        masked: bool = False,
        proceed: Proceed | None = None,
    ) -> PruningCurve:
        """Accuracy at each rate; units with the lowest scores are removed first.

        Rates are measured from coarse to fine: every fourth of them, those in the middle between, the rest.

        Args:
            scores: scores of the units of this network.
            rates: nominal shares of removed units, ascending from 0.
            strategy: how units are ranked, see `secateur.selection.select_nominal`.
            protect: names of layers and groups whose units stay.
            order: ``least`` or ``most`` relevant first.
            repair: repair of each pruned network.
            masked: mask units instead of removing them: the same accuracies, at full cost.
            proceed: called after the first pass with the rates that it measured; False ends the measurement.

        Raises:
            RequestError: for rates that do not start with 0, or repair of masked networks.
            SecateurError: where a network's logits are not finite.
        """
        if not rates or rates[0] != 0 or list(rates) != sorted(set(rates)) or rates[-1] >= 1:
            raise RequestError(f"rates are shares of removed units, ascending from 0 to below 1, got {list(rates)}")
        if masked and repair is not None:
            raise RequestError("masked networks are not repaired; set masked=False, or leave the repair out")
        if order == "most":
            scores = Scores(scores.structure, -scores.values, scores.criterion)
        points = {0: RatePoint(rates[0], self.unpruned)}
        checked, plain = False, repair is None and not masked
        passes = _coarse_to_fine(len(rates))
        for number, positions in enumerate(passes):
            for position in positions:
                if position:
                    plan = select_nominal(scores, rates[position], strategy, protect=protect, nothing=True)
                    key = hashlib.sha256(plan.keep(scores.structure).tobytes()).digest()
                    accuracy = self._known.get(key) if plain else None
                    if accuracy is None:
                        accuracy = self._pruned_accuracy(plan, repair, masked, not self._checked or not checked)
                        checked = True
                    if plain:
                        self._known[key] = accuracy
                    shares = {kind: float(plan.achieved[kind]) for kind in ("units", "params", "macs")}
                    points[position] = RatePoint(rates[position], accuracy, **shares)
            last = number + 1 == len(passes)
            self._checked |= last and not masked
            curve = PruningCurve(tuple(points[position] for position in sorted(points)), last)
            if number == 0 and not last and proceed is not None and not proceed(curve):
                return curve
        return curve

    def _pruned_accuracy(self, plan: Plan, repair: Repair | None, masked: bool, check: bool) -> float:
        if masked:
            return self.accuracy(mask(self.model, plan))
        slim = prune(self.model, plan, check=check)
        if repair is not None:
            repair(slim, self.model, plan)
        slim = self._ready(slim)
        if self._unchanged is None:
            self._unchanged = Unchanged(self._ready(copy.deepcopy(self.model)), self._batches)
        with self._unchanged.shortened(slim):
            return self.accuracy(slim)

    def _ready(self, model: nn.Module) -> nn.Module:
        """A network prepared for fast passes."""
        self._folding(model)
        return model.eval().to(memory_format=self._layout)


def _coarse_to_fine(count: int) -> list[list[int]]:
    """Positions 0 ... count - 1 in passes: every fourth, then those in the middle between, then the rest.

    Example:
        >>> _coarse_to_fine(9)
        [[0, 4, 8], [2, 6], [1, 3, 5, 7]]
    """
    passes = [list(range(0, count, 4)), list(range(2, count, 4)), list(range(1, count, 2))]
    return [positions for positions in passes if positions]
