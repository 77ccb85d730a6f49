"""One run: a data set, a seed, reference samples, a criterion; 1000 of 3000 neurons go; accuracy before and after."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from secateur.core.threads import one_thread
from secateur.criteria import score_each
from secateur.data import ReferenceSet
from secateur.structure import trace
from secateur.studies.toy.accuracy import COLUMNS
from secateur.studies.toy.criteria import criterion_for
from secateur.studies.toy.data import Points, draw, draw_noisy
from secateur.studies.toy.network import trained
from secateur.studies.toy.pruning import Begun, Cut, Cutter, remaining
from secateur.studies.toy.ranks import Run
from secateur.studies.toy.settings import NetworkSettings, ToySettings


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one pruning gave.

    Attributes:
        run: which.
        accuracies: (evaluated_on, noise, stage, accuracy in %), as in the table.
        order: unit indices in pruning order, first removed first, [U] uint16; units are counted through the layers.
    """

    run: Run
    accuracies: tuple[tuple[str, float, str, float], ...]
    order: np.ndarray

    def rows(self, settings: ToySettings) -> list[dict[str, Any]]:
        """Rows of the table, keys as in `COLUMNS`."""
        run = (self.run.dataset, self.run.criterion, self.run.samples_per_class, self.run.seed)
        own = (settings.network.name, settings.remove)
        return [dict(zip(COLUMNS, (*run, *measured, *own), strict=True)) for measured in self.accuracies]


class Bench:
    """A trained network with all that its runs share.

    Args:
        dataset: see `secateur.studies.toy.data.classes_of`.
        settings: of the network.
    """

    def __init__(self, dataset: str, settings: NetworkSettings) -> None:
        self.dataset = dataset
        self.model = trained(dataset, settings)
        self.train = draw(dataset, settings.per_class, settings.seed)
        with one_thread():
            self.structure = trace(self.model, torch.zeros(1, 2))
            self.cutter = Cutter(self.model)
            self.begun = self.cutter.begin(self.train.x)
            self.uncut = self.cutter.cut(self.whole)
            self.before = self.uncut.accuracy(self.begun, self.train.labels)
        self._known: dict[bytes, float] = {}

    @property
    def whole(self) -> np.ndarray:
        """Every unit stays, [U]."""
        return np.ones(self.structure.num_units, bool)

    def orders(self, criteria: Iterable[str], samples_per_class: int, seed: int) -> dict[str, np.ndarray]:
        """Units by rising score, [U] uint16 each; equal scores in the order of the network."""
        points = draw(self.dataset, samples_per_class, seed)
        reference = ReferenceSet(
            torch.from_numpy(points.x), torch.from_numpy(points.labels), tuple(range(len(points))), None
        )
        texts = list(criteria)
        with one_thread():
            found = score_each(
                self.model,
                self.structure,
                reference,
                [criterion_for(text, seed) for text in texts],
                batch_size=len(points),
            )
        return {
            text: np.argsort(scores.values, kind="stable").astype(np.uint16)
            for text, scores in zip(texts, found, strict=True)
        }

    def outcomes(
        self, wanted: Mapping[int, Sequence[str]], seed: int, noise: Sequence[float], remove: int
    ) -> list[Outcome]:
        """Prune and measure.

        The result of a run does not depend on which others are asked for with it.

        Args:
            wanted: samples per class to criteria.
            seed: of the reference samples, the noisy points and criteria that draw.
            noise: σ of each set of noisy points.
            remove: units that go.
        """
        with one_thread():
            unseen = [(sigma, *self._begin(draw_noisy(self.dataset, sigma, seed))) for sigma in noise]
            found = []
            for samples_per_class, criteria in wanted.items():
                reference = draw(self.dataset, samples_per_class, seed)
                measured = [("test", 0.0, *self._begin(reference)), *(("noisy", *item) for item in unseen)]
                for text, order in self.orders(criteria, samples_per_class, seed).items():
                    keep = remaining(order, remove)
                    cut = self.cutter.cut(keep)
                    accuracies = [("train", 0.0, "pre", self.before), ("train", 0.0, "post", self._after(keep, cut))]
                    for name, sigma, points, begun, before in measured:
                        after = cut.accuracy(begun, points.labels)
                        accuracies += [(name, sigma, "pre", before), (name, sigma, "post", after)]
                    found.append(Outcome(Run(self.dataset, text, samples_per_class, seed), tuple(accuracies), order))
        return found

    def _begin(self, points: Points) -> tuple[Points, Begun, float]:
        begun = self.cutter.begin(points.x)
        return points, begun, self.uncut.accuracy(begun, points.labels)

    def _after(self, keep: np.ndarray, cut: Cut) -> float:
        """Accuracy on the training points; criteria that look at no samples choose the same units every time."""
        name = np.packbits(keep).tobytes()
        if name not in self._known:
            self._known[name] = cut.accuracy(self.begun, self.train.labels)
        return self._known[name]
