"""The studies that come with the package, by name; each registers itself when it is asked for."""

from __future__ import annotations

from secateur.experiments import declare_studies, known_studies, study_class

declare_studies(
    {
        "toy": "secateur.studies.toy.study",
        "compare": "secateur.studies.compare.study",
        "class-aware": "secateur.studies.class_aware.study",
    }
)

__all__ = ["known_studies", "study_class"]
