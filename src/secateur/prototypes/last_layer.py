"""The last layer alone, trained on similarities that do not change meanwhile. Axes: N samples, P prototypes."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from secateur.core.errors import RequestError
from secateur.core.progress import track
from secateur.core.randomness import derive_seed
from secateur.models.prototype_network import PrototypeNetwork
from secateur.prototypes.objective import last_penalty
from secateur.prototypes.settings import PrototypeTrainSettings


def fit_last_layer(
    network: PrototypeNetwork,
    similarities: torch.Tensor,
    labels: torch.Tensor,
    settings: PrototypeTrainSettings,
    iterations: int,
) -> list[float]:
    """Train the last layer in place: cross-entropy and the L1 term, Adam, the rest of the network as it is.

    The published code passes augmented images through the whole network in each of these epochs. Since only the last
    layer changes, similarities of the images without augmentation are taken once here, and the epochs take seconds.

    Args:
        network: changed in place.
        similarities: [N, P], of the training images without augmentation.
        labels: class of each image, [N].
        settings: coefficients, rate, batch size and seed.
        iterations: epochs.

    Returns:
        Mean loss of each epoch.

    Raises:
        RequestError: for similarities of another network or number of images.

    Example:
        >>> from secateur.models import build
        >>> net = build("prototype-network", num_classes=2, per_class=1, channels=4)
        >>> similarities, labels = torch.tensor([[4.0, 0.0], [0.0, 4.0]] * 8), torch.tensor([0, 1] * 8)
        >>> losses = fit_last_layer(net, similarities, labels, PrototypeTrainSettings(), 5)
        >>> losses[-1] < losses[0]
        True
    """
    if similarities.shape != (len(labels), network.num_prototypes):
        raise RequestError(
            f"similarities have shape {list(similarities.shape)}, for {len(labels)} images and "
            f"{network.num_prototypes} prototypes they must be [images, prototypes]"
        )
    device = network.last.weight.device
    x, y, classes = similarities.detach().to(device), labels.to(device), network.prototypes.classes
    weight = network.last.weight.detach().clone().requires_grad_(True)
    optimiser = torch.optim.Adam([weight], lr=settings.rates.last)
    generator = torch.Generator().manual_seed(derive_seed(settings.seed, "last layer"))
    losses = []
    for _ in track(range(iterations), "training the last layer"):
        total = 0.0
        for rows in torch.randperm(len(y), generator=generator).to(device).split(settings.batch_size):
            loss = settings.loss.cross_entropy * F.cross_entropy(x[rows] @ weight.T, y[rows])
            loss = loss + settings.loss.l1 * last_penalty(weight, classes, settings.loss.class_specific)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += float(loss.detach()) * len(rows)
        losses.append(total / len(y))
    with torch.no_grad():
        network.last.weight.copy_(weight)
    return losses
