"""The work on one cell: a trial of the search, or a candidate on other images."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import nn

from secateur.attribution import attribute
from secateur.core.errors import RequestError, SecateurError, TimeLimitError
from secateur.core.figures import count
from secateur.core.randomness import numpy_generator
from secateur.criteria import get, parse, score
from secateur.data import ImageData, LabelledImages, ReferenceSet
from secateur.evaluation.faithfulness import Faithfulness, pixel_flipping
from secateur.experiments import Resource, Resources, Result, fingerprint
from secateur.pipeline.contents import data_digest, weights_digest
from secateur.pipeline.estimate import Estimate, duration, forward_seconds, scoring_seconds
from secateur.pipeline.explanation import explain, first_of_classes
from secateur.pipeline.jobs import opened, subject
from secateur.pipeline.pruning_curve import CurveMeter, PruningCurve, RatePoint
from secateur.pipeline.repair import Repair
from secateur.pipeline.run import Prepared
from secateur.pipeline.settings import PruneSettings
from secateur.pipeline.subsets import drawn, with_head
from secateur.reports import heatmap_png, image_png
from secateur.structure import Structure, trace
from secateur.studies.search.cells import MeasureCell, ShowCell, TrialCell
from secateur.studies.search.settings import KINDS, OPTIMISED, ObjectiveSettings, SearchStudySettings
from secateur.studies.search.space import (
    Parameters,
    Row,
    Space,
    best_of,
    composite_of,
    criterion_of,
    proposal,
)
from secateur.studies.search.tables import COMPLETE, FAILED, FOR_PEOPLE, FOR_PRUNING, STOPPED

T = TypeVar("T")

_COARSE = 0.6
"""Of the cost of all rates beside as many evaluations of the unpruned network, for estimates of time."""


@dataclass(frozen=True, eq=False)
class Subject:
    """The network of one seed: for all classes, or for those that the seed draws.

    Attributes:
        model: in eval mode.
        data: labelled as the network answers.
        structure: of the network.
        protect: groups whose units stay.
    """

    model: nn.Module
    data: ImageData
    structure: Structure
    protect: tuple[str, ...]

    @classmethod
    def of(cls, prepared: Prepared, objective: ObjectiveSettings, seed: int) -> Subject:
        """Draw the classes, where some are drawn, and trace the network.

        Raises:
            RequestError: for more classes than there are, or units of a kind that the network lacks.
        """
        model, data = prepared.model, prepared.data
        if objective.classes is not None:
            names = data.class_names
            if objective.classes > len(names):
                raise RequestError(
                    f"objective.classes draws {objective.classes} classes, there are {len(names)}; draw fewer"
                )
            order = numpy_generator(seed, "search", "classes").permutation(len(names))
            classes = tuple(sorted(int(place) for place in order[: objective.classes]))
            example = data.test.batch([0])[0].to(prepared.device)
            model, data = with_head(model, classes, "slice", example), data.only(classes, renumber=True)
        structure = trace(model, data.test.batch([0])[0].to(prepared.device))
        return cls(model, data, structure, _protected(structure, objective.units))

    def reference(self, per_class: int, seed: int, device: torch.device) -> ReferenceSet:
        """Reference samples of its classes."""
        found = ReferenceSet.sample(self.data.train, per_class, seed)
        return replace(found, inputs=found.inputs.to(device), targets=found.targets.to(device))


class _Last(Generic[T]):
    """Values that take time or memory, of which the last ones are kept."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[Hashable, T] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of a key, made now unless it is at hand."""
        if key not in self._kept:
            while len(self._kept) >= self._limit:
                self._kept.popitem(last=False)
            self._kept[key] = make()
        self._kept.move_to_end(key)
        return self._kept[key]


