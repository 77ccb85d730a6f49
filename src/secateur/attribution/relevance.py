"""The result of a relevance pass. Axes: N samples, K classes, U units."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field

import torch

from secateur.core.html import image_html, table_html

_PICTURES = 8
"""Number of heatmaps that notebooks show of one `Relevance`."""


@dataclass(frozen=True, eq=False, repr=False)
class Relevance:
    """Relevance of the inputs and of every weighted layer's and attention's units.

    Attributes:
        input: tensor of the inputs' shape.
        units: by layer name, [N, U]: channels, neurons, and heads under the name of their attention module, after a
            batch norm that directly follows. With ``positions="keep"``, in the shape of the layer's output instead.
        logits: outputs of the network, [N, K].
        start: relevance at the logits, summed over classes, [N].
        absorbed: with ``account=True``, the relevance that biases, constants, stabilisers and the softmax absorbed, by
            where they are, [N] each, so that start = input.sum() + Σ absorbed.
    """

    input: torch.Tensor
    units: dict[str, torch.Tensor]
    logits: torch.Tensor
    start: torch.Tensor
    absorbed: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def gap(self) -> torch.Tensor:
        """Relevance that did not reach the inputs: start - input.sum(), [N]."""
        return self.start - self.input.flatten(1).sum(1)

    def __repr__(self) -> str:
        return (
            f"Relevance(input {list(self.input.shape)}, {len(self.units)} layers of units, "
            f"logits {list(self.logits.shape)})"
        )

    def _repr_html_(self) -> str:
        """Heatmaps of the first inputs, where these are images, and the layers, as HTML for notebooks."""
        from secateur.reports.images import heatmap_png

        pictures = []
        if self.input.ndim == 4 and self.input.is_floating_point():
            for number, heat in enumerate(self.input[:_PICTURES].detach().sum(1).double().cpu().numpy()):
                said = f"relevance of input {number}; predicted class {int(self.logits[number].argmax())}"
                pictures.append(image_html(base64.b64decode(heatmap_png(heat)), said))
        layers = ((name, list(r.shape[1:]), float(r.abs().sum())) for name, r in self.units.items())
        return " ".join([*pictures, table_html(("layer", "units", "sum of |relevance|"), layers, repr(self))])
