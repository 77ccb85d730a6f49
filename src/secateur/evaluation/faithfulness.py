"""Whether heatmaps show the pixels that a network uses: pixel flipping. Axes: N images, C channels, H rows, W columns.

Sources: Bach et al. (2015) and Samek et al. (2017) for pixel flipping by patches; Petsiuk et al. (2018) for deletion
and insertion; Bluecher et al., "Decoupling pixel flipping and occlusion strategy for consistent XAI benchmarks" (2024),
for the difference of the two orders.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from secateur.attribution.starts import check_classes, logits_of
from secateur.core.borrowing import borrowed
from secateur.core.errors import RequestError


@dataclass(frozen=True)
class Faithfulness:
    """Areas under the curves of a class's probability while an image is flipped, means over images.

    Attributes:
        deletion: the most relevant patches are flipped first; low values are faithful.
        insertion: the least relevant ones are flipped first; from its end, the curve inserts the most relevant ones
            first; high values are faithful.
        samples: number of images.
    """

    deletion: float
    insertion: float
    samples: int

    @property
    def gain(self) -> float:
        """Insertion minus deletion: 0 on average for a random order."""
        return self.insertion - self.deletion


def pixel_flipping(
    model: nn.Module,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    relevance: torch.Tensor,
    *,
    patch: int = 4,
    steps: int = 16,
    baseline: float = 0.0,
    batch_size: int = 250,
) -> Faithfulness:
    """Flip patches of images in the order of their relevance, and in the reverse order.

    At step k of ``steps``, the first k / ``steps`` of the patches are set to ``baseline``; areas are by the trapezoidal
    rule over k = 0 ... ``steps``.

    Args:
        model: a network that returns logits; its state is restored.
        inputs: images, [N, C, H, W].
        targets: class indices, [N].
        relevance: relevance of the pixels, [N, H, W]; that of a patch is the sum.
        patch: side of a patch in pixels, which has to divide H and W.
        steps: number of steps of each curve.
        baseline: value of flipped pixels; 0 is the mean of the data where images are normalised.
        batch_size: images per pass.

    Raises:
        RequestError: for shapes that do not fit together, or a patch that does not divide the image.

    Example:
        >>> net = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(1, 2))
        >>> images = torch.rand(3, 1, 8, 8)
        >>> pixel_flipping(net, images, torch.zeros(3, dtype=torch.long), images[:, 0]).samples
        3
    """
    if inputs.ndim != 4 or relevance.shape != (len(inputs), *inputs.shape[2:]) or targets.shape != inputs.shape[:1]:
        raise RequestError(
            "pixel flipping needs images [N, C, H, W], classes [N] and relevance [N, H, W], got "
            f"{list(inputs.shape)}, {list(targets.shape)} and {list(relevance.shape)}"
        )
    if inputs.shape[2] % patch or inputs.shape[3] % patch:
        raise RequestError(
            f"a patch of {patch} pixels does not divide images of {list(inputs.shape[2:])}; choose another"
        )
    if steps < 1:
        raise RequestError(f"pixel flipping needs at least one step, got {steps}")
    weight = torch.full((steps + 1,), 1 / steps, dtype=torch.float64)
    weight[0] = weight[-1] = 0.5 / steps
    areas = torch.zeros(2, dtype=torch.float64)
    with borrowed(model), torch.inference_mode():
        for x, y, r in zip(
            inputs.split(batch_size), targets.split(batch_size), relevance.split(batch_size), strict=True
        ):
            sums_NP = F.avg_pool2d(r[:, None].float(), patch)[:, 0].flatten(1)
            count = sums_NP.shape[1]
            for which, descending in enumerate((True, False)):
                place_NP = sums_NP.argsort(dim=1, descending=descending, stable=True).argsort(dim=1)
                for step in range(steps + 1):
                    gone = (place_NP < round(count * step / steps)).reshape(
                        len(x), 1, x.shape[2] // patch, x.shape[3] // patch
                    )
                    flipped = gone.repeat_interleave(patch, 2).repeat_interleave(patch, 3)
                    logits = logits_of(model(x.masked_fill(flipped, baseline)))
                    check_classes(y, logits)
                    probability = logits.softmax(1).gather(1, y[:, None])
                    areas[which] += weight[step] * probability.sum().double().cpu()
    deletion, insertion = (areas / len(inputs)).tolist()
    return Faithfulness(deletion, insertion, len(inputs))