class Bench:
    """Network, data and images in memory, and what is done with them.

    Args:
        settings: of the study.

    Raises:
        RequestError: for data and network that do not go together, or units that the network lacks.
    """

    def __init__(self, settings: SearchStudySettings) -> None:
        self.settings = settings
        self.prepared = opened(settings.recipe)
        self.prepared.model.eval()
        seeds = len(settings.search.seeds)
        self._subjects: _Last[Subject] = _Last(seeds)
        self._meters: _Last[CurveMeter] = _Last(seeds)
        self._references: _Last[ReferenceSet] = _Last(seeds * len(settings.space.per_class))
        first = self.subject(settings.search.seeds[0])
        attention = any(group.kind == "heads" for group in first.structure.groups)
        self.space = Space.of(settings.space, settings.objective, attention)

    @cached_property
    def fingerprint(self) -> str:
        """Of network and data."""
        return fingerprint(weights_digest(self.prepared.model), data_digest(self.prepared.data))

    def subject(self, seed: int) -> Subject:
        """The network of a seed; without drawn classes, the same for all."""
        key = seed if self.settings.objective.classes is not None else 0
        return self._subjects.get(key, lambda: Subject.of(self.prepared, self.settings.objective, key))

    def trial(self, cell: TrialCell, earlier: Sequence[Row]) -> Result:
        """Propose a setting, and try it; one that fails is a row, too."""
        begin, settings = time.perf_counter(), self.settings
        goals = ["estimate"] + ["faithfulness"] * settings.objective.faithfulness
        parameters = proposal(self.space, settings.sampler, earlier, cell.number, goals)
        row: dict[str, Any] = {"number": cell.number, "state": FAILED, **parameters}
        curves: list[PruningCurve] = []
        try:
            least = self._least(earlier)
            for seed in settings.search.seeds:
                curves.append(self._tried(parameters, seed, least))
                if not curves[-1].whole:
                    break
            row |= self._judged(parameters, curves)
        except (MemoryError, torch.OutOfMemoryError, TimeLimitError):
            raise  # of this machine, not of the setting: the cell may be worked on again
        except Exception as error:  # noqa: BLE001 - of this setting alone: the search goes on
            kind = "" if isinstance(error, SecateurError) else f"{type(error).__name__}: "
            row |= {"reason": kind + " ".join(str(error).split())}
        row["seconds"] = time.perf_counter() - begin
        seeds = settings.search.seeds
        points = [
            {"number": cell.number, "seed": seed, **asdict(point)}
            for seed, curve in zip(seeds, curves, strict=False)
            for point in curve.points
        ]
        return Result({"trials": [row], "trial_curves": points})

    def _least(self, earlier: Sequence[Row]) -> float | None:
        """The median of the earlier trials' estimates; None: there are too few, or none is stopped."""
        asked, found = self.settings.sampler, [row["estimate"] for row in earlier if row["estimate"] is not None]
        if not asked.stop or self.settings.objective.faithfulness or len(found) < asked.startup:
            return None
        return float(np.median(found))

    def _tried(self, parameters: Parameters, seed: int, least: float | None) -> PruningCurve:
        objective = self.settings.objective

        def proceed(curve: PruningCurve) -> bool:
            return least is None or goal_of(self._filled(curve), objective.goal) >= least

        return self._curve(criterion_of(parameters), parameters, seed, "search", proceed)

    def _filled(self, curve: PruningCurve) -> PruningCurve:
        """With the rates that were not measured between those that were, and beyond them as at the last."""
        if curve.whole:
            return curve
        rates = self.settings.objective.rates
        known = [point.rate for point in curve.points]
        columns = {
            name: np.interp(rates, known, [getattr(point, name) for point in curve.points])
            for name in ("accuracy", "units", "params", "macs")
        }
        return PruningCurve(
            tuple(
                RatePoint(rate, **{name: float(values[place]) for name, values in columns.items()})
                for place, rate in enumerate(rates)
            )
        )

    def _judged(self, parameters: Parameters, curves: Sequence[PruningCurve]) -> dict[str, Any]:
        """Figures of a trial, means over seeds."""
        goal, whole = self.settings.objective.goal, all(curve.whole for curve in curves)
        found: dict[str, Any] = {
            "state": COMPLETE if whole else STOPPED,
            "estimate": float(np.mean([goal_of(self._filled(curve), goal) for curve in curves])),
        }
        if whole:
            found |= _areas(curves)
        if self.settings.objective.faithfulness:
            flipped, gap = self._faithful(parameters)
            found |= {"deletion": flipped.deletion, "insertion": flipped.insertion, "faithfulness": flipped.gain}
            found["conservation_gap"] = gap
        return found

    def _curve(
        self, criterion: str, parameters: Parameters, seed: int, images: str, proceed: Any = None
    ) -> PruningCurve:
        objective, pruned = self.settings.objective, self.subject(seed)
        name, given = parse(criterion)
        chosen = get(name, **given).seeded(seed)
        reference = self._reference(parameters["per_class"], seed)
        scores = score(pruned.model, pruned.structure, reference, chosen)
        repair = None
        if objective.repair != "none":
            repair = Repair.of(PruneSettings(repair=objective.repair), reference, None)
        return self._meter(images, seed).curve(
            scores,
            objective.rates,
            objective.strategy,
            protect=pruned.protect,
            order=parameters["order"],
            repair=repair,
            proceed=proceed,
        )

    def _reference(self, per_class: int, seed: int) -> ReferenceSet:
        place = self.prepared.device
        return self._references.get((per_class, seed), lambda: self.subject(seed).reference(per_class, seed, place))

    def images(self, which: str, seed: int) -> LabelledImages:
        """Images of the search, or of the measurement: drawn by chance, without augmentation."""
        asked = self.settings.search if which == "search" else self.settings.measured
        images: LabelledImages = getattr(self.subject(seed).data, asked.split).replace(augmentation=None)
        return images.subset(drawn(len(images), asked.limit, "search", which))

    def _meter(self, which: str, seed: int) -> CurveMeter:
        """Images stay in memory as long as the network of a seed is the same."""

        def made() -> CurveMeter:
            images, place = self.images(which, seed), self.prepared.device
            inputs, labels = images.batch(range(len(images)))
            size = self.settings.search.batch_size
            return CurveMeter(self.subject(seed).model, inputs.to(place), labels.to(place), size)

        return self._meters.get((which, seed if self.settings.objective.classes is not None else 0), made)

    def _faithful(self, parameters: Parameters) -> tuple[Faithfulness, float]:
        """Of heatmaps of the first seed's network; and what they lack of the start relevance."""
        objective, seed = self.settings.objective, self.settings.search.seeds[0]
        images = self.images("search", seed)
        inputs, labels = images.batch(range(min(objective.images, len(images))))
        inputs, labels = inputs.to(self.prepared.device), labels.to(self.prepared.device)
        model = self.subject(seed).model
        bounds = images.normalisation.bounds()
        found = attribute(model, inputs, labels, composite_of(parameters), start=parameters["start"], bounds=bounds)
        flipped = pixel_flipping(model, inputs, labels, found.input.sum(1), patch=objective.patch)
        gap = (found.input.flatten(1).sum(1) - found.start).abs() / found.start.abs().clamp(min=1e-12)
        return flipped, float(gap.mean())

    def measured(self, cell: MeasureCell, trials: Sequence[Row]) -> Result:
        """A candidate on images that the search has not seen."""
        begin, settings = time.perf_counter(), self.settings
        per_class = settings.measured.per_class
        if cell.candidate == OPTIMISED:
            best = best_of(trials, settings.objective.goal)
            criterion, parameters = criterion_of(best), {"order": best["order"], "per_class": best["per_class"]}
        else:
            criterion, parameters = cell.candidate, {"order": "least", "per_class": per_class}
        if cell.per_class is not None:
            parameters["per_class"] = cell.per_class
        curve = self._curve(criterion, parameters, cell.seed, "measure")
        keys = {
            "candidate": cell.candidate,
            "criterion": criterion,
            "per_class": parameters["per_class"],
            "main": cell.per_class is None,
            "seed": cell.seed,
        }
        samples = len(self.images("measure", cell.seed))
        row = {**keys, **_areas([curve]), "samples": samples, "seconds": time.perf_counter() - begin}
        points = [{**keys, **asdict(point), "samples": samples} for point in curve.points]
        return Result({"measured": [row], "curves": points})

    def shown(self, cell: ShowCell, trials: Sequence[Row]) -> Result:
        """Heatmaps under the setting that prunes best and, where it was searched for, under the most faithful one."""
        settings, seed = self.settings, self.settings.search.seeds[0]
        chosen = {FOR_PRUNING: best_of(trials, settings.objective.goal)}
        if settings.objective.faithfulness:
            chosen[FOR_PEOPLE] = best_of(trials, "faithfulness")
        images, model = self.images("measure", seed), self.subject(seed).model
        places = first_of_classes(images, min(cell.images, len(images)))
        rows: list[dict[str, Any]] = []
        for setting, trial in chosen.items():
            composite = composite_of(trial)
            for item in explain([model], images, places, composite, start=trial["start"], progress=False):
                rows.append(
                    {
                        "setting": setting,
                        "number": trial["number"],
                        "composite": composite,
                        "image": item.index,
                        "label": item.label,
                        "predicted": item.predicted[0],
                        "pixels": image_png(item.pixels) if setting == FOR_PRUNING else "",
                        "relevance": heatmap_png(item.relevance[0]),
                    }
                )
        return Result({"heatmaps": rows})

    def description(self, trials: int, measured: int) -> list[str]:
        """What the work would be, and about how long it would take."""
        settings, first = self.settings, self.subject(self.settings.search.seeds[0])
        seeds, rates = settings.search.seeds, len(settings.objective.rates)
        images, others = self.images("search", seeds[0]), self.images("measure", settings.measure.seeds[0])
        image = forward_seconds(first.model, images, self.prepared.device)
        per_class = max(settings.space.per_class)
        reference = self._reference(per_class, seeds[0])
        scoring = scoring_seconds(first.model, first.structure, reference, get("lrp"), 64) or 0.0
        trial = len(seeds) * (scoring + _COARSE * rates * len(images) * image)
        each = scoring + _COARSE * rates * len(others) * image
        units = first.structure.num_units - sum(
            group.size for group in first.structure.groups if group.name in first.protect
        )
        size = self.space.size()
        return [
            subject(self.prepared),
            f"search {trials} settings{'' if size is None else f' of {size:,}'} by {settings.sampler.kind}, each by "
            f"{rates} pruning rates of {units:,} units on {len(images):,} {settings.search.split} images, "
            f"{count(per_class * len(first.data.class_names))} reference samples at most",
            f"measure {measured} curves on {len(others):,} {settings.measured.split} images",
            str(
                Estimate(
                    trials * trial + measured * each,
                    (f"at most {duration(trials * trial)} for the search", f"{duration(measured * each)} after it"),
                )
            ),
        ]


