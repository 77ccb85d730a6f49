from .building import ModelSettings, build, input_shape, known_models, origin_of, registered
from .checkpoint import load_weights, save_weights
from .safetensors_file import read_metadata

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
