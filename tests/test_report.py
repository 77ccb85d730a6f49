from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from secateur.core.errors import RequestError
from secateur.core.timing import LatencyShare
from secateur.reports import (
    BeforeAfter,
    Comparison,
    ComparisonRow,
    Conditions,
    Heatmap,
    Heatmaps,
    LayerKept,
    Layers,
    Measurement,
    Report,
    heatmap_png,
    image_png,
    load_report,
    read_rows,
    render,
    save_curves,
    write_report,
)
from secateur.reports.before_after import class_changes
from secateur.reports.look import style
from secateur.reports.summary import aggregate, panels
from secateur.reports.told_apart import FEWEST_SAMPLES, best, difference

EVIL = "<script>alert('x')</script>&\"</title>"


def measurement(**changes: Any) -> Measurement:
    values: dict[str, Any] = {
        "accuracy": 0.9,
        "balanced_accuracy": 0.88,
        "calibration_error": 0.04,
        "loss": 0.4,
        "units": 100,
        "params": 270_000,
        "macs": 40_800_000,
        "size_bytes": 1_100_000,
        "latency_ms": 3.7,
        "latency_quartiles": (3.6, 3.9),
        "per_class": {"cat": 0.9, "dog": 0.8},
    }
    return Measurement(**(values | changes))


def compare_rows(finetuned: tuple[bool, ...] = (True,)) -> list[dict[str, Any]]:
    quality = {"lrp": 0.1, "weight": 0.2, "random": 0.4}
    return [
        {
            "model": "resnet20",
            "dataset": "cifar10",
            "criterion": criterion,
            "strategy": strategy,
            "seed": seed,
            "budget_kind": "macs",
            "budget": budget,
            "units": budget + 0.05,
            "params": budget - 0.03,
            "macs": budget - 0.01,
            "accuracy": 0.9 - loss * (1 - budget) * (1 if stage else 1.5) + 0.002 * seed,
            "balanced_accuracy": None,
            "loss": 0.5,
            "latency_ms": None,
            "latency_share": None,
            "size_bytes": 1000,
            "finetuned": stage,
        }
        for criterion, loss in quality.items()
        for strategy in ("global", "per-cost")
        for budget in (0.8, 0.5)
        for seed in (0, 1)
        for stage in finetuned
    ]


def comparison(rows: list[dict[str, Any]] | None = None) -> Comparison:
    return Comparison(read_rows(ComparisonRow, compare_rows() if rows is None else rows))


def compared(rows: list[dict[str, Any]], **more: Any) -> Report:
    """A report of a comparison alone."""
    return Report("t", sections=[comparison(rows)], **more)


def pruned(before: Measurement | None = None, after: Measurement | None = None) -> Report:
    """A report of key figures alone."""
    return Report("t", sections=[BeforeAfter(before, after)])


def test_peak_memory_is_a_line_where_it_was_measured() -> None:
    shown = Page(render(pruned(measurement(memory_bytes=8_000_000), measurement(memory_bytes=4_000_000)))).text
    line = "".join(shown.split()).partition("Peakmemoryofabatch")[2]
    assert line.startswith("8.00MB4.00MB2.0×smaller")
    assert "Peak memory" not in Page(render(pruned(measurement(), measurement()))).text


def full_report(**changes: Any) -> Report:
    """All kinds of sections; ``changes`` are sections in place of these, by the snake-cased name of their type."""
    picture = image_png(np.zeros((4, 4, 3), dtype=np.uint8))
    after = measurement(accuracy=0.88, params=135_000, latency_ms=2.0, per_class={"cat": 0.8, "dog": 0.9})
    parts = {
        "before_after": BeforeAfter(measurement(), after),
        "comparison": comparison(),
        "layers": Layers([LayerKept("conv1", 8, 16), LayerKept("conv2", 12, 16), LayerKept("conv1", 1, 4)]),
        "heatmaps": Heatmaps([Heatmap("a cat", picture, picture, picture, "a caption")]),
    }
    return Report(
        title="Half the work",
        subtitle="a subtitle",
        created="2025-06-12",
        command="secateur compare r.yaml",
        sections=[part for part in (parts | changes).values() if part is not None],
        settings={"criterion": {"name": "lrp"}},
        versions={"torch": "2.6.0"},
        notes=["a note"],
    )


