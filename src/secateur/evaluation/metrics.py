"""Accuracy and related metrics on a labelled set."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from secateur.attribution.starts import logits_of
from secateur.core.errors import RequestError, SecateurError
from secateur.core.figures import count, size
from secateur.core.html import table_html
from secateur.core.memory import Memory
from secateur.core.modules import check_module
from secateur.core.progress import ProgressOption, reported, track
from secateur.core.ranks import ranks
from secateur.core.timing import Latency
from secateur.data.batches import whole_batches
from secateur.evaluation.batches import labelled
from secateur.evaluation.cost import count_macs, count_params, size_on_disk
from secateur.evaluation.latency import measure_latency
from secateur.evaluation.memory import measure_memory

CALIBRATION_BINS = 15


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Performance of a network on a labelled set, and its cost; shares are in [0, 1].

    Attributes:
        accuracy: top-1.
        balanced_accuracy: mean of the per-class accuracies.
        per_class: accuracy of each class that occurs, by name.
        loss: mean cross-entropy, in nats.
        calibration_error: expected calibration error over 15 equal bins of the top probability.
        samples: number of samples.
        params: parameter elements; macs: multiply-accumulates per sample; size_bytes: as safetensors.
        latency: latency of one batch, when measured; where two networks were timed in turn, with their ratio and its
            interval.
        memory: peak memory during one batch, when measured; see `secateur.measure_memory`.
        auc: area under the ROC curve of each class against the others, mean over classes, when requested.
    """

    accuracy: float
    balanced_accuracy: float
    per_class: dict[str, float]
    loss: float
    calibration_error: float
    samples: int
    params: int
    macs: int
    size_bytes: int
    latency: Latency | None = field(default=None)
    memory: Memory | None = field(default=None)
    auc: float | None = field(default=None)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        measured = {"latency": self.latency, "memory": self.memory}
        return asdict(self) | {name: None if value is None else value.to_json() for name, value in measured.items()}

    def __repr__(self) -> str:
        timing = "" if self.latency is None else f", {self.latency}"
        timing += "" if self.memory is None else f", {self.memory}"
        return (
            f"Evaluation(accuracy {100 * self.accuracy:.2f} %, balanced {100 * self.balanced_accuracy:.2f} %, "
            f"loss {self.loss:.4g} on {self.samples:,} samples; {self.params:,} parameters, {count(self.macs)} MACs, "
            f"{size(self.size_bytes)}{timing})"
        )

    def _repr_html_(self) -> str:
        """All figures with the number of samples as HTML, for notebooks."""
        rows: list[tuple[str, object]] = [
            ("accuracy", f"{100 * self.accuracy:.2f} %"),
            ("balanced accuracy", f"{100 * self.balanced_accuracy:.2f} %"),
            ("loss (cross-entropy, nats)", self.loss),
            *([] if self.auc is None else [("AUC (one against the others)", self.auc)]),
            ("calibration error", self.calibration_error),
            ("parameters", f"{self.params:,}"),
            ("MACs per sample", count(self.macs)),
            ("size as safetensors", size(self.size_bytes)),
            ("latency", "not measured" if self.latency is None else str(self.latency)),
            ("peak memory", "not measured" if self.memory is None else str(self.memory)),
            *((f"accuracy of {name}", f"{100 * share:.2f} %") for name, share in self.per_class.items()),
        ]
        return table_html(("figure", "value"), rows, f"Evaluation on {self.samples:,} samples")


