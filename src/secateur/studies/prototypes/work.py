"""The work on one cell: a prototype network trained, or pruned, trained again and measured."""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load, save

from secateur.core.files import cache_folder
from secateur.data import LabelledImages, ReferenceSet, loader
from secateur.evaluation import Evaluation, evaluate
from secateur.experiments import Resource, Resources, Result, fingerprint
from secateur.experiments.cells import canonical
from secateur.models.prototype_network import PrototypeNetwork
from secateur.pipeline import compress
from secateur.pipeline.contents import weights_digest
from secateur.pipeline.estimate import TRAINING, Estimate, duration, forward_seconds
from secateur.pipeline.jobs import check_budget, subject
from secateur.prototypes import (
    PrototypeTrainSettings,
    fit_last_layer,
    nearest_patches,
    remove_prototypes,
    similarities_of,
    train_prototypes,
)
from secateur.prototypes.jobs import Opened
from secateur.prototypes.projection import data_digest
from secateur.prototypes.selection import decide
from secateur.selection import Budget
from secateur.structure import trace
from secateur.studies.prototypes.cells import PrototypeCell, PrunedCell, prototype_cells
from secateur.studies.prototypes.settings import PrototypeStudySettings
from secateur.studies.prototypes.tables import LAST, PRUNED, TUNED, UNPRUNED_STAGE

WEIGHTS = "network.safetensors"
"""Artefact of a trained network."""

Row = dict[str, Any]


