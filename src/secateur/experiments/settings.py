"""Settings of a study: sections that declare whether results depend on them."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo


class Effect(Enum):
    """What a section of settings changes; given with its annotation, ``Annotated[Section, Effect.RESULTS]``."""

    CELLS = "which cells there are; each cell's coordinates hold what it depends on"
    RESULTS = "the result of each cell; it is part of their identity"
    INPUTS = "what is opened, such as weights and data, whose fingerprints are part of the identity"
    PRESENTATION = "no result: how and where the work is done, and what is drawn from it"


class Section(BaseModel):
    """Base of a section: frozen, and unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Execution(Section):
    """How the cells of a study are worked on; declared as `Effect.PRESENTATION`."""

    processes: int = Field(default=1, ge=0, description="side by side, one thread each; 0: as many as there are cores")


class StudySettings(BaseModel):
    """Base of a study's settings: each field is a section with an `Effect`, or a group of such sections.

    Example:
        >>> from typing import Annotated
        >>> class Grid(Section):
        ...     seeds: tuple[int, ...] = (0, 1)
        >>> class Mine(StudySettings):
        ...     grid: Annotated[Grid, Effect.CELLS] = Grid()
        >>> [(section.path, section.effect.name) for section in sections(Mine())]
        [('grid', 'CELLS')]
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        """See that every field says what it changes."""
        super().__pydantic_init_subclass__(**options)
        _declared(cls, cls.__name__)


class SectionInPlace(BaseModel):
    """A section where it stands.

    Attributes:
        path: names that lead to it, with dots.
        effect: what it changes.
        value: a section, or a plain value.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    path: str
    effect: Effect
    value: Any

    @property
    def plain(self) -> Any:
        """As JSON has it."""
        return self.value.model_dump(mode="json") if isinstance(self.value, BaseModel) else self.value


def sections(settings: BaseModel, path: str = "") -> Iterator[SectionInPlace]:
    """All sections of a study's settings, those of groups too.

    Args:
        settings: of the study, or a group.
        path: that leads to the group.
    """
    for name, field in type(settings).model_fields.items():
        if name == "schema_version":
            continue
        here, value, effect = f"{path}{name}", getattr(settings, name), _effect(field)
        if effect is not None:
            yield SectionInPlace(path=here, effect=effect, value=value)
        else:
            yield from sections(value, f"{here}.")


def settings_for(settings: BaseModel, effect: Effect = Effect.RESULTS) -> dict[str, Any]:
    """The sections of one effect, as JSON has them, by path."""
    return {section.path: section.plain for section in sections(settings) if section.effect is effect}


def _declared(model: type[BaseModel], where: str) -> None:
    for name, field in model.model_fields.items():
        if name == "schema_version" or _effect(field) is not None:
            continue
        kind = field.annotation
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            raise TypeError(f"{where}.{name} has no effect; annotate it, Annotated[..., Effect.RESULTS]")
        _declared(kind, f"{where}.{name}")


def _effect(field: FieldInfo) -> Effect | None:
    return next((item for item in field.metadata if isinstance(item, Effect)), None)
