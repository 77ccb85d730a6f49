"""Removal: physical, by masks, with compensation; heads for some classes; and bundles that hold the result."""

from secateur.surgery.bundle import Bundle, load, read_bundle, save
from secateur.surgery.comparison import OutputDifference, Verification
from secateur.surgery.compensate import compensate, mask_and_compensate, recalibrate
from secateur.surgery.head import mask_head, slice_head
from secateur.surgery.hub import from_pretrained, push_to_hub
from secateur.surgery.prune import apply_edits, edits_of, mask, prune, verify

__all__ = [
    "Bundle",
    "OutputDifference",
    "Verification",
    "apply_edits",
    "compensate",
    "edits_of",
    "from_pretrained",
    "load",
    "mask",
    "mask_and_compensate",
    "mask_head",
    "prune",
    "push_to_hub",
    "read_bundle",
    "recalibrate",
    "save",
    "slice_head",
    "verify",
]
