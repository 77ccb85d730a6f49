from .backbone import load_backbone
from .boxes import activation_box, boxes_of, relevance_box
from .ensemble import PrototypeEnsemble
from .explanation import (
    ImageExplanation,
    PrototypeEvidence,
    PrototypeExplanations,
    class_heatmap,
    explain_images,
    explain_prototypes,
)
from .exporting import export_prototypes
from .last_layer import fit_last_layer
from .nearest import NearestPatches, nearest_patches, similarities_of
from .numbers import prototype_numbers
from .projection import check_sources, project
from .pruning import PrunedPrototypes, left_of, prune_prototypes
from .published import load_published
from .receptive_field import ReceptiveField
from .records import BOX_KINDS, Box, BoxKind, Patch, Projection, PrototypeSource
from .relevance import prototype_relevance
from .removal import disable_prototypes, remove_prototypes
from .selection import PrototypeDecision
from .settings import (
    NetworkSettings,
    PrototypePruneSettings,
    PrototypeRecipe,
    PrototypeTrainSettings,
)
from .training import PrototypeTraining, train_prototypes

__all__ = [
    "BOX_KINDS",
    "Box",
    "BoxKind",
    "ImageExplanation",
    "NearestPatches",
    "NetworkSettings",
    "Patch",
    "Projection",
    "PrototypeDecision",
    "PrototypeEnsemble",
    "PrototypeEvidence",
    "PrototypeExplanations",
    "PrototypePruneSettings",
    "PrototypeRecipe",
    "PrototypeSource",
    "PrototypeTrainSettings",
    "PrototypeTraining",
    "PrunedPrototypes",
    "ReceptiveField",
    "activation_box",
    "boxes_of",
    "check_sources",
    "class_heatmap",
    "disable_prototypes",
    "explain_images",
    "explain_prototypes",
    "export_prototypes",
    "fit_last_layer",
    "left_of",
    "load_backbone",
    "load_published",
    "nearest_patches",
    "project",
    "prototype_numbers",
    "prototype_relevance",
    "prune_prototypes",
    "relevance_box",
    "remove_prototypes",
    "similarities_of",
    "train_prototypes",
]
