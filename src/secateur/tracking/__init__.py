"""Experiment trackers: curves while work runs, tables and files at its end.

Nothing leaves the machine unless the environment says where to: ``WANDB_MODE`` or ``WANDB_API_KEY``,
``MLFLOW_TRACKING_URI``, ``TRACKIO_SPACE_ID`` or ``TRACKIO_SERVER_URL``.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
