"""Training in stages: warm, joint, projection, last layer; each is kept when it is done, and found again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from secateur.core.devices import choose_device
from secateur.core.errors import RequestError
from secateur.core.files import ensure_folder, read_json, write_json
from secateur.core.interruption import keeping
from secateur.core.progress import ProgressOption, reported, track
from secateur.core.randomness import derive_seed
from secateur.data import LabelledImages
from secateur.models import load_weights, save_weights
from secateur.models.prototype_network import PrototypeNetwork
from secateur.pipeline.contents import weights_digest
from secateur.prototypes.kept import SOURCES, projection_in, to_values
from secateur.prototypes.last_layer import fit_last_layer
from secateur.prototypes.nearest import similarities_of
from secateur.prototypes.objective import PrototypeObjective
from secateur.prototypes.projection import data_digest, project
from secateur.prototypes.records import Projection
from secateur.prototypes.schedule import Project, RefitLast, Stage, TrainParts
from secateur.prototypes.settings import PrototypeTrainSettings
from secateur.training import Epoch, TrainSettings, fit

Kind = Literal["warm", "joint", "projection", "last layer"]

_REQUEST = "request.json"


@dataclass(frozen=True)
class StageDone:
    """What came of one stage.

    Attributes:
        kind: ``warm``, ``joint``, ``projection`` or ``last layer``.
        stage: in words.
        epochs: rows of `secateur.training.TrainingHistory`, counted over all stages; for the last layer, its losses.
        accuracy: on the validation images, after a projection or the last layer; None: not measured.
        projection: of a projection.
        epoch: of the whole training, after which the stage ended.
    """

    kind: Kind
    stage: str
    epochs: tuple[Mapping[str, float], ...] = ()
    accuracy: float | None = None
    projection: Projection | None = None
    epoch: int = 0

    def to_values(self) -> dict[str, Any]:
        """Plain values."""
        found: dict[str, Any] = {"kind": self.kind, "stage": self.stage, "epoch": self.epoch, "accuracy": self.accuracy}
        found["epochs"] = [dict(row) for row in self.epochs]
        return found if self.projection is None else {**found, SOURCES: to_values(self.projection)}

    @classmethod
    def of(cls, values: Mapping[str, Any], where: Path) -> StageDone:
        """From plain values.

        Raises:
            RequestError: for values that are none of a stage.
        """
        try:
            rows = tuple({str(k): float(v) for k, v in row.items()} for row in values["epochs"])
            accuracy = values["accuracy"]
            own = projection_in(dict(values), where)
            return cls(values["kind"], str(values["stage"]), rows, accuracy, own, int(values["epoch"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RequestError(f"'{where}' is not of this version; delete its folder to start anew") from error


@dataclass(frozen=True)
class PrototypeTraining:
    """What happened.

    Attributes:
        stages: in order.
    """

    stages: tuple[StageDone, ...] = field(default=())

    @property
    def projections(self) -> dict[int, Projection]:
        """By epoch."""
        return {done.epoch: done.projection for done in self.stages if done.projection is not None}

    @property
    def last(self) -> Projection:
        """Where the prototypes come from at the end; training ends with a projection."""
        return self.projections[max(self.projections)]

    def rows(self) -> list[dict[str, Any]]:
        """One row for each epoch, projection and training of the last layer."""
        found: list[dict[str, Any]] = []
        for done in self.stages:
            if done.kind in ("warm", "joint"):
                found += [{"stage": done.kind, **row} for row in done.epochs]
            else:
                loss = done.epochs[-1]["train_loss"] if done.epochs else None
                found.append(
                    {"stage": done.kind, "epoch": done.epoch, "train_loss": loss, "val_accuracy": done.accuracy}
                )
        return found


@reported("training a prototype network")
def train_prototypes(
    network: PrototypeNetwork,
    train: LabelledImages,
    val: LabelledImages | None,
    settings: PrototypeTrainSettings,
    *,
    plain: LabelledImages | None = None,
    state_folder: str | Path | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    progress: ProgressOption = True,
) -> PrototypeTraining:
    """Train a prototype network in place, stage by stage (`PrototypeTrainSettings.stages`); it ends in eval mode.

    It ends with prototypes that are training patches. Adam starts anew with each stage; nothing else does.

    Args:
        network: with initial weights, or with trained ones.
        train: images, augmented or not.
        val: measured after each epoch; None or empty: nothing is.
        settings: see `PrototypeTrainSettings`.
        plain: the training images without augmentation, for projections and the last layer; None: ``train`` without
            its own.
        state_folder: finished stages, and the last finished epoch, are kept there; the same call goes on from it, with
            the same result to the bit. The weights after every projection stay there (``03-project.safetensors``).
        on_epoch: called with each finished epoch, counted over all stages.
        progress: who is told of it, see `secateur.core.progress.ProgressOption`.

    Raises:
        RequestError: for classes without training images, a state folder of another request, network or data, and as
            `secateur.training.fit`.

    Example:
        >>> import numpy as np
        >>> from secateur.data import Normalisation
        >>> from secateur.models import build
        >>> pixels = np.random.default_rng(0).integers(0, 255, (8, 16, 16, 3), np.uint8)
        >>> images = LabelledImages(pixels, np.arange(8) % 2, ("a", "b"), Normalisation((0.5,) * 3, (0.2,) * 3))
        >>> net = build("prototype-network", num_classes=2, per_class=2, channels=8, image_size=16)
        >>> done = train_prototypes(net, images, None, PrototypeTrainSettings(epochs=1, warm_epochs=0), progress=False)
        >>> [source.label for source in done.last.sources]
        [0, 0, 1, 1]
    """
    plain = train.replace(augmentation=None) if plain is None else plain
    work = _Work(network, train, val, plain, settings, on_epoch)
    work.check()
    folder = None if state_folder is None else Path(state_folder)
    done = [] if folder is None else _found(folder, work)
    stages = settings.stages()

    def kept() -> str:
        if folder is None or not any(folder.iterdir()):
            return ""
        return f"finished stages and epochs are kept in '{folder}'; the same request goes on from there"

    with keeping(kept):
        for index, stage in enumerate(track(stages, "stages", done=len(done))):
            if index < len(done):
                continue
            state = None if folder is None else folder / f"{index:02}.state"
            finished = work.do(index, stage, state)
            done.append(finished)
            if folder is not None:
                _keep(folder, index, network, finished)
    network.to("cpu").eval()
    return PrototypeTraining(tuple(done))


@dataclass(eq=False)
class _Work:
    """What the stages share."""

    network: PrototypeNetwork
    train: LabelledImages
    val: LabelledImages | None
    plain: LabelledImages
    settings: PrototypeTrainSettings
    on_epoch: Callable[[Epoch], None] | None

    def check(self) -> None:
        """Refuse a class without training images before anything is trained."""
        if len(self.plain) == 0:
            raise RequestError("there are no training images; prototypes are projected onto their patches")
        there = {int(label) for label in self.plain.labels}
        for label in sorted({int(c) for c in self.network.prototypes.classes if c >= 0} - there):
            names = self.plain.class_names
            name = names[label] if label < len(names) else str(label)
            raise RequestError(
                f"class '{name}' has prototypes but no training image, so they cannot be projected; give it images or "
                "leave it out (data.classes)"
            )

    def identity(self) -> dict[str, str]:
        """What results depend on."""
        how = self.settings.model_dump_json(exclude={"device", "workers"})
        splits = hashlib.sha256(f"{data_digest(self.plain)} {len(self.train)} {self.train.augmentation!r}".encode())
        return {"settings": how, "network": weights_digest(self.network), "data": splits.hexdigest()}

    def do(self, index: int, stage: Stage, state: Path | None) -> StageDone:
        """Carry out one stage."""
        if isinstance(stage, TrainParts):
            return self._trained(index, stage, state)
        device = choose_device(self.settings.device)
        self.network.to(device)
        if isinstance(stage, Project):
            avoid = self.settings.avoid_duplicates
            projection = project(self.network, self.plain, epoch=stage.epoch, avoid_duplicates=avoid)
            return StageDone("projection", str(stage), (), self._accuracy(), projection, stage.epoch)
        assert isinstance(stage, RefitLast)
        labels = torch.from_numpy(self.plain.labels)
        losses = fit_last_layer(
            self.network, similarities_of(self.network, self.plain), labels, self.settings, stage.iterations
        )
        rows = tuple({"train_loss": loss} for loss in losses)
        return StageDone("last layer", str(stage), rows, self._accuracy(), None, self._epochs_before(index))

    def _epochs_before(self, index: int) -> int:
        ended = [stage.end for stage in self.settings.stages()[:index] if isinstance(stage, TrainParts)]
        return max(ended, default=0)

    def _trained(self, index: int, stage: TrainParts, state: Path | None) -> StageDone:
        settings = self.settings
        objective = PrototypeObjective(stage, settings.loss, settings.rates.weight_decay)
        how = TrainSettings(
            epochs=stage.end - stage.begin,
            batch_size=settings.batch_size,
            optimiser="adam",
            learning_rate=objective.rate,
            schedule="constant",
            keep="last",
            repeat=settings.repeat,
            mixed_precision=settings.mixed_precision,
            workers=settings.workers,
            seed=derive_seed(settings.seed, "stage", index) % 2**32,
            device=settings.device,
        )

        def tell(epoch: Epoch) -> None:
            if self.on_epoch is not None:
                self.on_epoch(replace(epoch, index=stage.begin + epoch.index))

        history = fit(self.network, self.train, self.val, how, state, objective=objective, on_epoch=tell)
        rows = tuple({**row, "epoch": stage.begin + row["epoch"] + 1} for row in history.rows)
        return StageDone(stage.kind, str(stage), rows, epoch=stage.end)

    def _accuracy(self) -> float | None:
        """On the validation images."""
        if self.val is None or not len(self.val):
            return None
        similarities = similarities_of(self.network, self.val)
        with torch.no_grad():
            logits = similarities.to(self.network.last.weight.device) @ self.network.last.weight.T
        return float((logits.argmax(1).cpu() == torch.from_numpy(self.val.labels)).double().mean())


def _found(folder: Path, work: _Work) -> list[StageDone]:
    """Finished stages of the same request; the network gets their weights."""
    ensure_folder(folder)
    request, asked = folder / _REQUEST, work.identity()
    if not request.is_file():
        write_json(request, asked)
        return []
    before = read_json(request)
    if before != asked:
        differs = [name for name in asked if not isinstance(before, dict) or before.get(name) != asked[name]]
        raise RequestError(
            f"'{folder}' belongs to a training with other {' and '.join(differs)}; delete it or choose another --out"
        )
    done: list[StageDone] = []
    for index in range(len(work.settings.stages())):
        record = _record(folder, index)
        if not record.is_file():
            break
        done.append(StageDone.of(read_json(record), record))
    if done:
        load_weights(work.network, _weights(folder, len(done) - 1, done[-1]))
    return done


def _record(folder: Path, index: int) -> Path:
    return folder / f"{index:02}.json"


def _weights(folder: Path, index: int, done: StageDone) -> Path:
    return folder / f"{index:02}{'-project' if done.projection is not None else ''}.safetensors"


def _keep(folder: Path, index: int, network: PrototypeNetwork, done: StageDone) -> None:
    """Weights first: a stage whose record is there is finished. Those of earlier stages go, but for projections'."""
    save_weights(network, _weights(folder, index, done))
    write_json(_record(folder, index), done.to_values())
    (folder / f"{index:02}.state").unlink(missing_ok=True)
    (folder / f"{index - 1:02}.safetensors").unlink(missing_ok=True)
