from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from marks import some_slow
from secateur.core.errors import RequestError
from secateur.reports import (
    COLORMAPS,
    Field,
    Film,
    Films,
    FilmTrack,
    RankingRow,
    Rankings,
    Report,
    SampleAccuracy,
    SampleAccuracyRow,
    colormap,
    field_png,
    film_png,
    load_report,
    overlay_png,
    read_rows,
    render,
    save_fields,
    save_ranks,
    save_samples,
    to_base64,
    write_report,
)
from secateur.reports.fields import MOST_POINTS
from secateur.reports.films import film_chart, first_frame
from secateur.reports.look import rgb
from secateur.reports.ranks import matrices
from secateur.reports.samples import sample_points

EVIL = "<script>alert('x')</script>&\"</title>"
BLUE, ORANGE = rgb("#1F83C6"), rgb("#D55E00")

Array = np.ndarray[Any, Any]


def halves(size: int = 20, sure: float = 1.0) -> tuple[Array, Array]:
    """Class 0 on the left, class 1 on the right."""
    classes = np.zeros((size, size), dtype=np.int64)
    classes[:, size // 2 :] = 1
    return classes, np.full((size, size), sure)


def field(title: str = "lrp", **changes: Any) -> Field:
    classes, certainty = halves()
    rng = np.random.default_rng(0)
    values: dict[str, Any] = {
        "title": title,
        "caption": "99.9 %",
        "classes": classes,
        "certainty": certainty,
        "extent": (-1.0, 1.0, -1.0, 1.0),
        "points": rng.uniform(-0.9, 0.9, (1000, 2)),
        "labels": np.arange(1000) % 2,
        "chosen": np.array([[-0.5, 0.5], [0.5, -0.5]]),
        "chosen_labels": np.array([0, 1]),
    }
    return Field(**(values | changes))


def film(**changes: Any) -> Film:
    frames = [film_png(*halves(sure=sure)) for sure in (1.0, 0.5, 0.1)]
    tracks = [FilmTrack("lrp", frames, [100.0, 99.0, 52.0]), FilmTrack("grad", frames, [100.0, 61.5, 50.0])]
    values: dict[str, Any] = {"title": "moon", "positions": [0, 1000, 2000], "tracks": tracks}
    return Film(**(values | changes))


def accuracy_rows() -> list[dict[str, Any]]:
    return [
        {
            "dataset": dataset,
            "criterion": criterion,
            "samples_per_class": samples,
            "evaluated_on": on,
            "noise": noise,
            "stage": stage,
            "runs": 50,
            "mean_accuracy_percent": 95.0 if stage == "pre" else 60.0 + 10 * np.log10(samples),
            "sd_accuracy_percent": 8.0,
        }
        for dataset in ("moon", "mult")
        for criterion in ("lrp", "grad")
        for samples in (1, 5, 200)
        for on, noise in (("train", 0.0), ("noisy", 0.1))
        for stage in ("pre", "post")
    ]


def rank_rows(measures: tuple[str, ...] = ("spearman", "first-250")) -> list[dict[str, Any]]:
    names = ("lrp", "grad")
    return [
        {"dataset": dataset, "measure": measure, "case": "criteria at the same seed", "a": a, "b": b, "sd": 0.1}
        | {"mean": 1.0 if a == b else (-0.5 if measure == "spearman" else 0.5)}
        for measure in measures
        for dataset in ("moon", "mult")
        for a in names
        for b in names
    ]


def sample_accuracy(rows: list[dict[str, Any]] | None = None) -> SampleAccuracy:
    return SampleAccuracy(read_rows(SampleAccuracyRow, accuracy_rows() if rows is None else rows))


def rankings(rows: list[dict[str, Any]] | None = None) -> Rankings:
    return Rankings(read_rows(RankingRow, rank_rows() if rows is None else rows))


def toy_report(**changes: Any) -> Report:
    parts = {"films": Films([film()]), "sample_accuracy": sample_accuracy(), "rankings": rankings()} | changes
    return Report("t", sections=list(parts.values()))


def filmed(one: Film) -> Report:
    return Report("t", sections=[Films([one])])


def pixels(png: bytes | str) -> Array:
    data = base64.b64decode(png) if isinstance(png, str) else png
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA")).astype(int)


def nearer(pixel: Array, one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether the pixel's tint is that of one colour rather than the other."""
    tint = 255 - pixel[:3]
    angles = [
        float(tint @ (255 - np.array(c))) / float(np.linalg.norm(tint) * np.linalg.norm(255 - np.array(c)))
        for c in (one, other)
    ]
    return angles[0] > angles[1]


class Page(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self._open = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open = tag
        self.scripts += [""] * (tag == "script")

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open == "script":
            self.scripts[-1] += data
        elif self._open != "style":
            self.text += data

    def all(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        return [
            found
            for name, found in self.elements
            if name == tag and all(found.get(k) == v for k, v in attributes.items())
        ]


def charts(report: Report) -> dict[str, Any]:
    page = Page(render(report))
    kinds = [found.get("id") for tag, found in page.elements if tag == "script"]
    specs: dict[str, Any] = json.loads(page.scripts[kinds.index("charts")])
    return specs


# Colours


@pytest.mark.parametrize("name", [*COLORMAPS, "Viridis", "Okabe-Ito"])
def test_colour_maps_give_as_many_different_colours_as_asked(name: str) -> None:
    for count in (1, 2, 8):
        colours = colormap(name, count)
        assert len(set(colours)) == len(colours) == count
        assert all(re.fullmatch("#[0-9A-F]{6}", colour) for colour in colours)


def test_sequential_maps_reach_from_end_to_end() -> None:
    assert colormap("viridis", 5)[0] == "#440154"
    assert colormap("viridis", 5)[-1] == "#FDE725"
    assert len(colormap("coolwarm", 40)) == 40


def test_colour_maps_say_what_is_wrong() -> None:
    with pytest.raises(RequestError, match=r"'set2' has 8 colours, 9 classes.*viridis"):
        colormap("set2", 9)
    with pytest.raises(RequestError, match=r"unknown colour map 'jet'; known: okabe-ito, set1"):
        colormap("jet", 2)


# Regions


def test_each_half_has_the_colour_of_its_class() -> None:
    drawn = pixels(field_png(field()))
    height, width = drawn.shape[:2]
    for row in (2, height // 2, height - 3):
        assert nearer(drawn[row, width // 4], BLUE, ORANGE)
        assert nearer(drawn[row, 3 * width // 4], ORANGE, BLUE)


def test_the_first_row_is_on_top() -> None:
    classes, certainty = halves()
    drawn = pixels(field_png(field(classes=classes.T, certainty=certainty)))
    assert nearer(drawn[5, 5], BLUE, ORANGE)
    assert nearer(drawn[-5, 5], ORANGE, BLUE)


def test_a_dark_line_stands_where_classes_meet_and_nowhere_else() -> None:
    drawn = pixels(field_png(field()))[100, :, :3].sum(axis=1)
    dark = np.flatnonzero(drawn < 300)
    assert 1 <= len(dark) <= 6
    assert abs(dark.mean() + 0.5 - len(drawn) / 2) < 1
    alone = field(classes=np.zeros((20, 20), dtype=int), labels=np.zeros(1000, dtype=int))
    assert pixels(field_png(alone))[..., :3].sum(axis=2).min() > 300


def test_the_line_follows_certainty_between_points_of_the_mesh() -> None:
    # margins 0.9 and 0.1 on both sides of the border: the boundary is 0.9 of the way from the sure point
    classes, certainty = halves(4, 0.9)
    certainty[:, 2] = 0.1
    drawn = pixels(field_png(field(classes=classes, certainty=certainty)))[100, :, :3].sum(axis=1)
    where = (np.flatnonzero(drawn < 300).mean() + 0.5) / len(drawn) * 4
    assert where == pytest.approx(1.5 + 0.9, abs=0.03)


def test_less_certain_regions_are_paler() -> None:
    sure, unsure = (pixels(field_png(field(certainty=np.full((20, 20), value))))[100, 100, 0] for value in (1.0, 0.2))
    assert sure + 20 < unsure < 255


def test_a_line_does_not_bend_at_the_edge() -> None:
    across, down = np.meshgrid(np.linspace(-1, 1, 12), np.linspace(-1, 1, 12))
    slope = (across + down) / 2
    drawn = pixels(film_png((slope > 0).astype(int), np.abs(slope)))[..., :3].sum(axis=2)
    corner = np.argwhere(drawn[:12, -12:] < 330)
    assert np.abs(corner[:, 0] + corner[:, 1] - 11).max() <= 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": np.zeros((3, 3))}, "classes have type float64"),
        ({"classes": np.full((20, 20), -1)}, "integers from 0"),
        ({"certainty": np.ones((3, 3))}, r"certainty has shape \[3, 3\]"),
        ({"certainty": np.full((20, 20), np.nan)}, "outside 0..1"),
        ({"extent": (1.0, -1.0, -1.0, 1.0)}, "has no area"),
        ({"labels": np.zeros(3, dtype=int)}, r"points of shape \[1000, 2\]"),
        ({"chosen_labels": np.array([0.5, 1.0])}, "float64"),
    ],
)
def test_fields_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        field(**changes)


# The grid of panels


def texts(svg: Path) -> list[str]:
    return ["".join(node.itertext()) for node in ElementTree.parse(svg).iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("ending", ["svg", "png", "pdf"])
def test_panels_are_drawn(tmp_path: Path, ending: str) -> None:
    path = save_fields([[field("lrp"), field("grad")]], tmp_path / f"fields.{ending}", row_titles=["moon"])
    head = path.read_bytes()[:8]
    assert head.startswith({"svg": b"<svg", "png": b"\x89PNG", "pdf": b"%PDF"}[ending])
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.slow
def test_titles_that_repeat_are_written_once(tmp_path: Path) -> None:
    same = [[field("lrp"), field("grad")], [field("lrp"), field("grad")]]
    other = [[field("lrp"), field("grad")], [field("lrp"), field("weight")]]
    counts = [
        texts(save_fields(rows, tmp_path / "a.svg", row_titles=["moon", "mult"])).count("lrp") for rows in (same, other)
    ]
    assert counts == [1, 2]


def test_points_stand_where_the_extent_puts_them(tmp_path: Path) -> None:
    # a reference sample of class 1 in the upper left quarter, in a panel whose left half is class 0
    one = field(
        title="", caption="", chosen=np.array([[-0.5, 0.5]]), chosen_labels=np.array([1]), points=np.empty((0, 2)),
        labels=np.empty(0, int),
    )  # fmt: skip
    drawn = pixels(save_fields([[one]], tmp_path / "a.png").read_bytes())
    marks = np.argwhere((np.abs(drawn[..., :3] - ORANGE) < 3).all(axis=-1))
    margin, panel = 2 * 16, 2 * 150
    assert marks.mean(axis=0) == pytest.approx([margin + panel / 4] * 2, abs=2)
    assert 40 < len(marks) < 160


def test_many_points_are_thinned_the_same_way_each_time(tmp_path: Path) -> None:
    drawn = [save_fields([[field()]], tmp_path / f"{place}.svg").read_text() for place in range(2)]
    assert drawn[0] == drawn[1]
    dots = re.findall(r'<path d="([^"]*)"[^>]*stroke-width: 2.4; stroke-linecap: round', drawn[0])
    assert sum(path.count("M ") for path in dots) == MOST_POINTS


@pytest.mark.slow
def test_five_panels_of_500_points_stay_below_a_third_of_a_megabyte(tmp_path: Path) -> None:
    x, y = np.meshgrid(np.linspace(-1, 1, 80), np.linspace(1, -1, 80))
    wave = np.sin(4 * x) * np.cos(5 * y) + 0.3 * x
    classes = (wave > 0).astype(int) + 2 * (wave > 0.5)
    row = [field(classes=classes, certainty=np.clip(np.abs(wave), 0, 1)) for _ in range(5)]
    assert save_fields([row], tmp_path / "a.svg").stat().st_size < 333_000


def test_the_legend_names_only_what_is_drawn(tmp_path: Path) -> None:
    full = save_fields([[field()]], tmp_path / "a.svg").read_text()
    bare = field(
        points=np.empty((0, 2)), labels=np.empty(0, int), chosen=np.empty((0, 2)), chosen_labels=np.empty(0, int)
    )
    blank = save_fields([[bare]], tmp_path / "b.svg").read_text()
    for words in ("training data", "reference samples"):
        assert words in full
        assert words not in blank


def test_names_in_pictures_stay_text(tmp_path: Path) -> None:
    path = save_fields([[field(EVIL, caption=EVIL)]], tmp_path / "a.svg", row_titles=[EVIL])
    assert texts(path).count(EVIL) == 3


def test_pictures_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"unknown ending '\.jpg'; use \.svg, \.png or \.pdf"):
        save_fields([[field()]], tmp_path / "a.jpg")
    with pytest.raises(RequestError, match="there are no panels"):
        save_fields([[]], tmp_path / "a.svg")
    with pytest.raises(RequestError, match="2 row titles for 1 rows"):
        save_fields([[field()]], tmp_path / "a.svg", row_titles=["a", "b"])
    with pytest.raises(RequestError, match="unknown colour map 'jet'"):
        save_fields([[field()]], tmp_path / "a.svg", "jet")
    assert not list(tmp_path.iterdir())


# Films


def test_frames_are_small_and_keep_exact_colours() -> None:
    x, y = np.meshgrid(np.linspace(-1, 1, 56), np.linspace(1, -1, 56))
    wave = np.sin(4 * x) * np.cos(5 * y) + 0.3 * x
    frame = film_png((wave > 0).astype(int) + 2 * (wave > 0.5), np.clip(np.abs(wave), 0, 1))
    assert len(frame) < 8_000
    assert Image.open(io.BytesIO(base64.b64decode(frame))).mode == "P"
    # the same class has the same colour, whichever other classes a frame holds
    two = pixels(film_png(*halves(), count=4))[100, 20]
    one = pixels(film_png(np.zeros((20, 20), dtype=int), np.ones((20, 20)), count=4))[100, 20]
    assert two.tolist() == one.tolist()


def test_sequential_colours_of_a_frame_follow_the_number_of_classes_given() -> None:
    classes = np.ones((8, 8), dtype=int)
    two, four = (pixels(film_png(classes, np.ones((8, 8)), "viridis", count=count))[50, 50] for count in (2, 4))
    assert two.tolist() != four.tolist()


def test_the_overlay_shows_points_and_lets_the_rest_through() -> None:
    nothing, nobody = np.empty((0, 2)), np.empty(0, dtype=int)
    drawn = pixels(
        overlay_png((0, 4, 0, 2), 400, np.array([[1.0, 1.5]]), np.array([0]), np.array([[3.0, 0.5]]), np.array([1]))
    )
    assert drawn.shape[:2] == (200, 400)
    assert 120 < drawn[50, 100, 3] < 255
    assert nearer(drawn[50, 100], BLUE, ORANGE)
    assert drawn[150, 300, 3] == 255
    assert nearer(drawn[150, 300], ORANGE, BLUE)
    assert drawn[100, 200, 3] == 0
    assert pixels(overlay_png((0, 1, 0, 1), 50, nothing, nobody, nothing, nobody))[..., 3].max() == 0


def test_films_come_back_from_json() -> None:
    points = to_base64(
        overlay_png((0, 1, 0, 1), 50, np.ones((1, 2)), np.zeros(1, int), np.empty((0, 2)), np.empty(0, int))
    )
    report = toy_report(films=Films([film(points_png=points, start=1000)]))
    assert Report.from_json(json.loads(json.dumps(report.to_json(), allow_nan=False))) == report


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FilmTrack("lrp", ["", ""], [1.0]), "'lrp' has 2 frames and 1 accuracies"),
        (lambda: FilmTrack("lrp", [""], [101.0]), "outside 0..100"),
        (lambda: FilmTrack("lrp", [""], [float("nan")]), "outside 0..100"),
        (lambda: FilmTrack("lrp", ['"onload='], [1.0]), "not base64"),
        (lambda: film(positions=[0, 1000]), "2 positions, its track 'lrp' 3 frames"),
        (lambda: film(positions=[0, 2000, 1000]), "do not rise"),
        (lambda: film(positions=[]), "do not rise"),
        (lambda: film(tracks=[]), "no tracks"),
        (lambda: film(points_png="url(x)"), "not base64"),
    ],
)
def test_films_that_do_not_fit_are_refused(build: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        build()


def test_a_broken_film_in_a_file_is_refused_with_its_name(tmp_path: Path) -> None:
    broken = toy_report().to_json()
    broken["sections"][0]["record"]["films"][0]["tracks"][1]["accuracy"].pop()
    path = tmp_path / "r.json"
    path.write_text(json.dumps(broken))
    with pytest.raises(
        RequestError, match=r"sections\.0 \(films\): films\.0\..*'grad' has 3 frames and 2"
    ):
        load_report(path)


def test_the_first_frame_is_where_tracks_differ_or_where_the_film_starts() -> None:
    assert first_frame(film()) == 1
    assert first_frame(film(start=1700)) == 2
    assert first_frame(film(tracks=film().tracks[:1])) == 1


# The page


def test_the_page_holds_a_slider_with_all_frames() -> None:
    raw = render(filmed(film()))
    page = Page(raw)
    (slider,) = page.all("input", type="range")
    assert (slider["min"], slider["max"], slider["value"]) == ("0", "2", "1")
    assert slider["aria-valuetext"] == "1000 neurons removed"
    assert slider["aria-label"]
    assert "Play" in page.text
    data = json.loads(page.scripts[0])
    assert data["positions"] == [0, 1000, 2000]
    assert [track["frames"] for track in data["tracks"]] == [track.frames for track in film().tracks]
    # without a script: the first frame, its accuracy and what was removed
    assert f"base64,{film().tracks[0].frames[1]}" in raw
    assert "61.5\u202f%" in page.text
    assert "1000 neurons removed" in page.text


def test_the_slider_moves_a_rule_in_the_curve() -> None:
    spec = film_chart(film()).to_dict()
    assert [(p["name"], p["value"]) for p in spec["params"]] == [("position", 1000)]
    ends = spec["layer"][1]["encoding"]["x"]["scale"]["domain"]
    assert ends == [0, 2000]


def test_a_film_of_one_frame_needs_no_slider() -> None:
    tracks = [FilmTrack(track.name, track.frames[:1], track.accuracy[:1]) for track in film().tracks]
    page = Page(render(filmed(film(positions=[1000], tracks=tracks))))
    assert not page.all("input", type="range")
    assert "1000 neurons removed" in page.text


def test_points_are_stored_once_for_all_tracks() -> None:
    points = to_base64(b"points of all tracks")
    assert render(filmed(film(points_png=points))).count(points) == 1


@pytest.mark.parametrize(
    ("empty", "title"),
    [
        (Films([]), "Decision boundaries"),
        (SampleAccuracy([]), "Accuracy against reference samples"),
        (Rankings([]), "How alike the rankings are"),
    ],
)
def test_sections_without_content_leave_no_trace(empty: Any, title: str) -> None:
    assert title in Page(render(toy_report())).text
    assert "Nothing has been measured yet" in Page(render(Report("t", sections=[empty]))).text


def test_matrices_alone_need_the_page_script_but_no_chart_library() -> None:
    page = render(Report("t", sections=[rankings()]))
    assert len(page) < 60_000
    assert "data-choice" in page
    policy = re.search(r"script-src ([^;\"]*)", page)
    assert policy is not None
    assert policy[1].count("sha256-") == 1


@pytest.mark.slow
def test_the_way_of_evaluation_is_chosen_above_charts_of_each_data_set() -> None:
    page = Page(render(toy_report()))
    assert [tab["value"] for tab in page.all("input", name="evaluated")] == ["training data", "noisy, σ 0.1"]
    specs = charts(toy_report())
    assert set(specs) == {"film-0", "samples-0", "samples-1"}
    params = {param["name"]: param["value"] for param in specs["samples-1"]["params"]}
    assert params == {"evaluated": "training data", "focus": ""}


def test_matrices_show_their_numbers_and_measures_can_be_chosen() -> None:
    page = Page(render(toy_report()))
    assert [tab["value"] for tab in page.all("input", name="similarity")] == ["spearman", "first-250"]
    assert page.text.count("−0.50") == 4
    assert "first 250 in common" in page.text


def test_names_from_outside_stay_text() -> None:
    rows = [row | {"dataset": EVIL, "criterion": EVIL, "evaluated_on": EVIL} for row in accuracy_rows()]
    ranked = [row | {"dataset": EVIL, "case": EVIL, "a": EVIL, "b": EVIL} for row in rank_rows()]
    tracks = [FilmTrack(EVIL, track.frames, track.accuracy) for track in film().tracks]
    films = [film(title=EVIL, tracks=tracks, unit=EVIL)]
    raw = render(toy_report(films=Films(films), sample_accuracy=sample_accuracy(rows), rankings=rankings(ranked)))
    page = Page(raw)
    assert "<script>alert" not in raw
    assert page.text.count(EVIL) >= 10
    # frames, specifications, chart library, page script
    assert len(page.scripts) == 4
    assert all(picture.get("alt") for picture in page.all("img"))


def test_the_written_page_can_be_drawn_again(tmp_path: Path) -> None:
    page = write_report(toy_report(), tmp_path / "report.html")
    assert page.read_text(encoding="utf-8") == render(load_report(page))


# Accuracy against reference samples


def test_bands_end_at_a_hundred() -> None:
    (point,) = sample_points(sample_accuracy([accuracy_rows()[0] | {"mean_accuracy_percent": 97.0}]).rows)
    assert (point["low"], point["high"]) == (89.0, 100.0)


def test_ticks_stand_at_the_counts_that_occur() -> None:
    axis = charts(toy_report())["samples-0"]["layer"][0]["encoding"]["x"]
    assert axis["axis"]["values"] == [1, 5, 200]
    assert axis["scale"]["type"] == "log"


def test_rows_of_several_networks_do_not_end_in_one_line() -> None:
    rows = [row | {"network": name} for row in accuracy_rows() for name in ("published", "all-relu")]
    names = list(dict.fromkeys(point["dataset"] for point in sample_points(sample_accuracy(rows).rows)))
    assert names[:2] == ["moon · network published", "moon · network all-relu"]
    assert len(names) == 4


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["svg", "png", "pdf"])
def test_accuracies_are_drawn(tmp_path: Path, ending: str) -> None:
    path = save_samples(accuracy_rows(), tmp_path / f"samples.{ending}")
    assert path.stat().st_size > 5_000
    if ending == "svg":
        text = path.read_text()
        for words in (
            "accuracy on training data, %",
            "accuracy on noisy, σ 0.1, %",
            "unpruned",
            "moon",
            "mult",
            "grad",
        ):
            assert words in text


def test_means_that_are_missing_are_left_out_and_other_gaps_refused(tmp_path: Path) -> None:
    rows = accuracy_rows()
    found = sample_accuracy([rows[0] | {"mean_accuracy_percent": None}, rows[1]])
    assert len(sample_points(found.rows)) == 1
    with pytest.raises(RequestError, match=r"row 0 \(SampleAccuracyRow\) has no stage"):
        sample_accuracy([{key: value for key, value in rows[0].items() if key != "stage"}])
    with pytest.raises(RequestError, match="samples_per_class 0"):
        sample_accuracy([rows[0] | {"samples_per_class": 0}])
    with pytest.raises(RequestError, match="no row has a mean accuracy"):
        save_samples([], tmp_path / "a.svg")
    with pytest.raises(RequestError, match=r"unknown ending '\.gif'"):
        save_samples(rows, tmp_path / "a.gif")


# Rank matrices


def test_rows_are_sorted_into_matrices_in_the_order_of_first_appearance() -> None:
    found = matrices(rankings(rank_rows(("spearman",))).rows)
    assert [(m.dataset, m.measure, m.down, m.across) for m in found] == [
        (dataset, "spearman", ("lrp", "grad"), ("lrp", "grad")) for dataset in ("moon", "mult")
    ]
    assert found[0].cells["lrp", "grad"] == (-0.5, 0.1)


def test_matrices_of_several_sample_counts_stay_apart() -> None:
    rows = [row | {"samples_per_class": count} for row in rank_rows(("spearman",)) for count in (5, 20)]
    assert [m.of for m in matrices(rankings(rows).rows)] == ["5 samples per class", "20 samples per class"] * 2


def test_names_compared_only_with_themselves_become_rows_by_sample_count() -> None:
    rows = [
        {"dataset": "moon", "measure": "kendall", "case": "other seeds", "a": name, "b": name, "mean": 0.5}
        | {"samples_per_class": count}
        for count in (1, 20)
        for name in ("lrp", "grad")
    ]
    (matrix,) = matrices(rankings(rows).rows)
    assert (matrix.down, matrix.across, len(matrix.cells)) == (("lrp", "grad"), ("1", "20"), 4)


def test_cells_are_coloured_on_a_fixed_scale() -> None:
    page = render(Report("t", sections=[rankings()]))
    # full blue for 1, half the orange for -0.5; half the green for a share of one half
    for colour in ("rgb(33 102 172/0.65)", "rgb(179 88 6/0.33)", "rgb(47 115 83/0.33)"):
        assert f'style="background:{colour}" title="± 0.10"' in page


@pytest.mark.parametrize("ending", some_slow(["svg", "png", "pdf"], "png", "pdf"))
def test_matrices_are_drawn(tmp_path: Path, ending: str) -> None:
    path = save_ranks(rank_rows(), tmp_path / f"ranks.{ending}")
    assert path.stat().st_size > 5_000
    if ending == "svg":
        text = path.read_text()
        for words in ("−0.50", "criteria at the same seed · Spearman’s ρ", "moon", "first 250 in common"):
            assert words in text


def test_matrices_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="unknown measure 'pearson'; known: spearman, kendall, first, last"):
        rankings(rank_rows(("pearson",)))
    with pytest.raises(RequestError, match=r"row 0 \(RankingRow\) has no b, mean"):
        rankings([{"dataset": "moon", "measure": "spearman", "case": "c", "a": "lrp"}])
    with pytest.raises(RequestError, match="there are no rows"):
        save_ranks([], tmp_path / "a.svg")