class Page(HTMLParser):
    """Elements with their attributes, and the text of scripts and of the rest."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._open = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open == "script":
            self.scripts[-1] += data
        elif self._open != "style":
            self.text += data

    def charts(self) -> dict[str, Any]:
        for place, (_, attributes) in enumerate(e for e in self.elements if e[0] == "script"):
            if attributes.get("id") == "charts":
                specs: dict[str, Any] = json.loads(self.scripts[place])
                return specs
        return {}


def values_of(spec: dict[str, Any]) -> list[dict[str, Any]]:
    data = spec.get("data") or spec["layer"][0]["data"]
    values: list[dict[str, Any]] = spec["datasets"][data["name"]]
    return values


# Records

names = st.text(max_size=8)
share = st.floats(0, 1)
measurements = st.builds(
    Measurement,
    accuracy=share,
    balanced_accuracy=share,
    calibration_error=share,
    loss=st.floats(0, 100),
    units=st.integers(0, 10**9),
    params=st.integers(0, 10**12),
    macs=st.integers(0, 10**15),
    size_bytes=st.integers(0, 10**12),
    latency_ms=st.none() | share,
    latency_quartiles=st.none() | st.tuples(share, share),
    latency_spread=st.none() | share,
    latency_relative=st.none()
    | st.builds(LatencyShare, share, st.none() | st.tuples(share, share), st.integers(0, 9), share, share),
    per_class=st.dictionaries(names, share, max_size=3),
)
rows = st.builds(
    ComparisonRow,
    criterion=names,
    finetuned=st.booleans(),
    budget=st.none() | share,
    accuracy=st.none() | share,
    samples=st.none() | st.integers(1, 9),
    seed=names,
)
reports = st.builds(
    Report,
    title=names,
    sections=st.lists(
        st.builds(BeforeAfter, st.none() | measurements, st.none() | measurements)
        | st.builds(Comparison, st.lists(rows, max_size=3))
        | st.builds(Layers, st.lists(st.integers(0, 9).map(lambda kept: LayerKept("a", kept, 9)), max_size=3))
        | st.builds(Heatmaps, st.lists(st.builds(Heatmap, names, names, names, names, names), max_size=2)),
        max_size=4,
    ),
    settings=st.dictionaries(names, st.lists(st.integers(), max_size=2), max_size=2),
    versions=st.dictionaries(names, names, max_size=2),
    notes=st.lists(names, max_size=2),
)


@given(report=reports)
@settings(max_examples=25, deadline=None)
def test_json_and_back_is_the_same_report(report: Report) -> None:
    text = json.dumps(report.to_json(), allow_nan=False)
    assert Report.from_json(json.loads(text)) == report


def test_numbers_json_has_no_word_for_become_null() -> None:
    rows = [{"accuracy": np.float32(0.5), "loss": float("nan"), "seed": np.int64(3), "finetuned": np.True_}]
    report = Report("t", sections=[comparison(rows), BeforeAfter(after=measurement(loss=float("inf")))])
    row = report.to_json()["sections"][0]["record"]["rows"][0]
    assert {name: row[name] for name in rows[0]} == {"accuracy": 0.5, "loss": None, "seed": "3", "finetuned": True}
    found = Report.from_json(report.to_json()).section(BeforeAfter)
    assert found is not None
    assert found.after is not None
    assert np.isnan(found.after.loss)
    assert "–" in render(Report.from_json(report.to_json()))


@pytest.mark.parametrize("version", [1, 3, None, "2"])
def test_another_schema_version_is_refused_with_file_and_remedy(tmp_path: Any, version: Any) -> None:
    path = tmp_path / "old.json"
    path.write_text(json.dumps(Report("t").to_json() | {"schema_version": version}))
    with pytest.raises(RequestError, match=r"old\.json.*schema_version.*run the command that wrote the report again"):
        load_report(path)


def section(name: Any, **record: Any) -> dict[str, Any]:
    return {"sections": [{"section": name, "record": record}]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"surprise": 1}, "is not a report: surprise"),
        ({"notes": "one"}, "is not a report: notes"),
        ({"sections": "layers"}, "sections: give a list"),
        ({"sections": [{"name": "layers"}]}, r"sections\.0 names no section"),
        (section("layers", layers="conv1"), r"sections\.0 \(layers\): layers"),
        (section("layers", layers=[{"name": "a", "kept": 2, "total": 1}]), r"layers\.0.*'a' keeps 2 of 1"),
        (section("before-after", before={"accuracy": 1}), r"sections\.0 \(before-after\): before"),
    ],
)
def test_what_is_not_a_report_is_refused(tmp_path: Any, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(Report("t").to_json() | change))
    with pytest.raises(RequestError, match=rf"r\.json'.*{message}") as error:
        load_report(path)
    assert "\n" not in str(error.value)
    assert "write the report again" in str(error.value)


def test_an_unknown_section_is_named_with_what_to_do(tmp_path: Any) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(Report("t").to_json() | section("skin/asymmetry")))
    with pytest.raises(RequestError, match="section 'skin/asymmetry' that is not registered; import the package"):
        load_report(path)


def test_a_layer_cannot_keep_more_than_it_has() -> None:
    with pytest.raises(RequestError, match="'conv1' keeps 5 of 4"):
        LayerKept("conv1", 5, 4)


# Page


def test_written_page_can_be_drawn_again_from_its_record(tmp_path: Any) -> None:
    report = full_report()
    page = write_report(report, tmp_path / "out" / "report.html")
    assert sorted(file.name for file in page.parent.iterdir()) == ["report.html", "report.json"]
    assert load_report(page.with_suffix(".json")) == load_report(page) == report
    assert page.read_text(encoding="utf-8") == render(load_report(page))


def test_only_html_names_are_written(tmp_path: Any) -> None:
    with pytest.raises(RequestError, match=r"r\.json.*\.html"):
        write_report(Report("t"), tmp_path / "r.json")


def test_page_asks_nothing_of_the_network() -> None:
    page = render(full_report())
    assert "vegaEmbed" in page
    for tag, attributes in Page(page).elements:
        for name in ("src", "href", "data", "action", "poster", "srcset", "xlink:href"):
            assert re.match(r"data:|$", attributes.get(name) or ""), (tag, attributes)
    style = page.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in page


def test_page_has_one_copy_of_the_script() -> None:
    scripts = Page(render(full_report())).scripts
    assert sum(len(script) > 100_000 for script in scripts) == 1


def test_the_policy_admits_exactly_the_scripts_on_the_page() -> None:
    page = Page(render(full_report()))
    policy = next(a["content"] or "" for t, a in page.elements if t == "meta" and "http-equiv" in a)
    kinds = [a.get("type") for t, a in page.elements if t == "script"]
    for kind, script in zip(kinds, page.scripts, strict=True):
        if kind is None:
            assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy


def test_text_from_outside_stays_text() -> None:
    rows = compare_rows()
    for row in rows:
        row.update(criterion=EVIL, strategy=EVIL)
    report = Report(
        title=EVIL,
        subtitle=EVIL,
        created=EVIL,
        command=EVIL,
        sections=[
            BeforeAfter(measurement(per_class={EVIL: 0.5}), measurement(per_class={EVIL: 0.4})),
            comparison(rows),
            Layers([LayerKept(EVIL, 1, 2)]),
            Heatmaps([Heatmap(EVIL, EVIL, EVIL, EVIL, EVIL)]),
        ],
        settings={EVIL: EVIL},
        versions={EVIL: EVIL},
        notes=[EVIL],
    )
    raw = render(report)
    page = Page(raw)
    assert "<script>alert" not in raw
    assert len(page.scripts) == 3
    assert page.text.count(EVIL) >= 12
    assert values_of(page.charts()["layers"])[0]["layer"] == EVIL


@pytest.mark.parametrize("missing", ["before_after", "comparison", "layers", "heatmaps"])
def test_any_section_may_be_missing(missing: str) -> None:
    page = Page(render(full_report(**{missing: None})))
    drawn = page.charts()
    assert ("layers" in drawn) == (missing != "layers")
    assert ("classes" in drawn) == (missing != "before_after")
    assert ("curves-0" in drawn) == (missing != "comparison")
    ids = {attributes.get("id") for _, attributes in page.elements}
    assert set(drawn) <= ids


@pytest.mark.parametrize("missing", ["subtitle", "created", "command", "settings", "versions", "notes"])
def test_any_line_may_be_missing(missing: str) -> None:
    blank = getattr(Report("t"), missing)
    assert "Half the work" in Page(render(dataclasses.replace(full_report(), **{missing: blank}))).text


@pytest.mark.parametrize("stage", ["before", "after"])
def test_one_network_alone_has_no_change(stage: str) -> None:
    page = Page(render(pruned(**{stage: measurement()})))
    assert "Measured" in page.text
    assert "change" not in page.text
    assert "classes" not in page.charts()


def test_sections_of_one_kind_may_repeat() -> None:
    page = Page(render(Report("t", sections=[comparison(), comparison()])))
    assert set(page.charts()) == {"curves-0", "curves-1", "curves-0-2", "curves-1-2"}
    ids = [attributes["id"] for _, attributes in page.elements if attributes.get("id")]
    assert len(ids) == len(set(ids))


def test_an_empty_report_is_a_small_page() -> None:
    page = render(Report("Nothing yet"))
    assert len(page) < 20_000
    assert "Nothing has been measured yet" in page


@pytest.mark.parametrize(
    "row", [{}, {"criterion": "lrp"}, {"accuracy": None, "macs": 0.5}, {"accuracy": 0.5}, {"budget": 0.5}]
)
def test_rows_with_gaps_are_shown_as_far_as_they_go(row: dict[str, Any]) -> None:
    assert "All settings" in render(compared([row]))


def test_key_figures_name_their_change() -> None:
    text = Page(render(full_report())).text.replace("\u202f", " ")
    assert "−2.0 points" in text
    assert "2.0× fewer" in text
    # times that were not taken in turn claim nothing
    assert "faster" not in text
    assert "of the time" not in text


@pytest.mark.parametrize(
    ("share", "look", "said"),
    [
        (LatencyShare(0.67, (0.64, 0.70), 15, 3.7), "change", "0.67 of the time [0.64, 0.70]"),
        (LatencyShare(0.996, (0.96, 1.05), 15, 3.7), "change unclear", "no measurable difference [0.96, 1.05]"),
        (LatencyShare(0.99, (0.98, 0.997), 15, 3.7), "change unclear", "no measurable difference [0.98, 1.00]"),
        (LatencyShare(1.2, (1.1, 1.3), 15, 3.7), "change worse", "1.20 of the time [1.10, 1.30]"),
        (LatencyShare(0.5, None, 3, 3.7), "change unclear", "0.50 of the time (no interval: fewer than 6 rounds)"),
    ],
)
def test_latency_is_green_only_where_the_interval_leaves_out_one(share: LatencyShare, look: str, said: str) -> None:
    after = measurement(latency_ms=share.after_ms, latency_relative=share, latency_batch=64)
    found = Page(render(pruned(measurement(accuracy=0.9), after)))
    assert found.text.count(said) == 2  # card and table
    classes = [str(a.get("class")) for tag, a in found.elements if str(a.get("class")).startswith("change")]
    assert classes[-1] == look
    assert "per batch of 64" in found.text


def test_a_busy_machine_is_named_on_the_page() -> None:
    def page(spread: float) -> str:
        return Page(render(pruned(measurement(latency_spread=spread), measurement()))).text

    assert "Latency measured on a busy machine: spread 23 %" in page(0.23)
    assert "busy" not in page(0.05)


def test_units_are_counted_once_on_the_whole_page() -> None:
    layers = Layers([LayerKept("conv1", 8, 16), LayerKept("conv2", 13, 20)], kept=67, total=100)
    text = Page(render(full_report(layers=layers))).text.replace("\u202f", " ")
    assert "67 of 100 removable units stay (67.0 %)" in text
    assert "21 of 36" not in text  # channels of layers, some of which share their units


def test_times_of_compared_networks_have_intervals() -> None:
    columns = LatencyShare(0.9, (0.8, 0.95), 9, 10.0).columns()
    sure = [row | columns for row in compare_rows()]
    assert "0.90 of the time [0.80, 0.95]" in render(compared(sure))
    # of several seeds the interval holds those of all
    other = LatencyShare(0.9, (0.85, 1.02), 9, 10.0).columns()
    mixed = [row | (columns if row["seed"] else other) for row in compare_rows()]
    page = Page(render(compared(mixed)))
    assert "no measurable difference [0.80, 1.02]" in page.text
    assert "of the time" not in page.text
    assert {v["latency_share_text"] for v in values_of(page.charts()["curves-0"])} == {
        "no measurable difference [0.80, 1.02]"
    }


def test_pictures_and_tables_are_described() -> None:
    elements = Page(render(full_report())).elements
    assert all(attributes.get("alt") for tag, attributes in elements if tag == "img")
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in elements if tag == "th")


# Charts and tables


def test_curves_hold_the_mean_over_seeds_and_its_range() -> None:
    charts = Page(render(full_report())).charts()
    assert set(charts) == {"curves-0", "curves-1", "layers", "classes"}
    values = values_of(charts["curves-0"])
    point = next(v for v in values if v["criterion"] == "weight" and v["budget"] == 0.5)
    assert point["strategy"] == "global"
    assert point["accuracy"] == pytest.approx(0.801)
    assert point["accuracy_low"] == pytest.approx(0.8)
    assert point["accuracy_high"] == pytest.approx(0.802)
    assert point["macs"] == pytest.approx(0.49)
    assert point["seeds"] == 2


def test_stages_are_dashed_only_when_there_are_two() -> None:
    def dashed(stages: tuple[bool, ...]) -> bool:
        charts = Page(render(compared(compare_rows(stages)))).charts()
        return any("strokeDash" in layer["encoding"] for layer in charts["curves-0"]["layer"])

    assert not dashed((True,))
    assert dashed((False, True))


def test_layers_keep_their_order_and_twins_stay_apart() -> None:
    values = values_of(Page(render(full_report())).charts()["layers"])
    assert [v["layer"] for v in values if v["part"] == "kept"] == ["conv1", "conv2", "conv1 (2)"]
    assert [v["units"] for v in values if v["part"] == "removed"] == [8, 4, 3]


def test_of_many_classes_those_that_changed_most_are_shown() -> None:
    before = {f"c{place}": 0.5 for place in range(100)}
    after = {name: 0.5 + place / 1000 for place, name in enumerate(before)}
    changes = class_changes(before, after)
    assert [name for name, _, _ in changes] == [f"c{place}" for place in range(60, 100)]


@given(order=st.permutations(range(24)))
@settings(max_examples=20, deadline=None)
def test_aggregation_does_not_depend_on_the_order_of_rows(order: list[int]) -> None:
    rows = compare_rows()

    def summary(rows: list[dict[str, Any]]) -> dict[Any, float]:
        points = aggregate(read_rows(ComparisonRow, rows))
        return {(p["strategy"], p["criterion"], p["budget"]): round(p["accuracy"], 9) for p in points}

    assert summary([rows[place] for place in order]) == summary(rows)


def bold(page: str) -> list[str]:
    return re.findall(r"<strong>([^<]*)</strong>", page)


def test_the_best_of_a_budget_is_bold_where_it_can_be_told_apart() -> None:
    rows = compare_rows()
    # seeds move all criteria alike, hence say nothing: what counts is the number of test samples
    page = render(compared(rows, conditions=Conditions(samples=1000)))
    # at 80 %, two points are too few to tell lrp (88.1) from weight (86.1), but both are better than random
    assert set(bold(page)) == {"85.1 ± 0.1", "88.1 ± 0.1", "86.1 ± 0.1", "86.6"}
    assert "Bold: no other value of its column is measurably higher, by 95 % intervals from the number of" in page
    many = render(compared(rows, conditions=Conditions(samples=20_000)))
    assert set(bold(many)) == {"85.1 ± 0.1", "88.1 ± 0.1", "86.6"}


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        (None, "No best is marked: that takes several seeds, or the number of test samples"),
        (100, "No best is marked: 95 % intervals from the number of test samples (binomial) do not tell"),
    ],
)
def test_no_best_is_marked_inside_the_interval(samples: int | None, said: str) -> None:
    rows = [row for row in compare_rows() if row["criterion"] != "random"]
    page = render(compared(rows, conditions=Conditions(samples=samples)))
    assert bold(page) == []
    assert said in page


def test_a_lone_criterion_is_no_winner() -> None:
    rows = [row for row in compare_rows() if row["criterion"] == "lrp"]
    page = render(compared(rows, conditions=Conditions(samples=10_000)))
    assert bold(page) == []
    assert "Bold:" not in page
    assert "No best" not in page


def test_models_and_data_sets_are_not_mixed_in_one_chart() -> None:
    other = [row | {"dataset": "mnist"} for row in compare_rows()]
    titles = [panel.title for panel in panels(aggregate(read_rows(ComparisonRow, compare_rows() + other)))]
    assert len(titles) == len(set(titles)) == 4
    assert all(("cifar10" in t.lower()) != ("mnist" in t.lower()) for t in titles)


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_static_curves_are_drawn(tmp_path: Any, suffix: str) -> None:
    path = save_curves(compare_rows((False, True)), tmp_path / f"curves{suffix}", baseline=0.9)
    if suffix == ".png":
        with Image.open(path) as image:
            assert min(image.size) > 600
    else:
        text = path.read_text(encoding="utf-8")
        assert text.startswith("<svg")
        for word in ("MACs that stay", "unpruned 90.0%", "random", "fine-tuned", "Per-cost"):
            assert word in text
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_static_curves_say_what_is_wrong(tmp_path: Any) -> None:
    with pytest.raises(RequestError, match=r"'\.gif'; use \.svg, \.png or \.pdf"):
        save_curves(compare_rows(), tmp_path / "a.gif")
    with pytest.raises(RequestError, match="no row has both accuracy and macs"):
        save_curves([{"accuracy": 0.5}], tmp_path / "a.png")


# Images


def pixels(png: str) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))


def test_relevance_colours_are_symmetrical() -> None:
    colours = pixels(heatmap_png(np.array([[-2.0, 0.0, 2.0]])))[0, ::128]
    negative, zero, positive = colours.astype(int)
    assert zero.tolist() == [255, 255, 255]
    assert negative[2] > negative[0] + 100
    assert positive[0] > positive[2] + 100


def test_one_extreme_pixel_does_not_pale_the_rest() -> None:
    relevance = np.ones((32, 32))
    relevance[0, 0] = 1e30
    assert pixels(heatmap_png(relevance))[-1, -1].tolist() == [178, 24, 43]


@pytest.mark.parametrize("relevance", [np.zeros((3, 5)), np.full((3, 5), 5e-324), np.full((3, 5), 1e308)])
def test_extreme_relevance_is_drawn(relevance: np.ndarray[Any, Any]) -> None:
    colour = pixels(heatmap_png(relevance))[0, 0].tolist()
    assert colour == ([178, 24, 43] if relevance.any() else [255, 255, 255])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_relevance_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(RequestError, match="1 values that are not finite"):
        heatmap_png(np.array([[0.0, value]]))


@pytest.mark.parametrize("shape", [(32, 48, 3), (28, 28, 1), (200, 300, 3), (1, 1, 4)])
def test_images_are_enlarged_in_whole_steps(shape: tuple[int, int, int]) -> None:
    original = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    drawn = pixels(image_png(original))
    step = drawn.shape[0] // shape[0]
    assert min(drawn.shape[:2]) >= 128
    assert drawn.shape[:2] == (shape[0] * step, shape[1] * step)
    assert np.array_equal(drawn[::step, ::step].reshape(shape), original)


@pytest.mark.parametrize("bad", [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 2), np.uint8)])
def test_other_images_are_refused(bad: np.ndarray[Any, Any]) -> None:
    with pytest.raises(RequestError, match="give uint8"):
        image_png(bad)


# What holds for figures


KNOWN = Conditions(
    data="cifar10",
    split="test",
    samples=1000,
    class_samples={"cat": 400, "dog": 600},
    seeds=[0, 1],
    reference_per_class=10,
    composite="epsilon-plus",
    device="cpu",
    threads=2,
    latency_batch=64,
    latency_rounds=10,
)


def lines(page: str, kind: str) -> list[str]:
    """The lines beneath figures (``figure``) or tables (``div`` of a table), "" where one has none."""
    start = '<figure class="panel">' if kind == "figure" else '<div class="panel scroll">'
    parts = [part.split(f"</{kind}>" if kind == "figure" else "</section>")[0] for part in page.split(start)[1:]]
    return [" ".join(re.findall(r'<p class="conditions">([^<]*)</p>', part)) for part in parts]


def test_each_chart_and_table_says_what_holds_for_it() -> None:
    timed = LatencyShare(0.9, (0.8, 0.95), 9, 10.0).columns()
    rows = comparison([row | timed for row in compare_rows()])
    report = dataclasses.replace(full_report(comparison=rows), conditions=KNOWN)
    page = render(report)
    charts = [line for line in lines(page, "figure") if "agreement" not in line]
    accuracy = "Accuracy on 1,000 test samples of cifar10 · 2 seeds (0, 1) · 10 reference samples per class"
    assert charts[0] == f"{accuracy} · 400 to 600 of each class"
    assert charts[1] == charts[2] == f"{accuracy} · latency: batch of 64, 2 threads, cpu, 9 rounds"  # the rows' rounds
    assert charts[3] == "Units scored on 10 reference samples per class of cifar10 · 2 seeds (0, 1)"
    tables = lines(page, "div")
    assert len(tables) == 5
    assert all(line.startswith(accuracy) for line in tables)
    assert "Composite epsilon-plus · test samples of cifar10" in page


def test_seeds_are_those_of_the_rows_that_are_drawn() -> None:
    rows = [row for row in compare_rows() if row["seed"] == 1]
    text = Page(render(compared(rows, conditions=KNOWN))).text
    assert "· seed 1 ·" in text
    assert "2 seeds" not in text


def test_rows_know_their_own_test_set() -> None:
    rows = [row | {"samples": 250} for row in compare_rows()]
    text = Page(render(compared(rows, conditions=KNOWN))).text
    assert "Accuracy on 250 test samples of cifar10" in text
    assert "1,000" not in text


def test_a_change_of_accuracy_is_claimed_only_outside_its_interval() -> None:
    def page(samples: int | None) -> str:
        before, after = measurement(samples=samples), measurement(accuracy=0.88, samples=samples)
        return render(pruned(before, after)).replace("\u202f", " ")

    assert page(1000).count("no measurable difference [−4.7, +0.8] points") == 2
    assert '<div class="change unclear">no measurable' in page(1000)
    assert '<div class="change worse">−2.0 points [−2.6, −1.4]</div>' in page(20_000)
    assert '<div class="change unclear">−2.0 points</div>' in page(None)


def test_networks_measured_on_different_samples_are_not_compared() -> None:
    after = measurement(accuracy=0.5, samples=500)
    page = render(pruned(measurement(samples=1000), after))
    assert "before and after on different samples: not comparable" in page
    assert "points" not in Page(page).text


def test_shares_and_their_difference_add_up() -> None:
    before, after = measurement(accuracy=0.9734), measurement(accuracy=0.9526)
    text = Page(render(pruned(before, after))).text.replace("\u202f", " ")
    assert "97.3 %" in text
    assert "95.3 %" in text
    assert text.count("−2.0 points") == 2


def test_conditions_come_back_from_json_and_may_be_missing() -> None:
    report = dataclasses.replace(full_report(), conditions=KNOWN)
    assert Report.from_json(json.loads(json.dumps(report.to_json()))) == report
    bare = full_report().to_json()
    del bare["conditions"]
    assert Report.from_json(bare) == full_report()
    assert "Accuracy on" not in render(full_report()).replace("Accuracy on cifar10", "")
    with pytest.raises(RequestError, match="samples is 0; give a positive number"):
        Conditions(samples=0)


def test_of_long_tables_the_rest_is_a_file() -> None:
    rows = [row | {"criterion": f"{row['criterion']}-{place}"} for place in range(5) for row in compare_rows()]
    page = render(compared(rows))
    files = re.findall(r'<a download="settings.csv" href="data:text/csv;base64,([^"]*)">All (\d+) lines', page)
    assert [int(count) for _, count in files] == [30, 30]
    header, *found = base64.b64decode(files[0][0]).decode().splitlines()
    assert len(found) == 30
    assert {"criterion", "budget", "accuracy", "seeds"} <= set(header.split(","))
    assert "10 more lines" not in page


# Telling criteria apart

shares = st.floats(0, 1)


def runs(*accuracies: float) -> dict[tuple[str, float | None, str], float]:
    return {("all", 0.5, str(seed)): accuracy for seed, accuracy in enumerate(accuracies)}


def test_differences_are_paired_over_seeds() -> None:
    # far apart from seed to seed, and yet one is better by two points in each
    one, other = runs(0.70, 0.80, 0.91, 0.60), runs(0.68, 0.781, 0.89, 0.58)
    found = difference(one, other, {})
    assert found is not None
    assert found.source == "seeds"
    assert found.clear
    truth = np.array(list(one.values())) - np.array(list(other.values()))
    half = 3.182446 * truth.std(ddof=1) / 2  # Student's t, three degrees of freedom
    assert (found.low, found.high) == pytest.approx((truth.mean() - half, truth.mean() + half))


def test_fewer_than_six_test_samples_may_be_chance() -> None:
    one, other = runs(0.905, 0.9051, 0.9049), runs(0.9, 0.9, 0.9)
    assert difference(one, other, {}).clear  # type: ignore[union-attr]
    assert difference(one, other, {"all": 2000}).clear  # type: ignore[union-attr]
    assert not difference(one, other, {"all": 1000}).clear  # type: ignore[union-attr]


def test_seeds_that_change_nothing_are_one_measurement() -> None:
    found = difference(runs(0.9, 0.9, 0.9), runs(0.88, 0.88, 0.88), {"all": 500})
    assert found is not None
    assert found.source == "samples"
    assert not found.clear


def test_without_seeds_and_samples_nothing_is_said() -> None:
    assert difference(runs(0.9), runs(0.1), {}) is None
    assert difference(runs(0.9), {("other", 0.5, "0"): 0.1}, {"all": 100, "other": 100}) is None


@given(one=shares, other=shares, samples=st.integers(1, 10_000))
@settings(max_examples=60, deadline=None)
def test_intervals_from_samples_shrink_and_turn_with_the_pair(one: float, other: float, samples: int) -> None:
    found = difference(runs(one), runs(other), {"all": samples})
    back = difference(runs(other), runs(one), {"all": samples})
    more = difference(runs(one), runs(other), {"all": 100 * samples})
    assert found is not None
    assert back is not None
    assert more is not None
    assert (found.low, found.high) == pytest.approx((-back.high, -back.low))
    assert more.high - more.low < found.high - found.low
    if abs(one - other) * samples < FEWEST_SAMPLES / 2:
        assert not found.clear


@given(accuracies=st.lists(shares, min_size=2, max_size=6), samples=st.integers(1, 5000))
@settings(max_examples=60, deadline=None)
def test_all_marked_are_better_than_some_and_worse_than_none(accuracies: list[float], samples: int) -> None:
    column = {place: runs(accuracy) for place, accuracy in enumerate(accuracies)}
    marks = best([column], {"all": samples})
    assert marks.compared
    assert len(marks.keys) < len(accuracies)
    if marks.keys:
        assert accuracies.index(max(accuracies)) in marks.keys
    for one in marks.keys:
        for other in column:
            found = difference(column[one], column[other], {"all": samples})  # type: ignore[index]
            assert found is None or found.high >= 0


# Colours, and what is loaded

HEAVY = ("altair", "jinja2", "matplotlib", "numpy", "pandas", "PIL", "scipy", "torch", "vl_convert")


def test_a_criterion_has_one_colour_in_every_company() -> None:
    alone = style(["taylor"])["taylor"]
    assert style(["mine", "weight", "taylor", "lrp"])["taylor"] == alone
    assert style(["lrp", "random", "taylor", "activation"])["taylor"] == alone
    many = [f"criterion-{place}" for place in range(40)]
    assert len(set(style(["random", *many]).values())) == 41
    first = style(many[:8])
    assert len({colour for colour, _ in first.values()}) == 8


def test_records_are_read_without_what_draws_them(tmp_path: Any) -> None:
    path = write_report(full_report(), tmp_path / "r.html")
    code = (
        "import sys; from secateur.reports import load_report; "
        f"load_report({str(path)!r}); print(*({set(HEAVY)!r} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == ""
