"""One pruning: 1000 of 3000 neurons go; accuracy before and after. And what prunings share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch

from secateur.core.errors import SecateurError
from secateur.core.threads import one_thread
from secateur.criteria import score_each
from secateur.data import ReferenceSet
from secateur.experiments import Resource, Resources, Result, fingerprint
from secateur.structure import trace
from secateur.studies.toy.cells import ToyCell
from secateur.studies.toy.criteria import criterion_for
from secateur.studies.toy.data import Points, draw, draw_noisy
from secateur.studies.toy.given_points import training_points
from secateur.studies.toy.network import place, trained
from secateur.studies.toy.pruning import Begun, Cut, Cutter, remaining
from secateur.studies.toy.settings import NetworkSettings, ToySettings


class Bench:
    """A trained network with what all its prunings share.

    Args:
        dataset: see `secateur.studies.toy.data.classes_of`.
        settings: of the network.
        given: training points; None: they are drawn.
    """

    def __init__(self, dataset: str, settings: NetworkSettings, given: Points | None = None) -> None:
        self.dataset, self.name = dataset, settings.name(given)
        self.model = trained(dataset, settings, given)
        self.train = given or draw(dataset, settings.per_class, settings.seed)
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

    @cached_property
    def fingerprint(self) -> str:
        """Of the weights."""
        return fingerprint(
            *(part for name, tensor in self.model.state_dict().items() for part in (name, tensor.numpy().tobytes()))
        )

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

    def measured(self, points: Points) -> Measured:
        """Points to measure accuracy on, and how good the unpruned network is there."""
        with one_thread():
            begun = self.cutter.begin(points.x)
            return Measured(points, begun, self.uncut.accuracy(begun, points.labels))

    def after(self, keep: np.ndarray, cut: Cut) -> float:
        """Accuracy on the training points; criteria that look at no samples choose the same units every time."""
        name = np.packbits(keep).tobytes()
        if name not in self._known:
            self._known[name] = cut.accuracy(self.begun, self.train.labels)
        return self._known[name]


@dataclass(frozen=True, eq=False)
class Measured:
    """Points, what all prunings have in common on them, and the unpruned network's accuracy in %."""

    points: Points
    begun: Begun
    before: float


@dataclass(frozen=True)
class BenchOf(Resource[Bench]):
    """The trained network of a data set; stored in the cache.

    Attributes:
        dataset: see `secateur.studies.toy.data.classes_of`.
        network: how it is trained.
        training: on which points, see `secateur.studies.toy.given_points.training_points`; None: drawn ones.
    """

    dataset: str
    network: NetworkSettings
    training: str | None = None

    def __str__(self) -> str:
        return f"network of {self.dataset}"

    @classmethod
    def of(cls, dataset: str, settings: ToySettings) -> BenchOf:
        """As the settings of the study have it."""
        return cls(dataset, settings.network, settings.training.data)

    def make(self, resources: Resources) -> Bench:
        """Train it, or find it."""
        return Bench(self.dataset, self.network, self._given())

    def ready(self) -> bool:
        """Whether it is trained."""
        return place(self.dataset, self.network, self._given()).exists()

    def _given(self) -> Points | None:
        return None if self.training is None else training_points(self.training, self.dataset)


@dataclass(frozen=True)
class Noisy(Resource[dict[float, Measured]]):
    """Unseen noisy points of a seed, by σ."""

    bench: BenchOf
    noise: tuple[float, ...]
    seed: int

    def make(self, resources: Resources) -> dict[float, Measured]:
        """Draw them."""
        bench = resources.get(self.bench)
        return {sigma: bench.measured(draw_noisy(bench.dataset, sigma, self.seed)) for sigma in self.noise}


@dataclass(frozen=True)
class Drawn(Resource[Measured]):
    """Reference samples."""

    limit: ClassVar[int] = 16

    bench: BenchOf
    samples_per_class: int
    seed: int

    def make(self, resources: Resources) -> Measured:
        """Draw them."""
        bench = resources.get(self.bench)
        return bench.measured(draw(bench.dataset, self.samples_per_class, self.seed))


@dataclass(frozen=True)
class Orders(Resource[dict[str, np.ndarray | SecateurError]]):
    """Pruning orders by all criteria of the study, which share passes; in place of an order, why there is none."""

    limit: ClassVar[int] = 16

    bench: BenchOf
    criteria: tuple[str, ...]
    samples_per_class: int
    seed: int

    def make(self, resources: Resources) -> dict[str, np.ndarray | SecateurError]:
        """Score the units; an order does not depend on the other criteria."""
        bench = resources.get(self.bench)
        try:
            return dict(bench.orders(self.criteria, self.samples_per_class, self.seed))
        except SecateurError as error:
            if len(self.criteria) == 1:
                return {self.criteria[0]: error}
        alone = [Orders(self.bench, (text,), self.samples_per_class, self.seed) for text in self.criteria]
        return {text: order for each in alone for text, order in each.make(resources).items()}


def order_of(cell: ToyCell, settings: ToySettings, resources: Resources) -> np.ndarray:
    """Unit indices in pruning order, the first removed first, [U] uint16."""
    bench = BenchOf.of(cell.dataset, settings)
    found = resources.get(Orders(bench, settings.grid.criteria, cell.samples_per_class, cell.seed))
    order = found[cell.criterion]
    if isinstance(order, SecateurError):
        raise order
    return order


def prune_once(cell: ToyCell, settings: ToySettings, resources: Resources) -> Result:
    """Remove the units that come first, and measure."""
    place = BenchOf.of(cell.dataset, settings)
    bench = resources.get(place)
    order = order_of(cell, settings, resources)
    reference = resources.get(Drawn(place, cell.samples_per_class, cell.seed))
    noisy = resources.get(Noisy(place, settings.pruning.noise, cell.seed))
    measured = [("test", 0.0, reference), *(("noisy", sigma, points) for sigma, points in noisy.items())]
    keep = remaining(order, settings.pruning.remove)
    with one_thread():
        cut = bench.cutter.cut(keep)
        accuracies = [("train", 0.0, "pre", bench.before), ("train", 0.0, "post", bench.after(keep, cut))]
        for name, sigma, points in measured:
            after = cut.accuracy(points.begun, points.points.labels)
            accuracies += [(name, sigma, "pre", points.before), (name, sigma, "post", after)]
    own = {"network": bench.name, "removed": settings.pruning.remove}
    rows = [
        cell.coordinates | {"evaluated_on": name, "noise": sigma, "stage": stage, "accuracy": float(accuracy)} | own
        for name, sigma, stage, accuracy in accuracies
    ]
    return Result({"results": rows, "orders": [cell.coordinates | {"order": order.astype("<u2").tobytes()}]})


def untrained(settings: ToySettings) -> list[str]:
    """Data sets whose network is not in the cache."""
    return [bench.dataset for bench in benches(settings) if not bench.ready()]


def benches(settings: ToySettings) -> Sequence[BenchOf]:
    """The networks of all data sets."""
    return [BenchOf.of(name, settings) for name in settings.grid.datasets]
