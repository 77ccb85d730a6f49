"""Sections of a report: the type of a record, its name in JSON, its template and its charts, said in one place."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from pydantic import TypeAdapter, ValidationError

from secateur.core.errors import RequestError
from secateur.core.registry import Registry
from secateur.reports.conditions import Conditions
from secateur.reports.rows import first_error, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from secateur.reports.look import Chart

    Drawing: TypeAlias = Chart | Figure

Charts: TypeAlias = "Callable[[Any, Conditions], Mapping[str, Drawing]]"
View: TypeAlias = Callable[[Any, Conditions], Mapping[str, Any]]

TEMPLATES = Path(__file__).with_name("templates")
"""Where the sections of this package have theirs; the others are at absolute paths."""


@dataclass(frozen=True)
class SectionType:
    """What is registered of a section; see `register_section`."""

    record: type[Any]
    name: str
    template: str
    charts: Charts
    view: View

    @cached_property
    def adapter(self) -> TypeAdapter[Any]:
        """Reads the record from JSON."""
        return TypeAdapter(self.record)


_HOMES = {
    "before-after": "before_after",
    "comparison": "comparison",
    "gains": "gains",
    "class-accuracy": "class_accuracy",
    "layer-shares": "layer_shares",
    "timings": "timings",
    "films": "films",
    "sample-accuracy": "samples",
    "rankings": "ranks",
    "layers": "layers",
    "layer-refits": "layer_refits",
    "heatmaps": "heatmaps",
    "agreement": "agreement",
    "class-units": "class_units",
    "data-check": "data_check",
    "steps": "steps",
    "search": "search",
    "prototypes/gallery": "prototypes",
    "prototypes/decisions": "prototype_pruning",
    "prototypes/local": "prototype_explanations",
}
_records: Registry[Any] = Registry("section", {name: f"secateur.reports.{home}" for name, home in _HOMES.items()})
_types: dict[type[Any], SectionType] = {}


def _nothing(record: Any, conditions: Conditions) -> dict[str, Any]:
    return {}


def register_section(
    record: type[Any], *, name: str, template: str | Path, charts: Charts = _nothing, view: View = _nothing
) -> None:
    """Add a kind of section: from here on a `Report` may hold such records, in memory and as JSON.

    The template is a jinja2 file with autoescape on. It sees ``section`` (the record), ``conditions`` (of the report),
    ``charts`` (by name, ready to be put in place) and what ``view`` returns, and is one ``<section>`` with an ``<h2>``.
    ``{% from "parts.html" import figure, held, table, tabs %}`` brings figures, lines of conditions, tables and
    controls that look like those of all other sections.

    Args:
        record: a frozen dataclass of plain values, lists and such dataclasses. JSON is read into it by pydantic.
        name: in JSON; a study's own name first, as ``skin-lesions/asymmetry``.
        template: path of the file, as ``Path(__file__).with_name("asymmetry.html")``.
        charts: from the record and the conditions: altair charts, which stay interactive, or matplotlib figures.
        view: likewise: further values for the template, as a `secateur.reports.Table`.

    Raises:
        RequestError: for a name that is taken, a type that is no dataclass, or a template that does not exist.

    Example:
        >>> import tempfile
        >>> from secateur.reports import Report, render
        >>> from secateur.reports.registry import forget_section
        >>> @dataclass(frozen=True)
        ... class Remark:
        ...     text: str
        >>> template = Path(tempfile.mkdtemp()) / "remark.html"
        >>> _ = template.write_text("<section><h2>Remark</h2><p>{{ section.text }}</p></section>")
        >>> register_section(Remark, name="example/remark", template=template)
        >>> "<p>1 &lt; 2</p>" in render(Report("t", sections=[Remark("1 < 2")]))
        True
        >>> forget_section(Remark)
    """
    if not (isinstance(record, type) and dataclasses.is_dataclass(record)):
        raise RequestError(f"section '{name}' is made of {record!r}; give a frozen dataclass")
    if not (TEMPLATES / template).is_file():
        raise RequestError(
            f"section '{name}' has no template '{template}'; give the path of a jinja2 file, as "
            "Path(__file__).with_name(...)"
        )
    _records.register(name)(record)
    _types[record] = SectionType(record, name, str(template), charts, view)


def forget_section(record: type[Any]) -> None:
    """Undo `register_section`."""
    _records.remove(_types.pop(record).name)


def type_of(record: object) -> SectionType:
    """What is registered of a record.

    Raises:
        RequestError: where nothing is.
    """
    if type(record) not in _types:
        raise RequestError(
            f"a report has no section for a {type(record).__name__}; register it with "
            "secateur.reports.register_section, or give one of: " + ", ".join(sorted(kind.__name__ for kind in _types))
        )
    return _types[type(record)]


def to_json(record: object) -> dict[str, Any]:
    """The record with its registered name."""
    fields: dict[str, Any] = plain(dataclasses.asdict(record))  # type: ignore[call-overload]
    return {"section": type_of(record).name, "record": fields}


def from_json(value: Any, place: int, source: str) -> Any:
    """Build a record from what `to_json` returned.

    Raises:
        RequestError: for a section that is not registered, or a record that does not fit.
    """
    if not isinstance(value, Mapping) or set(value) != {"section", "record"} or not isinstance(value["section"], str):
        raise RequestError(f"'{source}' is not a report: sections.{place} names no section; write the report again")
    name = value["section"]
    if name not in _records:
        raise RequestError(
            f"'{source}' has a section '{name}' that is not registered; import the package that registers it, or read "
            f"the report with the secateur that wrote it; known: {', '.join(_records)}"
        )
    record = _records.factory(name)
    try:
        return _types[record].adapter.validate_python(value["record"])  # type: ignore[index]
    except ValidationError as error:
        where = f"sections.{place} ({name}): {first_error(error)}"
        raise RequestError(f"'{source}' is not a report: {where}; write the report again") from error
