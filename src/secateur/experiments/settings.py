"""Settings of a study."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from secateur.core.sections import Effect, Execution, RaySettings, Section, check_declared, sections, settings_for

__all__ = ["Effect", "Execution", "RaySettings", "Section", "StudySettings", "sections", "settings_for"]


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
        check_declared(cls, cls.__name__)
