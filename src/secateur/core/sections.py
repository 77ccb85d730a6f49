"""Settings in sections, each of which says what it changes: which results there are, what they are, or neither."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

from pydantic import BaseModel, ByteSize, ConfigDict, Field
from pydantic.fields import FieldInfo

from secateur.core.errors import RequestError


class Effect(Enum):
    """What a section of settings changes; given with its annotation, ``Annotated[Section, Effect.RESULTS]``."""

    CELLS = "which pieces of work there are; their coordinates hold what they depend on"
    RESULTS = "the result of each piece of work; it is part of its identity"
    INPUTS = "what is opened, such as weights and data, whose fingerprints are part of the identity"
    PRESENTATION = "no result: how and where the work is done, and what is drawn from it"


class Section(BaseModel):
    """Base of a section: frozen, and unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RaySettings(Section):
    """Where a Ray cluster is, and what a piece of work takes of it."""

    address: str | None = Field(
        default=None, description="HOST:PORT of its head, or auto; null: a cluster on this machine, for this run alone"
    )
    cpus: float = Field(default=1, gt=0, description="cores of each piece of work")
    gpus: float = Field(default=0, ge=0, description="likewise, parts of one too")
    memory: ByteSize = Field(default=ByteSize(0), description="likewise, for example 4GiB; 0: not counted")
    retries: int = Field(
        default=3, ge=0, description="times that a piece of work is tried again when its worker was lost"
    )


class Execution(Section):
    """How pieces of work are worked on; declared as `Effect.PRESENTATION`."""

    executor: Literal["processes", "ray"] = Field(
        default="processes", description="processes of this machine, or a Ray cluster (extra ray)"
    )
    processes: int = Field(default=1, ge=0, description="side by side, one thread each; 0: as many as there are cores")
    time_limit: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="seconds of each piece of work; null: none"
    )
    ray: RaySettings = RaySettings()


@dataclass(frozen=True)
class SectionInPlace:
    """A section where it stands.

    Attributes:
        path: names that lead to it, with dots.
        effect: what it changes.
        value: a section, or a plain value.
    """

    path: str
    effect: Effect
    value: Any

    @property
    def plain(self) -> Any:
        """As JSON has it."""
        return self.value.model_dump(mode="json") if isinstance(self.value, BaseModel) else self.value


def sections(settings: BaseModel, path: str = "") -> Iterator[SectionInPlace]:
    """All sections of settings, those of groups too.

    Args:
        settings: whose fields are sections with an effect, or groups of such.
        path: that leads to the group.
    """
    for name, field in type(settings).model_fields.items():
        if name == "schema_version":
            continue
        value, effect = getattr(settings, name), effect_of(field)
        if effect is not None:
            yield SectionInPlace(f"{path}{name}", effect, value)
        else:
            yield from sections(value, f"{path}{name}.")


def settings_for(settings: BaseModel, effect: Effect = Effect.RESULTS) -> dict[str, Any]:
    """The sections of one effect, as JSON has them, by path."""
    return {section.path: section.plain for section in sections(settings) if section.effect is effect}


def check_presentation(before: BaseModel, after: BaseModel) -> None:
    """See that settings differ in nothing that results depend on.

    Raises:
        RequestError: naming a section that does.
    """
    for old, new in zip(sections(before), sections(after), strict=True):
        if old.plain != new.plain and old.effect is not Effect.PRESENTATION:
            named = type(old.value).model_fields if isinstance(old.value, BaseModel) else ()
            fields = [name for name in named if old.plain[name] != new.plain[name]]
            raise RequestError(
                f"'{'.'.join([old.path, *fields[:1]])}' changes {old.effect.value}; only settings that change no "
                "result can be others here: run the study again for this"
            )


def check_declared(model: type[BaseModel], where: str) -> None:
    """See that every field says what it changes.

    Raises:
        TypeError: naming one that does not.
    """
    for name, field in model.model_fields.items():
        if name == "schema_version" or effect_of(field) is not None:
            continue
        kind = field.annotation
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            raise TypeError(f"{where}.{name} has no effect; annotate it, Annotated[..., Effect.RESULTS]")
        check_declared(kind, f"{where}.{name}")


def effect_of(field: FieldInfo) -> Effect | None:
    """What a field is declared to change; None: it is a group of sections."""
    return next((item for item in field.metadata if isinstance(item, Effect)), None)
