"""Networks by name, and checkpoints that never unpickle."""

from secateur.models.build import ModelSettings, build, input_shape, known_models, origin_of, registered
from secateur.models.checkpoint import load_weights, read_metadata, save_weights

__all__ = [
    "ModelSettings",
    "build",
    "input_shape",
    "known_models",
    "load_weights",
    "origin_of",
    "read_metadata",
    "registered",
    "save_weights",
]
