"""A report: a headline, sections in reading order, and how to get it again. It survives JSON, to be drawn again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from secateur.core.errors import RequestError
from secateur.reports import registry
from secateur.reports.conditions import Conditions
from secateur.reports.rows import STRICT, first_error, plain

SCHEMA_VERSION = 2

S = TypeVar("S")


@dataclass(frozen=True)
class Report:
    """Everything on the page.

    Attributes:
        title: headline, as plain text (as is every other string here).
        subtitle: one sentence below it.
        created: ISO date or date and time.
        command: what to type to get this result again.
        sections: records in reading order, each of a type that `register_section` knows, as
            `secateur.reports.BeforeAfter`. One without content leaves no trace on the page.
        settings: the recipe, nested as it likes.
        versions: package name to version.
        notes: remarks, one paragraph each.
        conditions: what holds for the figures: data, number of test samples, seeds, how times were taken.

    Raises:
        RequestError: for a section of a type that is not registered.

    Example:
        >>> from secateur.reports import LayerKept, Layers
        >>> report = Report("ResNet-20, half the work", sections=[Layers([LayerKept("conv1", 8, 16)])])
        >>> Report.from_json(report.to_json()) == report
        True
    """

    __pydantic_config__ = STRICT

    title: str
    subtitle: str = ""
    created: str = ""
    command: str = ""
    sections: Sequence[Any] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    conditions: Conditions = field(default_factory=Conditions)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sections", tuple(self.sections))
        for record in self.sections:
            registry.type_of(record)

    def section(self, kind: type[S]) -> S | None:
        """The first section of a type; ``None`` where there is none."""
        return next((record for record in self.sections if isinstance(record, kind)), None)

    def to_json(self) -> dict[str, Any]:
        """Return JSON-ready dictionaries and lists; numbers that are not finite become ``None``."""
        names = ("title", "subtitle", "created", "command", "settings", "versions", "notes")
        head: dict[str, Any] = plain({name: getattr(self, name) for name in names})
        sections = [registry.to_json(record) for record in self.sections]
        conditions = plain(asdict(self.conditions))
        return {"schema_version": SCHEMA_VERSION, **head, "conditions": conditions, "sections": sections}

    @classmethod
    def from_json(cls, value: Any, source: str = "report") -> Report:
        """Build a report from what `to_json` returned.

        Args:
            value: parsed JSON.
            source: where it came from, for messages.

        Raises:
            RequestError: for another schema version, a section that is not registered, or anything that is not a
                report.
        """
        if not isinstance(value, Mapping):
            raise RequestError(f"'{source}' is not a report (a JSON object is expected)")
        head = dict(value)
        version = head.pop("schema_version", None)
        if version != SCHEMA_VERSION:
            raise RequestError(
                f"'{source}' has schema_version {version!r}, this secateur reads {SCHEMA_VERSION}; "
                "run the command that wrote the report again, or read it with the secateur that wrote it"
            )
        sections = head.pop("sections", [])
        if not isinstance(sections, list):
            raise RequestError(f"'{source}' is not a report: sections: give a list; write the report again")
        head["sections"] = [registry.from_json(part, place, source) for place, part in enumerate(sections)]
        try:
            return _adapter().validate_python(head)
        except ValidationError as error:
            raise RequestError(f"'{source}' is not a report: {first_error(error)}; write the report again") from error


@cache
def _adapter() -> TypeAdapter[Report]:
    return TypeAdapter(Report)
