"""Training loop: best checkpoint, early stop, resume at the last whole epoch.

Several processes (``torchrun``) take their share of every batch: PyTorch's `DistributedDataParallel` averages their
gradients. Mixed precision is PyTorch's own, too.
"""

from __future__ import annotations

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
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset

from secateur.core.devices import choose_device
from secateur.core.errors import RequestError, SecateurError
from secateur.core.files import atomic_path
from secateur.core.interruption import keeping
from secateur.core.layouts import laid_out, training_layout
from secateur.core.progress import ProgressOption, reported, track
from secateur.core.randomness import derive_seed
from secateur.core.ranks import Ranks, ranks
from secateur.data import loader
from secateur.data.batches import parts_of_batches, whole_batches
from secateur.training.distillation import Teacher, check_teacher
from secateur.training.history import Epoch, TrainingHistory
from secateur.training.objective import Objective, trained_alone
from secateur.training.optimisation import optimiser_of, rate, steps_per_epoch
from secateur.training.repetition import repeated
from secateur.training.settings import TrainSettings
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
    model keeps the weights of the moment.

    Of several ranks (`secateur.core.ranks.launched`), each takes its share of every batch of ``settings.batch_size``
    samples; loss, gradients and the statistics of batch norms are those of the whole batch, as in one process. What is
    drawn by chance, dropout and augmentation, is drawn anew on each rank. Rank 0 writes the state, and all go on from
    it.

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
            objective or a batch norm of another library.
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
        with synchronised_norms(model, ranks()), trained_alone(model, objective):
            training = _Training(
                model, train, val if samples[1] else None, settings, device, teacher, weight_mask, objective
            )
            return training.run(state_file, samples, on_epoch)
    finally:
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
        self.layout = training_layout(model, device)
        model.to(device=device, memory_format=self.layout)  # type: ignore[call-overload]
        self.model, self.train, self.settings = model, train, settings
        self.wrapped = _wrapped(model, device, self.ranks)
        self.val_batches: Any = None
        if val is not None:
            self.val_batches = whole_batches(loader(val, max(256, settings.batch_size)), self.ranks)
        self.weight_mask = weight_mask
        self.bound_mask = None if weight_mask is None else weight_mask.bind(model)
        if self.bound_mask is not None:
            self.bound_mask.clear_weights()
        self.optimiser = optimiser_of(model, settings, objective)
        self.samples = len(repeated(train, settings.repeat, settings.seed, 0))  # type: ignore[arg-type]
        self.steps = steps_per_epoch(self.samples, settings.batch_size)
        kind = device.type
        precision = "no" if kind == "mps" else settings.mixed_precision
        self.autocast: dict[str, Any] = {"device_type": kind, "dtype": _DTYPES[precision], "enabled": precision != "no"}
        self.scaler = torch.amp.GradScaler(kind, enabled=precision == "fp16")
        self.history = TrainingHistory()
        self.kept = _copy(model)

    def run(
        self, state_file: str | Path | None, samples: tuple[int, int], on_epoch: Callable[[Epoch], None] | None
    ) -> TrainingHistory:
        """All epochs that are still to do."""
        settings, history = self.settings, self.history
        tell = on_epoch if on_epoch is not None and self.ranks.main else lambda _: None
        first = 0
        if state_file is not None and self.ranks.broadcast(Path(state_file).exists()):
            first = self._resume(Path(state_file), samples)
            history = self.history
            for done in history.epochs():
                tell(done)
        epochs = range(first, settings.epochs)
        with keeping(lambda: _kept_in(state_file)):
            for epoch in track(epochs, "training epochs", settings.epochs, done=first):
                if history.stopped_early:
                    break
                self._step(epoch)
                if state_file is not None and self.ranks.main:
                    self._save(Path(state_file), epoch + 1, samples)
                tell(history.epoch(epoch))
        self.model.load_state_dict(self.kept)
        return history

    def _step(self, epoch: int) -> None:
        """Train for an epoch and measure."""
        begin = time.perf_counter()
        # all that is random in an epoch follows from its number: a resumed run equals an unbroken one
        own = (self.ranks.rank,) if self.ranks.several else ()
        _seed(derive_seed(self.settings.seed, "epoch", epoch, *own) % 2**32)
        row = {"epoch": epoch, "learning_rate": self._rate(epoch, 0)}
        row["train_loss"] = self._epoch(epoch)
        if self.val_batches is not None:
            row["val_loss"], row["val_accuracy"] = self._validate()
        better = self.history.add(row, time.perf_counter() - begin, self.settings)
        if better or self.settings.keep == "last":
            self.kept = _copy(self.model)

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
        self.wrapped.train()
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
            inputs = laid_out(inputs, self.layout)
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
                nn.utils.clip_grad_norm_(self.model.parameters(), settings.gradient_clip)
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
                logits, loss = self.objective.loss(self.wrapped, inputs, targets)
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
            output = self.wrapped(inputs)
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
        self.wrapped.eval()
        loss = correct = count = 0.0
        # no_grad, not inference_mode: what a network caches in its forward must serve the next training step
        with torch.no_grad():
            for inputs, targets in track(self.val_batches, "validating"):
                inputs, targets = self._placed(inputs), self._placed(targets)
                logits = self.model(inputs)
                loss += float(F.cross_entropy(logits, targets, reduction="sum"))
                correct += float((logits.argmax(1) == targets).sum())
                count += len(targets)
        loss, correct, count = self._total(loss, correct, count)
        return loss / count, correct / count

    def _save(self, path: Path, epochs_done: int, samples: tuple[int, int]) -> None:
        state = {
            "settings": self.settings.model_dump_json(),
            "samples": list(samples),
            "teacher": None if self.teacher is None else self.teacher.digest,
            "weight_mask": None if self.weight_mask is None else self.weight_mask.digest,
            "objective": None if self.objective is None else self.objective.identity,
            "epoch": epochs_done,
            "model": _copy(self.model),
            "best": self.kept,
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "history": self.history.to_json(),
        }
        with atomic_path(path) as temporary:
            try:
                torch.save(state, temporary)
            except RuntimeError as error:
                # PyTorch's way to say that the disk is full
                raise OSError(str(error).split("\n", maxsplit=1)[0]) from error

    def _resume(self, path: Path, samples: tuple[int, int]) -> int:
        """Take over a saved state; the number of epochs it has done."""
        try:
            # rank 0 may be the only one that has the file
            state: Any = torch.load(path, map_location="cpu", weights_only=True) if self.ranks.main else None
        except Exception as error:  # whatever a foreign file raises, the remedy is the same
            raise _foreign_state(path, error) from error
        state = self.ranks.broadcast(state)
        try:
            settings = TrainSettings.model_validate_json(state["settings"])
            history = TrainingHistory(**state["history"])
            epochs_done, model, kept, optimiser, scaler, size = (
                state[key] for key in ("epoch", "model", "best", "optimiser", "scaler", "samples")
            )
        except Exception as error:  # likewise
            raise _foreign_state(path, error) from error
        # where the work runs may change between two runs
        here = {"device": self.settings.device, "workers": self.settings.workers}
        taught = None if self.teacher is None else self.teacher.digest
        masked = None if self.weight_mask is None else self.weight_mask.digest
        if (
            settings.model_copy(update=here) != self.settings
            or tuple(size) != samples
            or state.get("teacher") != taught
            or state.get("weight_mask") != masked
            or state.get("objective") != (None if self.objective is None else self.objective.identity)
        ):
            raise RequestError(
                f"'{path}' belongs to a training with other settings or data, or another teacher, mask or loss; "
                "delete it or choose another --out"
            )
        try:
            self.model.load_state_dict(model)
            self.optimiser.load_state_dict(optimiser)
        except (RuntimeError, ValueError) as error:
            raise RequestError(f"'{path}' belongs to another network; delete it or choose another --out") from error
        self.scaler.load_state_dict(scaler)
        self.kept, self.history = kept, history
        return int(epochs_done)


def _wrapped(model: nn.Module, device: torch.device, of: Ranks) -> nn.Module:
    """The network whose gradients are averaged over ranks; of one rank, itself."""
    if not of.several:
        return model
    numbers = [device] if device.type == "cuda" else None
    # parameters that a network does not use, such as those of auxiliary heads, have no gradient to wait for
    return DistributedDataParallel(model, device_ids=numbers, find_unused_parameters=True)


def _seed(seed: int) -> None:
    """Of all random numbers that a data set or a network may draw."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - what code of the user's own draws from
    torch.manual_seed(seed)


def _foreign_state(path: Path, error: Exception) -> RequestError:
    reason = str(error).split("\n", maxsplit=1)[0]
    return RequestError(f"'{path}' is not a training state of this version ({reason}); delete it to start anew")


def _kept_in(state_file: str | Path | None) -> str:
    if state_file is None or not Path(state_file).exists():
        return ""
    return f"finished epochs are kept in '{state_file}'; the same request goes on from there"


_DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def _copy(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
