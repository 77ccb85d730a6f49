"""HAM10000 as a study like the others: a stepwise study with its own data, network and class to watch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from secateur.core.errors import RequestError
from secateur.core.sections import Effect
from secateur.data import DataSettings, Resize
from secateur.experiments import register_study
from secateur.models import ModelSettings
from secateur.studies.stepwise.settings import VERSION, StepwiseSettings
from secateur.studies.stepwise.study import StepwiseStudy
from secateur.training import TrainSettings

DEFAULT_SOURCE = "HAM10000"

PUBLISHED_REPEATS = {"akiec": 15, "bcc": 10, "bkl": 5, "df": 50, "mel": 5, "nv": 1, "vasc": 40}
"""How often the coursework repeats the training images of each class."""


class SkinLesionSettings(StepwiseSettings):
    """Settings of the study; the defaults follow the coursework, with lesions kept on one side of the split."""

    data: Annotated[DataSettings, Effect.INPUTS] = Field(
        default_factory=lambda: DataSettings(source=DEFAULT_SOURCE, resize=Resize(size=224), augmentation="photo")
    )
    model: Annotated[ModelSettings, Effect.INPUTS] = Field(
        default_factory=lambda: ModelSettings(name="torchvision/resnet18")
    )
    train: Annotated[TrainSettings, Effect.INPUTS] = Field(
        default_factory=lambda: TrainSettings(
            epochs=10, batch_size=32, learning_rate=0.001, optimiser="adam", weight_decay=0.0, repeat=PUBLISHED_REPEATS
        )
    )
    finetune: Annotated[TrainSettings, Effect.RESULTS] = Field(
        default_factory=lambda: TrainSettings(
            epochs=5, batch_size=32, learning_rate=0.001, optimiser="adam", weight_decay=0.0, repeat=PUBLISHED_REPEATS
        )
    )
    final_epochs: Annotated[int, Effect.RESULTS] = Field(default=2, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _over_defaults(cls, value: Any) -> Any:
        """What is given of a section goes over this study's defaults, not over those of any network."""
        if not isinstance(value, dict):
            return value
        merged = dict(value)
        for name in ("data", "model", "train", "finetune"):
            given = value.get(name, {})
            if isinstance(given, dict):
                default = cls.model_fields[name].get_default(call_default_factory=True)
                merged[name] = default.model_dump(exclude_unset=True) | given
        return merged


@register_study
class SkinLesionStudy(StepwiseStudy):
    """Seven kinds of skin lesions (HAM10000), pruned by relevance, weight, gradient and Taylor; melanoma is watched.

    The published scripts split after repeating images, and image by image, so that the same lesion is in both parts,
    and call `mel` dermatofibroma. Here a lesion is on one side, training images alone are repeated, and `mel` is
    melanoma.

    Sources: Tschandl, Rosendahl & Kittler (2018) for the data; Yeom et al. (2021) and coursework that follows it.
    """

    name = "skin-lesions"
    version = VERSION
    summary = "Skin lesions (HAM10000): pruned and fine-tuned in turn; recall of melanoma, by criterion."
    settings_type = SkinLesionSettings
    watched = "mel"

    def check(self) -> None:
        """See `Study.check`."""
        source = self.settings.data.source
        if source == DEFAULT_SOURCE and not Path(source).exists():
            raise RequestError(
                f"there is no folder '{source}' here; give that of HAM10000 (--set data.source=FOLDER; from "
                "doi.org/10.7910/DVN/DBW86T), or draw synthetic ones: secateur data synthesise FOLDER"
            )
        super().check()
