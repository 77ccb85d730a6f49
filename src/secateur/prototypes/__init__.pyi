from .numbers import prototype_numbers
from .records import BOX_KINDS, Box, BoxKind, Patch, Projection, PrototypeSource

__all__ = [
    "BOX_KINDS",
    "Box",
    "BoxKind",
    "Patch",
    "Projection",
    "PrototypeSource",
    "prototype_numbers",
]
