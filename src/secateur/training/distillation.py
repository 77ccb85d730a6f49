"""Distillation: the soft targets of a teacher beside the labels."""

from __future__ import annotations

import copy
import hashlib
from functools import cached_property

import torch
from torch import nn
from torch.nn import functional as F

from secateur.core.errors import RequestError
from secateur.training.settings import DistillationSettings


class Teacher:
    """A copy of a network that only answers, so that the user's own stays as and where it is.

    Args:
        model: gives logits of the same classes as the student, alone or as the first of a tuple.
        settings: of the loss.
        device: of the training.
    """

    def __init__(self, model: nn.Module, settings: DistillationSettings, device: torch.device) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.settings = settings

    def logits(self, inputs: torch.Tensor) -> torch.Tensor:
        """What it says of the inputs, [N, K]."""
        with torch.no_grad():
            output = self.model(inputs)
        found: torch.Tensor = output[0] if isinstance(output, tuple) else output
        return found

    def loss(self, logits: torch.Tensor, answers: torch.Tensor, plain: torch.Tensor) -> torch.Tensor:
        """The student's loss.

        Args:
            logits: of the student, [N, K].
            answers: of the teacher, [N, K].
            plain: the loss on the labels.

        Raises:
            RequestError: when both have different numbers of outputs.
        """
        if logits.shape != answers.shape:
            raise RequestError(
                f"the teacher gives outputs of shape {tuple(answers.shape)}, the network {tuple(logits.shape)}; "
                "both need the same classes (cut or mask the teacher's head as the network's)"
            )
        heat, weight = self.settings.temperature, self.settings.weight
        said, heard = (F.log_softmax(values.float() / heat, 1) for values in (answers, logits))
        apart = F.kl_div(heard, said, reduction="batchmean", log_target=True)
        return (1 - weight) * plain + weight * heat**2 * apart

    @cached_property
    def digest(self) -> str:
        """Hash of its weights: a resumed training must go on with the same teacher."""
        found = hashlib.sha256()
        for name, tensor in self.model.state_dict().items():
            found.update(name.encode())
            found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return found.hexdigest()[:16]


def check_teacher(settings: DistillationSettings | None, teacher: nn.Module | None) -> None:
    """Refuse a teacher without settings, and settings without a teacher."""
    if settings is not None and teacher is None:
        raise RequestError("settings.distillation needs a teacher; give fit(..., teacher=...) or leave it out")
    if settings is None and teacher is not None:
        raise RequestError("a teacher is given but settings.distillation is not; set it, e.g. DistillationSettings()")
    if settings is not None and teacher is not None and settings.teacher == "masked" and not _has_zeros(teacher):
        raise RequestError(
            "distillation.teacher is 'masked', but no weight of the teacher is 0; give one that was masked, "
            "or set distillation.teacher to 'unpruned'"
        )


def _has_zeros(model: nn.Module) -> bool:
    return any(bool((p == 0).any()) for p in model.parameters() if p.ndim > 1)
