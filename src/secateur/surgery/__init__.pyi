from .bundle import Bundle, load, read_bundle, save
from .comparison import OutputDifference, Verification
from .compensation import compensate, mask_and_compensate, recalibrate
from .head import mask_head, slice_head
from .hub import from_pretrained, push_to_hub
from .pruning import apply_edits, edits_of, mask, prune, verify
from .refit import LayerFit, refit

__all__ = [
    "Bundle",
    "LayerFit",
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
    "refit",
    "save",
    "slice_head",
    "verify",
]
