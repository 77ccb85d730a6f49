"""Training loop: best checkpoint, early stop, resume at the last whole epoch.

Several processes (``torchrun``) take their share of every batch; how they hold the network is
`secateur.training.parallel`'s. Mixed precision is PyTorch's own.
"""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from secateur.core.devices import choose_device
from secateur.core.errors import RequestError, SecateurError
from secateur.core.interruption import keeping
from secateur.core.layouts import laid_out
from secateur.core.progress import ProgressOption, reported, track
from secateur.core.randomness import derive_seed
from secateur.core.ranks import ranks
from secateur.data import loader
from secateur.data.batches import parts_of_batches
from secateur.training.distillation import Teacher, check_teacher
from secateur.training.history import Epoch, TrainingHistory
from secateur.training.objective import Objective, trained_alone
from secateur.training.optimisation import optimiser_of, rate, steps_per_epoch
from secateur.training.parallel import Weights, data_parallel
from secateur.training.repetition import repeated
from secateur.training.settings import TrainSettings
from secateur.training.states import TrainingState, read_state
from secateur.training.synchronised import synchronised_norms
from secateur.training.weight_mask import WeightMask


@reported("training")
def fit(
    model: nn.Module,
    train: Dataset[Any],
    val: Dataset[Any] | None,
    settings: TrainSettings,
    state_file: str | Path | None = None,
    teacher: nn.Module | None = None,
    *,
    weight_mask: WeightMask | None = None,
    objective: Objective | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    progress: ProgressOption = True,
) -> TrainingHistory:
    """Train ``model`` in place; it ends in eval mode on the CPU, with the kept epoch's weights.

    Its tensors end in PyTorch's usual contiguous layout and without gradients. The global random generators
    of Python, NumPy and PyTorch are seeded anew at each epoch. When training fails or is interrupted, the
    model keeps the weights of the moment; sharded, those that it came with.

    Of several ranks (`secateur.core.ranks.launched`), each takes its share of every batch of ``settings.batch_size``
    samples; loss, gradients and the statistics of batch norms are those of the whole batch, as in one process. What is
    drawn by chance, dropout and augmentation, is drawn anew on each rank. Rank 0 writes the state, and all go on from
    it. With ``settings.sharding`` "full", each keeps its part of the network, see `secateur.training.parallel.Sharded`.

    Args:
        model: any network giving logits.
        train: (input, class index) samples.
        val: measured after each epoch to find the best one; None or an empty set keeps the last.
        settings: see `TrainSettings`. The optimiser is always built anew.
        state_file: the whole state is written there after each epoch (without pickled code); when it exists,
            training goes on from it, with the same result as an uninterrupted run on the same machine.
        teacher: a network to learn from by ``settings.distillation``; a copy of it is asked, in eval mode, and it stays
            as it is.
        weight_mask: weights that stay; all others are set to 0, and are 0 after every step.
        objective: a loss of its own, and which parameters it trains, see `secateur.training.objective.Objective`; None:
            the cross-entropy, of all that require gradients. What is measured after each epoch stays cross-entropy.
        on_epoch: called with each finished epoch, after its state is saved; where training goes on from a state, first
            with the epochs of that. What it raises ends the training.
        progress: who is told of epochs and batches, see `secateur.core.progress.ProgressOption`.

    Raises:
        RequestError: for an empty data set, labels beyond the network's outputs, a network without trainable
            parameters, a precision the device lacks, a state file of another request, a mask of another network,
            distillation without a teacher of the same outputs, an objective beside a teacher, or on several ranks an
            objective, a batch norm of another library, or a network that cannot be sharded as asked.
        SecateurError: when the loss is no longer finite, or the state cannot be written.
    """
    samples = (len(train), 0 if val is None else len(val))  # type: ignore[arg-type]
    if samples[0] == 0:
        raise RequestError("cannot train on an empty data set")
    if not any(p.requires_grad for p in model.parameters()):
        raise RequestError("the network has no trainable parameters; set requires_grad on some")
    check_teacher(settings.distillation, teacher)
    if objective is not None and (teacher is not None or settings.label_smoothing):
        raise RequestError("an objective takes the place of the loss; leave out teacher and label_smoothing")
    if on_epoch is not None and not callable(on_epoch):
        raise RequestError(f"on_epoch must be a function of an Epoch, got {on_epoch!r}")
    if weight_mask is not None:
        weight_mask.bind(model)
    if objective is not None:
        ranks().check_alone("training by an objective")
    device = choose_device(settings.device)
    if settings.mixed_precision == "fp16" and device.type == "cpu":
        raise RequestError("mixed_precision fp16 needs a GPU; on the CPU use bf16 or no")
    try:
        if settings.epochs == 0:
            return TrainingHistory()
        with trained_alone(model, objective):
            val = val if samples[1] else None
            return _Training(model, train, val, settings, device, teacher, weight_mask, objective).run(
                state_file, on_epoch
            )
    finally:
        if settings.sharding == "full" and ranks().several:
            gc.collect()  # FSDP2's objects refer to each other, and would keep their memory
        model.zero_grad(set_to_none=True)
        model.to("cpu").eval()
        for tensor in (*model.parameters(), *model.buffers()):
            # over one axis: 1x1 kernels count as contiguous in both layouts, yet keep channels-last strides
            tensor.data = tensor.data.reshape(-1).reshape(tensor.shape)


