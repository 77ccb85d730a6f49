"""One HTML file that works without a network: style, script, data and pictures are all inside."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from secateur.core.errors import RequestError
from secateur.core.files import read_json, write_json, write_text
from secateur.reports.records import Report


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
        RequestError: when it is missing, broken, or of another schema version.
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
    from secateur.reports import sections  # what draws is not needed to read a record

    parts, charts = sections.body(report)
    # Charts bring 0.9 MB of script: a page without them stays small.
    scripts = [_vega()] if charts else []
    scripts += [_asset("page.js")] if charts or report.films or report.rank_matrices or report.class_rows else []
    script_tags = "".join(f"<script>{script}</script>\n" for script in scripts)
    data = f'<script type="application/json" id="charts">{_embedded(charts)}</script>\n' if charts else ""
    return (
        "<!doctype html>\n"
        '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="generator" content="secateur">\n'
        f"<title>{escape(report.title)}</title>\n"
        f"<style>\n{_asset('page.css')}</style>\n</head>\n<body>\n"
        f"{parts}\n{data}{script_tags}</body>\n</html>\n"
    )


def _policy(scripts: list[str]) -> str:
    """Only these scripts, nothing from the network. Vega compiles its expressions, hence unsafe-eval."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join([*(f"'sha256-{digest}'" for digest in digests), "'unsafe-eval'"]) if scripts else "'none'"
    return (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; "
        f"form-action 'none'; script-src {allowed}"
    )


def _embedded(charts: dict[str, dict[str, Any]]) -> str:
    """JSON that cannot end its script element early, whatever the names in it."""
    text = json.dumps(charts, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


@cache
def _vega() -> str:
    import altair
    import vl_convert

    version = ".".join(altair.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    bundle: str = vl_convert.javascript_bundle(snippet="window.vegaEmbed = vegaEmbed;", vl_version=version)
    return bundle.replace("\r", "").replace("</script", "<\\/script")


@cache
def _asset(name: str) -> str:
    return files("secateur.reports").joinpath(name).read_text(encoding="utf-8")
