from .building import input_shape, origin_of
from .checkpoint import load_weights, save_weights
from .opening import Opened, build, open_network
from .safetensors_file import read_metadata
from .settings import ModelSettings, check_model, check_model_name, known_models, registered

__all__ = [
    "ModelSettings",
    "Opened",
    "build",
    "check_model",
    "check_model_name",
    "input_shape",
    "known_models",
    "load_weights",
    "open_network",
    "origin_of",
    "read_metadata",
    "registered",
    "save_weights",
]
