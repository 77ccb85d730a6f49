"""A network pruned step by step: cut, measured, trained, measured; and what all cells share."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from secateur.core.errors import RequestError
from secateur.core.figures import size
from secateur.core.files import cache_folder, ensure_folder
from secateur.criteria import get, parse
from secateur.criteria.samples import first_balanced
from secateur.data import ImageData, LabelledImages, ReferenceSet, loader
from secateur.data.duplicates import fingerprints, near_duplicates
from secateur.evaluation import evaluate, measure_latency, measure_memory
from secateur.experiments import Resource, Resources, Result, fingerprint
from secateur.experiments.cells import canonical
from secateur.models import load_weights, save_weights
from secateur.pipeline.contents import data_digest, weights_digest
from secateur.pipeline.estimate import Estimate, duration, forward_seconds
from secateur.pipeline.jobs import TrainJob, check_budget, opened, subject, training_seconds
from secateur.pipeline.repair import Repair
from secateur.pipeline.run import Prepared
from secateur.pipeline.stepwise import Stepwise
from secateur.pipeline.subsets import drawn
from secateur.selection import Budget, Plan
from secateur.structure import Structure, trace
from secateur.studies.stepwise.cells import UNPRUNED, StepCell, TimeCell
from secateur.studies.stepwise.pictures import picture_rows
from secateur.studies.stepwise.settings import VERSION, StepwiseSettings
from secateur.studies.stepwise.tables import FINAL, PRUNED, TUNED, UNPRUNED_STAGE
from secateur.surgery import prune
from secateur.training import TrainSettings, fit
from secateur.training.repetition import repeated
from secateur.training.settings import WHERE

Row = dict[str, Any]

_LARGEST = 8 * 2**30
"""Bytes of reference samples that are held in memory."""


def train_or_find(prepared: Prepared) -> None:
    """Train the network in place, or take its weights from the cache, where they were put when it was trained before.

    Interrupted training goes on at its last whole epoch.
    """
    how = _plain(prepared.recipe.train)
    key = fingerprint(_made_by(), weights_digest(prepared.model), data_digest(prepared.data), canonical(how))
    path = cache_folder("networks") / f"{key[:32]}.safetensors"
    ensure_folder(path.parent)
    if path.exists():
        try:
            load_weights(prepared.model, path)
        except RequestError as error:
            raise RequestError(f"{error}; delete it, and it is trained again") from error
    else:
        state = path.with_suffix(".state")
        TrainJob(prepared).train(state)
        save_weights(prepared.model, path, {"training": how})
        state.unlink(missing_ok=True)
    prepared.model.to(prepared.device).eval()


def _made_by() -> str:
    """What is kept in the cache is for this version of the study and the package."""
    return f"{VERSION} {version('secateur')}"


def _plain(settings: TrainSettings) -> dict[str, Any]:
    """Without what changes no result."""
    return settings.model_dump(mode="json", exclude=set(WHERE))


class Bench:
    """A trained network, its data, and what is done with them; each cell is worked out on its own.

    Args:
        settings: of the study.
        train: the unpruned network, where the settings say so; False: it stays as it is.

    Raises:
        RequestError: before the network is trained, for data and network that do not go together, too few images of a
            class, criteria that ask for other samples, steps that go too far, or unknown classes to repeat.
    """

    def __init__(self, settings: StepwiseSettings, *, train: bool = True) -> None:
        self.settings, recipe = settings, settings.recipe
        self.prepared = prepared = opened(recipe, trained=not recipe.train.epochs)
        self.model, self.data, self.device = prepared.model, prepared.data, prepared.device
        self._structures: dict[bool, Structure] = {}
        self._check()
        if recipe.train.epochs and train:
            train_or_find(prepared)
            self._structures.clear()  # they were traced with other weights

    def _check(self) -> None:
        settings = self.settings
        for repeat in (settings.train.repeat, settings.finetune.repeat):
            repeated(self.data.train, repeat, 0, 0)
        for protocol in settings.variants.protocols:
            last = Budget.of(settings.steps.kind, settings.steps.shares()[-1])
            check_budget(self.prepared, self.structure(protocol.prune.stream), last, protocol.prune)
            if protocol.per_class is None:
                self._check_whole()
                continue
            reference = self.reference(protocol.per_class, settings.variants.seeds[0])
            for text in protocol.criteria:
                name, parameters = parse(text)
                criterion = get(name, **parameters)
                first_balanced(reference, criterion.asks_for, criterion.name)

    def structure(self, stream: bool) -> Structure:
        """Of the network, with its residual streams or without."""
        if stream not in self._structures:
            example = self.data.test.batch([0])[0].to(self.device)
            self._structures[stream] = trace(self.model, example, stream=stream)
        return self._structures[stream]

    @cached_property
    def fingerprint(self) -> str:
        """Of network and data."""
        return fingerprint(weights_digest(self.model), data_digest(self.data))

    @cached_property
    def positions(self) -> list[int]:
        """In the split, of the images that networks are measured on."""
        asked = self.settings.measure
        count = len(getattr(self.data, asked.split))
        return [int(i) for i in drawn(count, asked.limit, "stepwise", asked.split)]

    @cached_property
    def images(self) -> LabelledImages:
        """That networks are measured on."""
        split: LabelledImages = getattr(self.data, self.settings.measure.split)
        return split.replace(augmentation=None).subset(self.positions)

    def pictures(self, network: nn.Module, keys: Mapping[str, Any]) -> list[Row]:
        """Where a network looks, beside the unpruned one."""
        return picture_rows(self.model, network, self.images, self.positions, self.settings.pictures.images, keys)

    def reference(self, per_class: int | None, seed: int) -> ReferenceSet:
        """Samples that criteria look at.

        Raises:
            RequestError: for a class with too few images, or all images where they are too many.
        """
        train = self.data.train.replace(augmentation=None)
        if per_class is not None:
            return ReferenceSet.sample(train, per_class, seed)
        self._check_whole()
        inputs, targets = train.batch(range(len(train)))
        return ReferenceSet(inputs, targets, tuple(range(len(train))), train.normalisation.bounds())

    def description(self) -> list[str]:
        """What the work would be, and how long it would take at most: pruned networks are faster."""
        asked, steps = self.settings, len(self.settings.steps.shares())
        ways = [f"{len(protocol.criteria)} criteria by '{protocol.name}'" for protocol in asked.variants.protocols]
        cells = sum(len(protocol.criteria) for protocol in asked.variants.protocols) * len(asked.variants.seeds)
        epochs, train = asked.finetune.epochs * steps + asked.final_epochs, self.data.train
        image = forward_seconds(self.model, self.data.test, self.device)
        once = training_seconds(self.prepared, asked.train.epochs, image)
        each = training_seconds(self.prepared, epochs, image) + 2 * steps * len(self.images) * image
        lines = [subject(self.prepared)]
        if asked.train.epochs:
            lines.append(f"train {asked.model.name} for {asked.train.epochs} epochs, unless it was trained before")
        lines += [
            f"prune it in {steps} steps by {', '.join(ways)}, {len(asked.variants.seeds)} seeds each",
            f"train each for {asked.finetune.epochs} epochs of {len(train):,} images after every step"
            + (f" and {asked.final_epochs} at the end" if asked.final_epochs else ""),
            f"measure before and after on {len(self.images):,} {asked.measure.split} images",
        ]
        parts = (f"training {duration(once)}", f"at most {duration(cells * each)} for what is pruned, and its scoring")
        return [*lines, str(Estimate(once + cells * each, parts))]

    def _check_whole(self) -> None:
        """Refuse all training images as reference samples where they do not fit into memory."""
        count = len(self.data.train)
        needed = 4 * count * int(np.prod(self.data.input_shape))
        if needed > _LARGEST:
            raise RequestError(
                f"all {count:,} training images would take {size(needed)} as reference samples; set per_class of the "
                "protocol, or a smaller data.resize"
            )

    def row(self, network: nn.Module, plan: Plan | None, keys: Mapping[str, Any]) -> tuple[Row, list[Row]]:
        """What a network does on the images: a row, and one for each class."""
        found = evaluate(network, loader(self.images), class_names=self.data.class_names, device=self.device, auc=True)
        shares = {"units": 1.0, "params": 1.0, "macs": 1.0} if plan is None else plan.achieved
        main = {
            **keys,
            **{name: float(shares[name]) for name in ("units", "params", "macs")},
            "params_count": found.params,
            "macs_count": found.macs,
            "size_bytes": found.size_bytes,
            "accuracy": found.accuracy,
            "balanced_accuracy": found.balanced_accuracy,
            "auc": found.auc,
            "loss": found.loss,
            "samples": found.samples,
        }
        counts = dict(zip(self.data.class_names, np.bincount(self.images.labels, minlength=99_999), strict=False))
        own = {name: keys[name] for name in ("protocol", "criterion", "seed", "step", "stage")}
        classes = [
            {**own, "class": name, "recall": recall, "samples": int(counts[name])}
            for name, recall in found.per_class.items()
        ]
        return main, classes

    def result(self, cell: StepCell) -> Result:
        """All that a cell gives."""
        if cell.criterion != UNPRUNED:
            return Chain(self, cell).result()
        keys = {**cell.keys, "step": 0, "stage": UNPRUNED_STAGE, "share": 1.0}
        main, classes = self.row(self.model, None, keys)
        main |= {"train_loss": None, "epochs": self.settings.train.epochs, "seconds": 0.0}
        pictures = self.pictures(self.model, {**cell.keys, "step": 0})
        notes = [{"note": note} for note in [*self.prepared.notes, *leaks(self.data)]]
        rows = {"steps": [main], "classes": classes, "pictures": pictures}
        return Result(rows | {"splits": split_rows(self.data), "notes": notes})

    def times(self, cell: TimeCell, measured: Result) -> Result:
        """Times of one cell's networks, each taken in turn with the unpruned one."""
        probe = self.images.batch(range(min(self.settings.timing.batch, len(self.images))))[0]
        rows = []
        for plan in measured.rows["plans"]:
            slim = prune(self.model, self.plan_of(cell, json.loads(plan["removed"])), check=False).to(self.device)
            times = measure_latency([self.model, slim], probe, repeats=self.settings.timing.repeats)
            memory = measure_memory(slim, probe)
            rows.append({**cell.keys, "step": plan["step"], **times[-1].columns(), **memory.columns()})
        return Result({"times": rows})

    def plan_of(self, cell: StepCell, removed: Mapping[str, list[int]]) -> Plan:
        """The plan that removes some units of each group."""
        assert cell.prune is not None
        structure = self.structure(cell.prune.stream)
        keep = np.ones(structure.num_units, bool)
        for name, units in removed.items():
            keep[structure.group(name).first + np.array(units, np.int64)] = False
        return Plan.of(structure, keep, {}, "stored", "stored")


