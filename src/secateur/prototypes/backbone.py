"""A trained network's weights for the backbone of a prototype network."""

from __future__ import annotations

from pathlib import Path

from secateur.core.errors import RequestError
from secateur.models.checkpoint import load_tensors, read_tensors
from secateur.models.prototype_network import PrototypeNetwork


def load_backbone(network: PrototypeNetwork, path: str | Path) -> PrototypeNetwork:
    """Load the weights of a trained network into the backbone, in place; what comes behind its feature map is left out.

    Args:
        network: whose backbone is the same network.
        path: a checkpoint, as `secateur.train` and ``secateur train`` write it, or a state dict.

    Returns:
        The network.

    Raises:
        RequestError: for an unreadable file, weights that are missing in it, or other shapes.

    Example:
        >>> import tempfile
        >>> import secateur as sc
        >>> from secateur.models import save_weights
        >>> net = sc.build("prototype-network", backbone="resnet20", num_classes=2, per_class=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     trained = save_weights(sc.build("resnet20", num_classes=7), f"{folder}/resnet20.safetensors")
        ...     load_backbone(net, trained) is net
        True
    """
    tensors, backbone = read_tensors(path), network.features.network
    own = backbone.state_dict()
    missing = [name for name in own if name not in tensors]
    if missing:
        raise RequestError(
            f"checkpoint '{path}' is not of this backbone: it lacks '{missing[0]}'"
            f"{f' and {len(missing) - 1} more' if len(missing) > 1 else ''} of {len(own)} tensors; its first names: "
            f"{', '.join(list(tensors)[:3])}"
        )
    load_tensors(backbone, {name: tensors[name] for name in own}, path)
    return network