class _Training:
    """What the epochs of one `fit` share."""

    def __init__(
        self,
        model: nn.Module,
        train: Dataset[Any],
        val: Dataset[Any] | None,
        settings: TrainSettings,
        device: torch.device,
        teacher: nn.Module | None = None,
        weight_mask: WeightMask | None = None,
        objective: Objective | None = None,
    ) -> None:
        self.objective, self.device, self.ranks = objective, device, ranks()
        distillation = settings.distillation
        # copied first: a network may be its own teacher, as it was
        self.teacher = Teacher(teacher, distillation, device) if teacher is not None and distillation else None
        self.parallel = data_parallel(model, settings.sharding, device)
        network = self.parallel.network
        self.train, self.settings = train, settings
        self.val, self.val_batch = val, max(256 * self.ranks.size, settings.batch_size)
        self.bound_mask = None if weight_mask is None else weight_mask.bind(network, self.parallel.part)
        if self.bound_mask is not None:
            self.bound_mask.clear_weights()
        self.optimiser = optimiser_of(network, settings, objective)
        self.samples = len(repeated(train, settings.repeat, settings.seed, 0))  # type: ignore[arg-type]
        self.steps = steps_per_epoch(self.samples, settings.batch_size)
        kind = device.type
        precision = "no" if kind == "mps" else settings.mixed_precision
        self.autocast: dict[str, Any] = {"device_type": kind, "dtype": _DTYPES[precision], "enabled": precision != "no"}
        self.scaler = torch.amp.GradScaler(kind, enabled=precision == "fp16")
        self.history = TrainingHistory()
        self.kept: Weights = {}
        self.request: dict[str, Any] = {
            "settings": settings.model_dump_json(),
            "samples": [len(train), 0 if val is None else len(val)],  # type: ignore[arg-type]
            "teacher": None if self.teacher is None else self.teacher.digest,
            "weight_mask": None if weight_mask is None else weight_mask.digest,
            "objective": None if objective is None else objective.identity,
        }

    def run(self, state_file: str | Path | None, on_epoch: Callable[[Epoch], None] | None) -> TrainingHistory:
        """All epochs that are still to do."""
        settings, file = self.settings, None if state_file is None else Path(state_file)
        tell = on_epoch if on_epoch is not None and self.ranks.main else lambda _: None
        first = 0
        if file is not None and self.ranks.broadcast(file.exists()):
            first = self._resume(file)
            for done in self.history.epochs():
                tell(done)
        epochs = range(first, settings.epochs)
        with synchronised_norms(self.parallel.network, self.ranks), keeping(lambda: _kept_in(file)):
            for epoch in track(epochs, "training epochs", settings.epochs, done=first):
                if self.history.stopped_early:
                    break
                kept = self._step(epoch)
                if file is not None:
                    self._save(file, epoch + 1, kept)
                tell(self.history.epoch(epoch))
        self.parallel.finish(self.kept)
        return self.history

    def _step(self, epoch: int) -> bool:
        """Train for an epoch and measure; whether its weights are kept."""
        begin = time.perf_counter()
        # all that is random in an epoch follows from its number: a resumed run equals an unbroken one
        own = (self.ranks.rank,) if self.ranks.several else ()
        _seed(derive_seed(self.settings.seed, "epoch", epoch, *own) % 2**32)
        row = {"epoch": epoch, "learning_rate": self._rate(epoch, 0)}
        row["train_loss"] = self._epoch(epoch)
        if self.val is not None:
            row["val_loss"], row["val_accuracy"] = self._validate()
        better = self.history.add(row, time.perf_counter() - begin, self.settings)
        kept = better or self.settings.keep == "last"
        if kept:
            self.kept = self.parallel.weights()
        return kept

    def _rate(self, epoch: int, step: int) -> float:
        """Learning rate at a step of an epoch."""
        return self.settings.learning_rate * rate(self.settings, epoch * self.steps + step, self.steps)

    def _epoch(self, epoch: int) -> float:
        """One pass over the training samples; their mean loss."""
        settings, optimiser, scaler = self.settings, self.optimiser, self.scaler
        label = f"epoch {epoch + 1}/{settings.epochs}"
        seed = derive_seed(settings.seed, epoch)
        samples = repeated(self.train, settings.repeat, settings.seed, epoch)
        batches = parts_of_batches(
            loader(samples, settings.batch_size, shuffle=True, seed=seed, workers=settings.workers), self.ranks
        )
        self.parallel.called.train()
        total, count = 0.0, 0
        for index, (inputs, targets) in enumerate(track(batches, label, total=len(batches))):
            if index >= self.steps:
                continue  # the odd sample out, see steps_per_epoch
            inputs, targets = self._placed(inputs), self._placed(targets)
            whole = min(settings.batch_size, self.samples - index * settings.batch_size)
            # this rank's part of the loss; batches of fewer samples than ranks are taken as a whole by each
            weight = len(inputs) / whole if whole >= self.ranks.size else 1 / self.ranks.size
            for group in optimiser.param_groups:
                group["lr"] = self._rate(epoch, index) * group.get("scale", 1.0)
            inputs = laid_out(inputs, self.parallel.layout)
            loss = self._loss(inputs, targets)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise SecateurError(f"the loss became {value} in {label}; lower the learning rate")
            optimiser.zero_grad()
            scaler.scale(loss * (weight * self.ranks.size)).backward()  # gradients are averaged over ranks
            if self.bound_mask is not None:
                self.bound_mask.clear_gradients()
            if settings.gradient_clip is not None:
                scaler.unscale_(optimiser)
                self.parallel.clip(settings.gradient_clip)
            scaler.step(optimiser)
            scaler.update()
            total, count = total + value * weight * whole, count + whole
        return self._total(total)[0] / count

    def _placed(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.device, non_blocking=True)

    def _total(self, *sums: float) -> list[float]:
        """Of all ranks."""
        found: list[float] = self.ranks.total(torch.tensor(sums, dtype=torch.float64)).tolist()
        return found

    def _loss(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Of one batch."""
        with torch.autocast(**self.autocast):
            if self.objective is not None:
                logits, loss = self.objective.loss(self.parallel.called, inputs, targets)
                self._check_logits(logits, targets)
                return loss
            logits = self._logits(inputs, targets)
            answers = None if self.teacher is None else self.teacher.logits(inputs)
        loss = F.cross_entropy(logits.float(), targets, label_smoothing=self.settings.label_smoothing)
        if self.teacher is not None and answers is not None:
            loss = self.teacher.loss(logits, answers, loss)
        return loss

    def _logits(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        try:
            with self.parallel.explaining():
                output = self.parallel.called(inputs)
        except ValueError as error:
            if len(inputs) > 1:
                raise
            raise RequestError(f"batches of one sample are too small for this network ({error})") from error
        # googlenet and inception_v3 add the logits of their auxiliary heads in training
        logits: torch.Tensor = output[0] if isinstance(output, tuple) else output
        self._check_logits(logits, targets)
        return logits

    def _check_logits(self, logits: torch.Tensor, targets: torch.Tensor) -> None:
        if logits.ndim != 2 or int(targets.min()) < 0 or int(targets.max()) >= logits.shape[1]:
            raise RequestError(
                f"the network gives outputs of shape {tuple(logits.shape)} but labels run from "
                f"{int(targets.min())} to {int(targets.max())}; it must have one output per class"
            )

    def _validate(self) -> tuple[float, float]:
        """Mean loss and accuracy, in single precision, as the network will be used."""
        network, samples = self.parallel.network, self.request["samples"][1]
        batches = parts_of_batches(loader(self.val, self.val_batch), self.ranks)  # type: ignore[arg-type]
        network.eval()
        loss = correct = 0.0
        # no_grad, not inference_mode: what a network caches in its forward must serve the next training step
        with torch.no_grad():
            for index, (inputs, targets) in enumerate(track(batches, "validating")):
                inputs, targets = self._placed(inputs), self._placed(targets)
                logits = network(inputs)
                if samples - index * self.val_batch < self.ranks.size and not self.ranks.main:
                    continue  # batches of fewer samples than ranks are taken as a whole by each
                loss += float(F.cross_entropy(logits, targets, reduction="sum"))
                correct += float((logits.argmax(1) == targets).sum())
        loss, correct = self._total(loss, correct)
        return loss / samples, correct / samples

    def _save(self, file: Path, epochs_done: int, kept: bool) -> None:
        """Write the state, by rank 0.

        Args:
            file: where.
            epochs_done: among them the last, whose weights are the network's.
            kept: and those that are kept.
        """
        weights = self.kept if kept else self.parallel.weights()
        optimiser = self.parallel.whole(self.optimiser.state_dict())
        if self.ranks.main:
            scaler = self.scaler.state_dict()
            TrainingState(self.request, epochs_done, weights, self.kept, optimiser, scaler, self.history).write(file)

    def _resume(self, file: Path) -> int:
        """Take over a saved state; the number of epochs it has done."""
        # rank 0 may be the only one that has the file
        found = self.parallel.sent(read_state(file) if self.ranks.main else None)
        state = TrainingState.of(found, self.request, file)
        try:
            self.parallel.load(state.model, self.optimiser, state.optimiser)
        except (RuntimeError, ValueError) as error:
            raise RequestError(f"'{file}' belongs to another network; delete it or choose another --out") from error
        self.scaler.load_state_dict(state.scaler)
        self.kept, self.history = state.best, state.history
        return state.epoch


def _seed(seed: int) -> None:
    """Of all random numbers that a data set or a network may draw."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - what code of the user's own draws from
    torch.manual_seed(seed)


def _kept_in(file: Path | None) -> str:
    if file is None or not file.exists():
        return ""
    return f"finished epochs are kept in '{file}'; the same request goes on from there"


_DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
