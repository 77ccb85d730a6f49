"""Epochs as curves of a tracked run."""

from __future__ import annotations

from collections.abc import Callable

from secateur.tracking import Tracking
from secateur.training.history import Epoch


def curves(tracking: Tracking, first: int = 0) -> Callable[[Epoch], None]:
    """What `secateur.fit` takes as ``on_epoch``, to log each epoch at its own step.

    Training that goes on from a state goes on with the runs of the state, without a step twice.

    Args:
        tracking: is told.
        first: step of the first epoch, where others came before.

    Example:
        >>> from secateur.tracking import TrackingSettings
        >>> with Tracking(TrackingSettings(), "none", {}, "out") as tracking:
        ...     curves(tracking)(Epoch(0, {"train_loss": 0.5}))
    """

    def tell(epoch: Epoch) -> None:
        if epoch.resumed:
            tracking.resume()
        tracking.log(epoch.metrics, first + epoch.index)

    return tell
