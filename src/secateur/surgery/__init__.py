"""Removal: physical, by masks, with compensation; and bundles that hold the result."""

from secateur.surgery.bundle import Bundle, load, read_bundle, save
from secateur.surgery.compensate import compensate, mask_and_compensate, recalibrate
from secateur.surgery.prune import cuts_of, mask, prune

__all__ = [
    "Bundle",
    "compensate",
    "cuts_of",
    "load",
    "mask",
    "mask_and_compensate",
    "prune",
    "read_bundle",
    "recalibrate",
    "save",
]