def split_rows(data: ImageData) -> list[Row]:
    """Which image is in which split, where the source itself did not say so."""
    found = data.assignment
    if found is None:
        return []
    groups = found.groups or ("",) * len(found.ids)
    return [
        {"image_id": name, "split": split, "group": group, "label": found.class_names[label]}
        for name, split, group, label in zip(found.ids, found.splits, groups, found.labels, strict=True)
    ]


class _Images(Sequence[Any]):
    """The images of several splits, one after the other, each opened when it is asked for."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self._parts, self._ends = parts, np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, row: Any) -> Any:
        part = int(np.searchsorted(self._ends, row, side="right"))
        return self._parts[part][row - (int(self._ends[part - 1]) if part else 0)]


def leaks(data: ImageData) -> list[str]:
    """A sentence on images that are nearly the same in different splits, where there are any."""
    if data.assignment is None:
        return []
    parts = {name: getattr(data, name) for name in ("train", "val", "test")}
    images = _Images([part.images for part in parts.values()])
    splits = [name for name, part in parts.items() for _ in range(len(part))]
    pairs = near_duplicates(fingerprints(images, window=data.train.window), splits)
    if not pairs:
        return []
    return [
        f"{len(pairs):,} pairs of images in different splits are nearly the same, of {len(images):,} images; "
        "look at them with `secateur data check`"
    ]


@dataclass(frozen=True, eq=False)
class BenchOf(Resource[Bench]):
    """The bench of a study."""

    settings: StepwiseSettings

    def make(self, resources: Resources) -> Bench:
        """Open data and network; train it, or find it trained."""
        return Bench(self.settings)


class Chain:
    """One network, pruned and trained step by step; its state is kept in the cache after each.

    Args:
        bench: what it is made from.
        cell: how.
    """

    def __init__(self, bench: Bench, cell: StepCell) -> None:
        assert cell.prune is not None
        self.bench, self.cell, self.settings = bench, cell, bench.settings
        name, parameters = parse(cell.criterion)
        self.criterion = get(name, **parameters).seeded(cell.seed)
        self.stepwise = Stepwise(bench.model, bench.structure(cell.prune.stream), cell.prune)
        self.finetune = self.settings.finetune.model_copy(update={"device": str(bench.device), "seed": cell.seed})
        self._rows: dict[str, list[Row]] = {"steps": [], "classes": [], "plans": []}

    @property
    def folder(self) -> Path:
        """Where it is kept: named by all that the result depends on."""
        asked = self.settings
        how = [asked.steps.model_dump(mode="json"), asked.measure.model_dump(mode="json"), _plain(asked.finetune)]
        parts = [*how, asked.final_epochs, self.cell.coordinates]
        return _kept_chains() / fingerprint(_made_by(), self.bench.fingerprint, canonical(parts))[:32]

    def result(self) -> Result:
        """Do what is left to do; all rows."""
        done = self._resume()
        for stage, step, work in self._work():
            if (step, _ORDER[stage]) > done:
                begin = time.perf_counter()
                self._measure(stage, step, work(), begin)
        rows = dict(self._rows)
        cell, asked = self.cell, self.settings
        if cell.seed == asked.variants.seeds[0]:
            keys = {**cell.keys, "step": len(asked.steps.shares())}
            rows["pictures"] = self.bench.pictures(self.stepwise.network, keys)
        (self.folder / _FINISHED).touch()
        return Result(rows)

    def _work(self) -> Iterator[tuple[str, int, Any]]:
        """Stages in order: what each is called, of which step, and what is done for it; it gives epochs and loss."""
        shares = self.settings.steps.shares()
        for step, share in enumerate(shares, 1):
            yield PRUNED, step, lambda share=share: self._cut(share)
            if self.finetune.epochs:
                yield TUNED, step, lambda step=step: self._train(self.finetune, f"step-{step}")
        if self.settings.final_epochs:
            last = self.finetune.model_copy(update={"epochs": self.settings.final_epochs})
            yield FINAL, len(shares), lambda: self._train(last, "final")

    def _cut(self, share: float) -> tuple[int, float | None]:
        reference = self.bench.reference(self.cell.per_class, self.cell.seed)
        assert self.cell.prune is not None
        repair = Repair.of(self.cell.prune, reference, self.bench.data.train.replace(augmentation=None))
        self.stepwise.cut(reference, self.criterion, Budget.of(self.settings.steps.kind, share), repair=repair)
        return 0, None

    def _train(self, settings: TrainSettings, name: str) -> tuple[int, float | None]:
        """Train in place; interrupted, it goes on from a state of its own."""
        network, data = self.stepwise.network, self.bench.data
        teacher = None if settings.distillation is None else self.bench.model
        history = fit(network, data.train, data.val, settings, self._state(name), teacher=teacher)
        network.to(self.bench.device)  # training ends on the CPU
        return len(history.rows), float(history.rows[-1]["train_loss"])

    def _measure(self, stage: str, step: int, worked: tuple[int, float | None], begin: float) -> None:
        """Add rows, and keep all of it."""
        plan = self.stepwise.plan
        assert plan is not None
        seconds, (epochs, loss) = time.perf_counter() - begin, worked
        keys = {**self.cell.keys, "step": step, "stage": stage, "share": self.settings.steps.shares()[step - 1]}
        main, classes = self.bench.row(self.stepwise.network, plan, keys)
        self._rows["steps"].append({**main, "train_loss": loss, "epochs": epochs, "seconds": seconds})
        self._rows["classes"] += classes
        if stage == PRUNED:
            removed = {name: list(units) for name, units in plan.removed.items()}
            self._rows["plans"].append({**self.cell.keys, "step": step, "removed": json.dumps(removed)})
        self.stepwise.save(self._kept, {"step": step, "stage": stage, "rows": self._rows})
        self._state(f"step-{step}" if stage != FINAL else "final").unlink(missing_ok=True)

    def _resume(self) -> tuple[int, int]:
        """Step and stage that were done when the work was interrupted; (0, 0): none."""
        ensure_folder(self.folder)
        _delete_old_chains()
        record = self.stepwise.resume(self._kept)
        if record is None:
            return 0, 0
        self._rows = record["rows"]
        return record["step"], _ORDER[record["stage"]]

    @property
    def _kept(self) -> Path:
        return self.folder / "network"

    def _state(self, name: str) -> Path:
        return self.folder / f"{name}.state"

    def delete(self) -> None:
        """Delete what is kept."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _kept_chains() -> Path:
    return cache_folder("stepwise")


def _delete_old_chains() -> None:
    """Delete what was kept of chains that were finished days ago: their rows are in a store."""
    for marker in _kept_chains().glob(f"*/{_FINISHED}"):
        with contextlib.suppress(OSError):  # another process may be at it
            if time.time() - marker.stat().st_mtime > _DAYS * 86_400:
                shutil.rmtree(marker.parent)


_FINISHED, _DAYS = "finished", 3
_ORDER = {PRUNED: 1, TUNED: 2, FINAL: 3}
