"""The studies that come with the package, by name; each registers itself when it is asked for."""

from __future__ import annotations

from secateur.experiments import declare_studies, known_studies, study_class

PACKAGED = {
    "toy": "secateur.studies.toy.study",
    "compare": "secateur.studies.compare.study",
    "class-aware": "secateur.studies.class_aware.study",
    "stepwise": "secateur.studies.stepwise.study",
    "skin-lesions": "secateur.studies.skin_lesions.study",
    "prototypes": "secateur.studies.prototypes.study",
    "search": "secateur.studies.search.study",
}
"""Modules of the studies that come with the package."""

declare_studies(PACKAGED)

__all__ = ["PACKAGED", "known_studies", "study_class"]
