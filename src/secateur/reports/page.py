"""One HTML file that works without a network: style, script, data and pictures are all inside."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from secateur.core.errors import RequestError
from secateur.core.files import read_json, write_json, write_text
from secateur.reports import figures
from secateur.reports.records import Report
from secateur.reports.registry import TEMPLATES, type_of

if TYPE_CHECKING:
    import jinja2
    import markupsafe

    from secateur.reports.look import Chart
    from secateur.reports.registry import Drawing


def write_report(report: Report, path: str | Path) -> Path:
    """Write the page, and beside it the record it was drawn from (the same name, ending in ``.json``).

    Args:
        report: what to show.
        path: ends in ``.html``.

    Returns:
        Where the page is.

    Raises:
        RequestError: for another ending.
        SecateurError: when the files cannot be written.
    """
    target = Path(path)
    if target.suffix.lower() not in (".html", ".htm"):
        raise RequestError(f"cannot write a report to '{target}': choose a name that ends in .html")
    page = render(report)
    write_json(target.with_suffix(".json"), report.to_json())
    return write_text(target, page)


def load_report(path: str | Path) -> Report:
    """Read the record beside a page.

    Args:
        path: the ``.json`` file, or the ``.html`` page beside it.

    Raises:
        RequestError: when it is missing, broken, of another schema version, or has a section that is not registered.
    """
    source = Path(path)
    source = source.with_suffix(".json") if source.suffix.lower() in (".html", ".htm") else source
    return Report.from_json(read_json(source), source=str(source))


def render(report: Report) -> str:
    """Draw the page.

    Example:
        >>> page = render(Report(title="Half the work"))
        >>> page.startswith("<!doctype html>"), "<h1>Half the work</h1>" in page
        (True, True)
    """
    drawn: dict[str, dict[str, Any]] = {}
    sections = [part for record in report.sections if (part := _section(record, report, drawn).strip())]
    # Charts bring 0.9 MB of script: a page without them stays small.
    steered = any(mark in part for part in sections for mark in ("data-choice", "data-frames"))
    scripts = [_vega()] * bool(drawn) + [_asset("page.js")] * (bool(drawn) or steered)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    # Vega compiles its expressions, hence unsafe-eval
    allowed = [*(f"'sha256-{digest}'" for digest in digests), "'unsafe-eval'"] if scripts else ["'none'"]
    return _environment().get_template("page.html").render(
        report=report,
        settings=json.dumps(report.to_json()["settings"], indent=2, ensure_ascii=False),
        sections=[_markup(part) for part in sections],
        specifications=drawn,
        allowed=_markup(" ".join(allowed)),
        style=_markup(_asset("page.css")),
        scripts=[_markup(script) for script in scripts],
    )  # fmt: skip


def _section(record: object, report: Report, drawn: dict[str, dict[str, Any]]) -> str:
    """One section as HTML; specifications of its interactive charts are added to ``drawn``, by element."""
    kind = type_of(record)
    charts = {name: _place(name, chart, drawn) for name, chart in kind.charts(record, report.conditions).items()}
    names = {"section": record, "conditions": report.conditions, "charts": charts}
    return _environment().get_template(kind.template).render(names | dict(kind.view(record, report.conditions)))


@dataclass(frozen=True)
class Placed:
    """A chart as a template puts it in place."""

    html: str
    wide: bool = False

    def __html__(self) -> str:
        return self.html


def _place(name: str, chart: Drawing, drawn: dict[str, dict[str, Any]]) -> Placed:
    from markupsafe import escape

    if not hasattr(chart, "to_dict"):
        from secateur.reports.drawing import svg

        data = base64.b64encode(svg(chart).encode()).decode("ascii")
        alt = escape(str(chart.get_label()) or name)
        return Placed(f'<img class="drawn" src="data:image/svg+xml;base64,{data}" alt="{alt}">')
    from secateur.reports.look import specification

    spec = specification(cast("Chart", chart))
    place = name if name not in drawn else next(new for n in range(2, 999) if (new := f"{name}-{n}") not in drawn)
    drawn[place] = spec
    wide = spec.get("width") != "container"
    steered = " data-steered" * ("params" in spec)
    return Placed(f'<div class="chart{" wide" * wide}" id="{escape(place)}"{steered}></div>', wide)


@cache
def _environment() -> jinja2.Environment:
    import jinja2

    def source(name: str) -> str | None:
        """Text of a template of this package, or at an absolute path."""
        path = TEMPLATES / name
        return path.read_text(encoding="utf-8") if path.is_file() else None

    found = jinja2.Environment(
        loader=jinja2.FunctionLoader(source),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
    )
    found.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "allow_nan": False, "separators": (",", ":")}
    shown = (figures.percent, figures.count, figures.size, figures.plain, figures.milliseconds, figures.seconds)
    found.filters |= {show.__name__: show for show in shown}
    return found


def _markup(text: str) -> markupsafe.Markup:
    from markupsafe import Markup

    return Markup(text)


@cache
def _vega() -> str:
    import altair
    import vl_convert

    version = ".".join(altair.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    bundle: str = vl_convert.javascript_bundle(snippet="window.vegaEmbed = vegaEmbed;", vl_version=version)
    return bundle.replace("\r", "").replace("</script", "<\\/script")


@cache
def _asset(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")