@dataclass(frozen=True, eq=False)
class BenchOf(Resource[Bench]):
    """Network, data and images that settings name."""

    settings: SearchStudySettings

    def make(self, resources: Resources) -> Bench:
        """Open them."""
        return Bench(self.settings)


def goal_of(curve: PruningCurve, goal: str) -> float:
    """The figure of a curve that is maximised."""
    if goal == "kept_rate":
        return curve.highest()
    return curve.a_pr if goal == "a_pr" else curve.area(goal.removeprefix("area_"))


def _areas(curves: Sequence[PruningCurve]) -> dict[str, float]:
    """All figures of curves, means."""
    figures: Mapping[str, list[float]] = {
        "a_pr": [curve.a_pr for curve in curves],
        **{f"area_{kind}": [curve.area(kind) for curve in curves] for kind in ("units", "params", "macs")},
        "kept_rate": [curve.highest() for curve in curves],
        "kept_rate_99": [curve.highest(0.99) for curve in curves],
    }
    return {name: float(np.mean(values)) for name, values in figures.items()}


def _protected(structure: Structure, units: str) -> tuple[str, ...]:
    """Groups whose units stay, because they are of another kind."""
    if units == "all":
        return ()
    kinds = KINDS[units]
    if not any(group.kind in kinds for group in structure.groups):
        there = sorted({name for name, known in KINDS.items() for group in structure.groups if group.kind in known})
        raise RequestError(f"the network has no {units} that could go; objective.units may be all, {', '.join(there)}")
    return tuple(group.name for group in structure.groups if group.kind not in kinds)
