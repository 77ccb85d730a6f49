"""Scores by the scale of norms.

Source: Liu et al., "Learning efficient convolutional networks through network slimming" (2017).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from secateur.core.errors import RequestError
from secateur.criteria.base import Criterion, register

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from secateur.data import ReferenceSet
    from secateur.structure import Structure


@register("bn-scale")
@dataclass(frozen=True)
class BNScale(Criterion):
    """Mean |γ| over the norms that the unit passes: batch, instance, group, layer and RMS norms with a scale.

    Units that pass no such norm cannot be compared and score 1 more than all others, so that they are removed last in a
    global ranking.

    Raises:
        RequestError: when no unit passes one, as where norms were folded into the layers before them.
    """

    def unit_scores(
        self, model: nn.Module, structure: Structure, reference: ReferenceSet, *, centred: bool, batch_size: int
    ) -> np.ndarray:
        """See `Criterion.unit_scores`; reference samples are not used."""
        import numpy as np
        import torch
        from torch import nn
        from torch.nn.modules.batchnorm import _NormBase

        scales = {
            f"{path}.weight".lstrip("."): module.weight
            for path, module in model.named_modules()
            if isinstance(module, (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)) and module.weight is not None
        }
        total, count = np.zeros(structure.num_units), np.zeros(structure.num_units)
        for axis in structure.axes:
            if axis.role != "along" or axis.tensor not in scales:
                continue
            sizes = scales[axis.tensor].detach().to(torch.float64).abs().movedim(axis.dim, 0)
            mean = sizes.reshape(len(sizes), -1).mean(1).cpu().numpy()
            for unit in axis.unit:
                np.add.at(total, unit[unit >= 0], mean[unit >= 0])
                np.add.at(count, unit[unit >= 0], 1)
        if not count.any():
            raise RequestError(
                "criterion 'bn-scale' looks at the scales of norms, and no removable unit passes a norm with a scale; "
                "take another criterion, such as 'weight', or train a network with batch norms"
            )
        values = total / np.maximum(count, 1)
        values[count == 0] = values.max() + 1
        return values
