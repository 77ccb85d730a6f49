"""A section of one's own: a record, a template and charts, registered in one place."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secateur.core.errors import RequestError
from secateur.reports import Cell, Conditions, Report, Table, load_report, register_section, render, write_report
from secateur.reports.drawing import save_figure, svg
from secateur.reports.registry import forget_section
from test_report import EVIL, Page

TEMPLATE = """{% from "parts.html" import figure, table %}
<section><h2>{{ section.title }}</h2>
{{ figure(charts["own-curve"], beneath) }}
{{ figure(charts["own-picture"], title=section.title) }}
{{ table(found) }}</section>
"""


@dataclass(frozen=True)
class Step:
    name: str
    loss: float


@dataclass(frozen=True)
class Descent:
    """Loss by step."""

    title: str
    steps: list[Step]


def picture(section: Descent) -> Any:
    from matplotlib.figure import Figure

    figure = Figure((2, 1), label=section.title)
    figure.add_subplot().plot([step.loss for step in section.steps], label=section.title)
    return figure


def charts(section: Descent, conditions: Conditions) -> dict[str, Any]:
    import altair as alt

    values = [dataclasses.asdict(step) for step in section.steps]
    curve = alt.Chart(alt.InlineData(values=values)).mark_line().encode(x="name:N", y="loss:Q")
    return {"own-curve": curve.properties(width="container"), "own-picture": picture(section)}


def view(section: Descent, conditions: Conditions) -> dict[str, Any]:
    lines = [[step.name, Cell(f"{step.loss:g}", note=step.name, title=step.name)] for step in section.steps]
    found = Table(["step", section.title], lines, caption=section.title, over=[(section.title, 1)])
    return {"beneath": conditions.data, "found": found}


@pytest.fixture(autouse=True)
def template(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "descent.html"
    path.write_text(TEMPLATE)
    register_section(Descent, name="example/descent", template=path, charts=charts, view=view)
    yield path
    forget_section(Descent)


def descent(word: str = "falling") -> Descent:
    return Descent(word, [Step(word, 1.0), Step("second", 0.5)])


def test_a_section_of_ones_own_is_on_the_page_and_in_the_record(tmp_path: Path) -> None:
    report = Report("t", sections=[descent()], conditions=Conditions(data="moons"))
    page = write_report(report, tmp_path / "own.html")
    assert json.loads(page.with_suffix(".json").read_text())["sections"][0]["section"] == "example/descent"
    assert load_report(page) == report
    found = Page(page.read_text())
    assert "moons" in found.text
    assert list(found.charts()) == ["own-curve"]
    (drawn,) = [attributes for tag, attributes in found.elements if tag == "img"]
    assert drawn["alt"] == "falling"
    assert (drawn["src"] or "").startswith("data:image/svg+xml;base64,")


def test_whatever_stands_in_its_fields_stays_text() -> None:
    raw = render(Report("t", sections=[descent(EVIL)], conditions=Conditions(data=EVIL)))
    assert "<script>alert" not in raw
    page = Page(raw)
    assert len(page.scripts) == 3
    assert page.text.count(EVIL) == 8
    attributes = [value for _, found in page.elements for value in found.values()]
    assert attributes.count(EVIL) == 2  # alternative text of the picture, and a tooltip


@pytest.mark.slow
def test_the_same_figure_gives_the_same_bytes(tmp_path: Path) -> None:
    for ending in ("svg", "png", "pdf"):
        one, other = (
            save_figure(picture(descent()), tmp_path / f"{name}.{ending}").read_bytes() for name in ("one", "other")
        )
        assert one == other
    assert svg(picture(descent())).startswith("<svg")
    assert not re.search(r"https?://(?!www\.w3\.org)", svg(picture(descent())).split("<defs")[-1])


def test_figures_leave_no_state_behind(tmp_path: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    save_figure(picture(descent()), tmp_path / "a.svg")
    assert dict(matplotlib.rcParams) == before


def test_a_record_that_is_not_registered_is_refused_when_the_report_is_made() -> None:
    with pytest.raises(RequestError, match="no section for a Step; register it with secateur.reports.register_section"):
        Report("t", sections=[Step("a", 1.0)])


def test_a_name_is_given_once(template: Path) -> None:
    with pytest.raises(RequestError, match="section 'layers' is already registered"):
        register_section(Step, name="layers", template=template)
    with pytest.raises(RequestError, match="section 'example/descent' is already registered"):
        register_section(Step, name="example/descent", template=template)


def test_what_cannot_be_a_section_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"section 'own' has no template '.*none\.html'"):
        register_section(Step, name="own", template=tmp_path / "none.html")
    with pytest.raises(RequestError, match=r"section 'own' has no template 'own\.html'; give the path"):
        register_section(Step, name="own", template="own.html")
    with pytest.raises(RequestError, match="section 'own' is made of <class 'int'>; give a frozen dataclass"):
        register_section(int, name="own", template=tmp_path / "none.html")


def test_a_broken_record_of_ones_own_is_refused_with_its_place(tmp_path: Path) -> None:
    broken = Report("t", sections=[descent()]).to_json()
    broken["sections"][0]["record"]["steps"][1]["loss"] = "low"
    path = tmp_path / "r.json"
    path.write_text(json.dumps(broken))
    with pytest.raises(RequestError, match=r"sections\.0 \(example/descent\): steps\.1\.loss"):
        load_report(path)


def test_numbers_of_numpy_are_written_as_numbers() -> None:
    report = Report("t", sections=[Descent("t", [Step("a", float(np.float32(0.5)))])])
    assert Report.from_json(json.loads(json.dumps(report.to_json()))) == report
