"""Prototype networks for other runtimes: logits and similarities."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from secateur.core.progress import ProgressOption, reported
from secateur.exporting import Exported, export
from secateur.models.building import input_shape
from secateur.models.prototype_network import PrototypeNetwork
from secateur.prototypes.numbers import prototype_numbers


class LogitsAndSimilarities(NamedTuple):
    """What an exported network gives: [N, C] and [N, P]."""

    logits: torch.Tensor
    similarities: torch.Tensor


class WithSimilarities(nn.Module):
    """A prototype network that gives its similarities beside its logits."""

    def __init__(self, network: PrototypeNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> LogitsAndSimilarities:
        """Images [N, C, H, W] to both."""
        similarities = self.network.prototypes(self.network.feature_map(x))
        return LogitsAndSimilarities(self.network.last(similarities), similarities)


@reported("exporting a prototype network")
def export_prototypes(
    network: PrototypeNetwork,
    path: str | Path,
    *,
    format: str = "onnx",
    metadata: Mapping[str, Any] | None = None,
    progress: ProgressOption = True,
) -> Exported:
    """Write a network whose file gives ``logits`` and ``similarities``; checked as `secateur.export` does.

    The numbers of the prototypes and the class of each are kept in the file's metadata.

    Args:
        network: pruned or not.
        path: see `secateur.export`.
        format: likewise.
        metadata: kept in the file.
        progress: who is told of it, see `secateur.core.progress.ProgressOption`.

    Raises:
        RequestError: see `secateur.export`.
    """
    about = {
        **(metadata or {}),
        "prototypes": prototype_numbers(network).tolist(),
        "prototype_classes": network.prototypes.classes.tolist(),
    }
    example = torch.rand(2, *input_shape(network))
    names = LogitsAndSimilarities._fields if format in ("onnx", "openvino") else None
    return export(WithSimilarities(network), path, example, format, metadata=about, output_names=names, progress=False)