class Bench:
    """Data and the untrained network of one seed, and what is done with them.

    Args:
        settings: of the study.
        seed: of the network.

    Raises:
        RequestError: for data and network that do not go together, too few images of a class, or budgets that cannot be
            reached.
    """

    def __init__(self, settings: PrototypeStudySettings, seed: int) -> None:
        self.settings, self.seed = settings, seed
        opened = Opened.of(settings.recipe(seed))
        self.prepared, self.network = opened.prepared, opened.network
        self.device, self.data, self.plain = self.prepared.device, self.prepared.data, opened.plain("train")
        self.images: LabelledImages = opened.plain(settings.measure.split)
        self.reference = ReferenceSet.sample(self.plain, settings.reference.per_class, seed)
        if any(way.backbone is not None for way in settings.variants.ways):
            structure = trace(self.network, self.reference.inputs[:1].to(self.device), stream=settings.backbone.stream)
            least = Budget(macs=min(settings.variants.macs))
            check_budget(self.prepared, structure, least, settings.protected)
        splits = [data_digest(self.plain), data_digest(opened.plain("val")), data_digest(self.images)]
        self.fingerprint = fingerprint(weights_digest(self.network), *splits, str(self.data.train.augmentation))

    def description(self) -> list[str]:
        """What the work would be, and how long it would take at most: pruned networks are faster."""
        asked, data = self.settings, self.data
        image = forward_seconds(self.network, self.images, self.device)
        networks = len(prototype_cells(asked.variants)) - len(asked.variants.seeds)
        passes = [
            settings.epochs * (TRAINING * len(data.train) + len(data.val)) + 2 * len(settings.pushes) * len(data.train)
            for settings in (asked.train, asked.tune)
        ]
        measuring = len(self.images) + len(data.train)
        once = len(asked.variants.seeds) * (passes[0] + measuring) * image
        later = networks * (passes[1] + 3 * measuring) * image
        names = ", ".join(way.name for way in asked.variants.ways)
        shares = ", ".join(f"{share:.0%}" for share in asked.variants.macs)
        parts = (f"training {duration(once)}", f"at most {duration(later)} for what is pruned, and its scoring")
        return [
            subject(self.prepared),
            f"train a prototype network on {asked.network.backbone} for each of {len(asked.variants.seeds)} seeds, "
            f"{asked.train.epochs} epochs",
            f"prune each by {names}; where the backbone is pruned, to {shares} of the MACs",
            f"train each for {asked.tune.epochs} epochs, and measure it on {len(self.images):,} "
            f"{asked.measure.split} images",
            str(Estimate(once + later, parts)),
        ]

    def trained(self, cell: PrototypeCell) -> Result:
        """The unpruned network, trained: its row and its weights."""
        begin, network = time.perf_counter(), copy.deepcopy(self.network)
        self.train(network, self.settings.train, cell)
        seconds = time.perf_counter() - begin
        row = self.row(network, network, cell, UNPRUNED_STAGE, seconds)
        weights = save({name: value.cpu().contiguous() for name, value in network.state_dict().items()})
        return Result({"measured": [row]}, {WEIGHTS: weights})

    def pruned(self, cell: PrunedCell, weights: bytes) -> Result:
        """The trained network, pruned: a row for each stage."""
        whole = copy.deepcopy(self.network)
        whole.load_state_dict(load(weights))
        begin = time.perf_counter()
        slim = self._cut(whole, cell)
        rows = [self.row(slim, whole, cell, PRUNED, time.perf_counter() - begin)]
        begin, labels = time.perf_counter(), torch.from_numpy(self.plain.labels)
        iterations = self.settings.prototypes.last_iterations
        fit_last_layer(slim, similarities_of(slim, self.plain), labels, self.settings.tune, iterations)
        rows.append(self.row(slim, whole, cell, LAST, time.perf_counter() - begin))
        begin = time.perf_counter()
        self.train(slim, self.settings.tune, cell)
        rows.append(self.row(slim, whole, cell, TUNED, time.perf_counter() - begin))
        return Result({"measured": rows})

    def _cut(self, whole: PrototypeNetwork, cell: PrunedCell) -> PrototypeNetwork:
        """Prototypes first: relevance of the backbone is then that for those which are left."""
        slim, asked = whole, self.settings.prototypes
        if cell.prototypes:
            decisions = decide(whole, self.plain, nearest_patches(whole, self.plain, asked.k), asked)
            slim = remove_prototypes(whole, [decision.number for decision in decisions if not decision.kept])
        if cell.backbone is not None:
            from secateur.criteria import get, parse

            name, parameters = parse(cell.backbone)
            criterion = get(name, **parameters).seeded(cell.seed)
            # of the unpruned network's MACs as many stay in every way, whether prototypes went before or not
            share = min(1.0, cell.macs * self._macs(whole) / self._macs(slim))
            how = self.settings.protected
            found = compress(slim, self.reference, Budget(macs=share), criterion, how, train=self.plain).model
            assert isinstance(found, PrototypeNetwork)
            slim = found
        return slim.to(self.device)

    def _macs(self, network: PrototypeNetwork) -> int:
        from secateur.evaluation import count_macs

        return count_macs(network, self.reference.inputs[:1].to(self.device))

    def train(self, network: PrototypeNetwork, settings: PrototypeTrainSettings, cell: PrototypeCell) -> None:
        """Train in place; interrupted, it goes on at its last whole epoch."""
        how = settings.model_copy(update={"seed": cell.seed, "device": str(self.device)})
        folder = self._states(settings, cell, network)
        train_prototypes(network, self.data.train, self.data.val, how, plain=self.plain, state_folder=folder)
        shutil.rmtree(folder, ignore_errors=True)
        network.to(self.device)

    def _states(self, settings: PrototypeTrainSettings, cell: PrototypeCell, network: PrototypeNetwork) -> Path:
        how = settings.model_dump(mode="json", exclude={"device", "workers"})
        parts = (version("secateur"), self.fingerprint, weights_digest(network), canonical([how, cell.coordinates]))
        return cache_folder("prototypes") / fingerprint(*parts)[:32]

    def row(
        self, network: PrototypeNetwork, whole: PrototypeNetwork, cell: PrototypeCell, stage: str, seconds: float
    ) -> Row:
        """What a network does on the images, and what it costs beside the unpruned one."""
        found = self._evaluated(network)
        purity = None
        if stage in (UNPRUNED_STAGE, TUNED):
            nearest = nearest_patches(network, self.plain, self.settings.prototypes.k)
            purity = float(nearest.purity(network.prototypes.classes.cpu().numpy()).mean())
        params = sum(p.numel() for p in whole.parameters())
        return {
            **cell.keys,
            "stage": stage,
            "prototypes": network.num_prototypes,
            "macs": found.macs / self._macs(whole),
            "params": found.params / params,
            "macs_count": found.macs,
            "params_count": found.params,
            "accuracy": found.accuracy,
            "balanced_accuracy": found.balanced_accuracy,
            "samples": found.samples,
            "purity": purity,
            "seconds": seconds,
        }

    def _evaluated(self, network: PrototypeNetwork) -> Evaluation:
        return evaluate(network, loader(self.images), class_names=self.data.class_names, device=self.device)


@dataclass(frozen=True, eq=False)
class BenchOf(Resource[Bench]):
    """The bench of one seed."""

    limit: ClassVar[int] = 3

    settings: PrototypeStudySettings
    seed: int

    def make(self, resources: Resources) -> Bench:
        """Open the data, build the network."""
        return Bench(self.settings, self.seed)


def weights_of(earlier: Mapping[Any, Result], cell: PrunedCell) -> bytes:
    """Of the unpruned network."""
    return earlier[cell.trained].artefacts[WEIGHTS]