@reported("evaluating")
def evaluate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    class_names: Sequence[str] | None = None,
    latency: bool = False,
    memory: bool = False,
    auc: bool = False,
    latency_batch: int = 64,
    device: torch.device | str | None = None,
    progress: ProgressOption = True,
) -> Evaluation:
    """Measure a network on (inputs, class indices) batches.

    With several ranks (`secateur.core.ranks.launched`), the batches are distributed over the ranks; all get the figures
    of all samples, each counted once. Latency and memory are measured by rank 0, while the others wait.

    Args:
        model: a network that returns logits [N, classes]; its mode and device are restored.
        batches: a `DataLoader` or any iterable of batches.
        class_names: names of classes for ``per_class``; by default their indices.
        latency: also time a batch of ``latency_batch`` samples.
        memory: also measure the peak memory of a pass over such a batch, see `secateur.measure_memory`.
        auc: also measure the area under the ROC curve; classes without samples, or with all of them, have none.
        latency_batch: number of samples in such a batch.
        device: device of the computation; None: that of the network.
        progress: how progress is reported, see `secateur.core.progress.ProgressOption`.

    Raises:
        RequestError: for an empty set, batches that are not pairs, or labels that are not class indices of the network.
        SecateurError: when logits are not finite.
    """
    check_module(model, compiled=True)
    modes = [(m, m.training) for m in model.modules()]
    home = next((p.device for p in model.parameters()), torch.device("cpu"))
    target_device = home if device is None else torch.device(device)
    logits_all, targets_all, first = [], [], None
    model.eval().to(target_device)
    try:
        with torch.inference_mode():
            for batch in track(whole_batches(batches, ranks()), "evaluating batches"):
                inputs, targets = labelled(batch)
                first = inputs if first is None else first
                moved = inputs.to(target_device)
                if moved.ndim == 4:
                    moved = moved.contiguous(memory_format=torch.channels_last)
                output = model(moved)
                logits_all.append(logits_of(output).float().cpu())
                targets_all.append(targets.cpu())
        logits_all, targets_all = _in_turn(ranks().gather(logits_all)), _in_turn(ranks().gather(targets_all))

        def measured() -> Evaluation:
            if first is None:  # rank 0 has the first batch, if there is one
                raise RequestError("there are no samples to evaluate on")
            logits, targets = torch.cat(logits_all), torch.cat(targets_all).long()
            figures = _figures(logits, targets, class_names)
            probe = _repeated(first, latency_batch) if latency or memory else first
            return Evaluation(
                **figures,
                params=count_params(model),
                macs=count_macs(model, first),
                size_bytes=size_on_disk(model),
                latency=measure_latency([model], probe)[0] if latency else None,
                memory=measure_memory(model, probe) if memory else None,
                auc=area_under_curve(logits, targets) if auc else None,
            )

        return ranks().once(measured)
    finally:
        model.to(home)
        for module, mode in modes:
            module.training = mode


def _in_turn(parts: Sequence[Sequence[torch.Tensor]]) -> list[torch.Tensor]:
    """The batches of this rank, which are dealt out in turn."""
    return [batch for turn in itertools.zip_longest(*parts) for batch in turn if batch is not None]


def area_under_curve(logits: torch.Tensor, targets: torch.Tensor) -> float | None:
    """Area under the ROC curve of each class's probability against all others, mean over the classes.

    The area is the share of pairs (sample of the class, other sample) in which the first has the higher probability;
    ties count half.

    Args:
        logits: [N, classes].
        targets: [N].

    Returns:
        The area; None where no class has both own samples and others.

    Example:
        >>> area_under_curve(torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1, 1]))
        1.0
    """
    from scipy.stats import rankdata

    labels = targets.numpy()
    ranks = rankdata(logits.double().softmax(1).numpy(), axis=0)
    areas = []
    for index in range(logits.shape[1]):
        inside = labels == index
        own = int(inside.sum())
        pairs = own * (len(labels) - own)
        if pairs:
            areas.append((float(ranks[inside, index].sum()) - own * (own + 1) / 2) / pairs)
    return sum(areas) / len(areas) if areas else None


def _repeated(samples: torch.Tensor, batch: int) -> torch.Tensor:
    """A batch of the given size, made of repeated samples."""
    return samples.repeat(-(-batch // len(samples)), *[1] * (samples.ndim - 1))[:batch]


def _figures(logits: torch.Tensor, targets: torch.Tensor, class_names: Sequence[str] | None) -> dict[str, Any]:
    if not torch.isfinite(logits).all():
        raise SecateurError("the network's outputs are not finite; look for NaN in the weights or inputs")
    if int(targets.max()) >= logits.shape[1]:
        raise RequestError(f"label {int(targets.max())} is beyond the network's {logits.shape[1]} outputs")
    probabilities = logits.softmax(1)
    confidence, predicted = probabilities.max(1)
    right = (predicted == targets).double()
    accuracies = {c: float(right[targets == c].mean()) for c in sorted(set(targets.tolist()))}
    per_class = {(class_names[c] if class_names is not None else str(c)): a for c, a in accuracies.items()}
    bins = (confidence * CALIBRATION_BINS).long().clamp(max=CALIBRATION_BINS - 1)
    error = sum(
        float((bins == b).double().mean() * (right[bins == b].mean() - confidence[bins == b].double().mean()).abs())
        for b in range(CALIBRATION_BINS)
        if bool((bins == b).any())
    )
    return {
        "accuracy": float(right.mean()),
        "balanced_accuracy": sum(accuracies.values()) / len(accuracies),  # names may repeat
        "per_class": per_class,
        "loss": float(F.cross_entropy(logits, targets)),
        "calibration_error": error,
        "samples": len(targets),
    }
