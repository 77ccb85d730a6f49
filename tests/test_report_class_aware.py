from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.core.errors import RequestError
from secateur.reports import (
    ClassAccuracy,
    ClassAccuracyRow,
    ComparisonRow,
    GainRow,
    Gains,
    LayerShareRow,
    LayerShares,
    Report,
    TimingRow,
    Timings,
    read_rows,
    render,
    save_curves,
    save_gains,
    save_subset_curves,
)
from secateur.reports.class_accuracy import class_tables
from secateur.reports.curves import MEAN, MEASURES, TOP, Curves, ranking
from secateur.reports.layer_shares import layer_cells
from secateur.reports.summary import aggregate, split_unpruned
from test_report import EVIL, Page, compare_rows, compared, comparison, values_of

STRUCTURED = (
    "lrp", "lrp:composite=epsilon-plus", "lrp:composite=alpha2-beta1", "ig", "taylor", "grad", "sensitivity",
    "activation", "apoz", "cap", "ocap", "shapley", "weight", "bn-scale", "fpgm", "lamp", "random",
)  # fmt: skip
MASKS = ("magnitude", "gradient", "taylor", "random")
SUBSETS = {"pets": "cat;dog;deer", "vehicles": "car;truck;ship;plane", "pair": "cat;car"}
LAYERS = tuple(f"block{place}.conv" for place in range(9))
BUDGETS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)


def rows(
    criteria: tuple[str, ...] = ("lrp", "weight", "random"),
    masks: tuple[str, ...] = ("magnitude",),
    budgets: tuple[float, ...] = (0.8, 0.5, 0.3),
    seeds: tuple[int, ...] = (0, 1),
    strategies: tuple[str, ...] = ("per-cost",),
) -> list[dict[str, Any]]:
    """A comparison as a user gets it: the unpruned network, subsets, class-blind rows, masks, two stages."""
    rng = np.random.default_rng(0)
    found = []
    for place, (subset, classes) in enumerate(SUBSETS.items()):
        common = {
            "model": "resnet20",
            "dataset": "cifar10",
            "subset": subset,
            "classes": classes,
            "budget_kind": "macs",
        }
        top = 0.97 - 0.03 * place
        unpruned = {"criterion": "none", "strategy": "unpruned", "seed": 0, "budget": 1.0, "accuracy": top}
        found.append(common | unpruned | {"macs": 1.0, "finetuned": False})
        cases = [(name, strategy, True) for strategy in strategies for name in criteria]
        cases += [(name, "masked weights", False) for name in masks]
        for rank, (criterion, strategy, structured) in enumerate(cases):
            for scored_on in ("subset", "all") if criterion not in ("weight", "random") else ("subset",):
                for budget in budgets:
                    for seed in seeds:
                        for finetuned in (False, True) if budget in (0.5, 0.3, 0.8) else (False,):
                            loss = (0.15 + 0.05 * (rank % 17)) * (1 - budget) ** 1.5 * (0.3 if finetuned else 1)
                            loss += 0.04 * (scored_on == "all") * (1 - budget) + 0.01 * abs(rng.normal())
                            found.append(
                                common
                                | {"criterion": criterion, "scored_on": scored_on, "strategy": strategy, "seed": seed}
                                | {"budget": budget, "structured": structured, "accuracy": max(0.1, top - loss)}
                                | {"macs": budget - 0.01 if structured else 1.0, "finetuned": finetuned}
                                | {"params": budget - 0.05 if structured else 1.0, "units": budget + 0.03}
                                | {"weights": 1.0 if structured else budget, "latency_ms": 3.0 * budget + 0.5}
                                | {"latency_share": 1.1 * budget + 0.05 if structured else 1.0, "onnx_ms": None}
                                | {"onnx_share": None, "latency_note": "", "loss": 0.5, "size_bytes": 1000}
                                | {"scoring_s": 1.0, "surgery_s": 0.1, "retraining_s": 30.0 * finetuned}
                            )
    return found


def gains(criteria: tuple[str, ...] = ("lrp", "taylor")) -> list[dict[str, Any]]:
    return [
        {"criterion": name, "budget": budget, "finetuned": tuned, "gain": gain, "low": gain - 0.012}
        | {"high": gain + 0.012, "pairs": 9}
        for place, name in enumerate(criteria)
        for tuned in (False, True)
        for budget in (BUDGETS if not tuned else (0.8, 0.5, 0.3))
        for gain in [(0.05 - 0.008 * place) * (1 - budget) * (0.4 if tuned else 1)]
    ]


def class_rows(criteria: tuple[str, ...] = ("lrp", "weight")) -> list[dict[str, Any]]:
    return [
        {"subset": subset, "criterion": name, "scored_on": scored, "strategy": "per-cost", "budget": budget}
        | {
            "finetuned": tuned,
            "class": label,
            "accuracy": 0.95 - 0.04 * place - 0.1 * (scored == "all") - 0.05 * column,
        }
        for subset, classes in SUBSETS.items()
        for place, name in enumerate(criteria)
        for scored in ("subset", "all")
        for budget in (0.8, 0.45, 0.3)
        for tuned in (False, True)
        for column, label in enumerate(classes.split(";"))
    ]


def layer_rows(criteria: tuple[str, ...] = ("lrp", "weight")) -> list[dict[str, Any]]:
    return [
        {"criterion": name, "scored_on": scored, "subset": subset, "budget": budget, "layer": layer, "total": 32}
        | {"kept": max(1, round(32 * budget * (0.4 + 0.6 * abs(np.sin(place + column + (scored == "all"))))))}
        for place, name in enumerate(criteria)
        for scored in ("subset", "all")
        for subset in SUBSETS
        for budget in (0.8, 0.5, 0.3)
        for column, layer in enumerate(LAYERS)
    ]


def timings(criteria: tuple[str, ...] = ("lrp", "weight")) -> list[dict[str, Any]]:
    return [
        {
            "criterion": name,
            "scoring_s": 0.4 + place,
            "surgery_s": 0.2,
            "retraining_s": 180.0,
            "accuracy": 0.9 - place / 99,
        }
        | {"accuracy_finetuned": 0.93}
        for place, name in enumerate(criteria)
    ]


def report(**changes: list[dict[str, Any]]) -> Report:
    """All sections, with other rows for those that are named; a section without rows is left out."""
    given: dict[str, list[dict[str, Any]]] = {
        "rows": rows(),
        "gains": gains(),
        "class_rows": class_rows(),
        "layer_rows": layer_rows(),
        "timings": timings(),
    } | changes
    sections = [
        comparison(given["rows"]),
        Gains(read_rows(GainRow, given["gains"])),
        ClassAccuracy(read_rows(ClassAccuracyRow, given["class_rows"])),
        LayerShares(read_rows(LayerShareRow, given["layer_rows"])),
        Timings(read_rows(TimingRow, given["timings"])),
    ]
    return Report("Three of ten classes", sections=sections)


def measured(found: list[dict[str, Any]]) -> list[ComparisonRow]:
    return read_rows(ComparisonRow, found)


def data_of(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Every value of a chart, whichever of its layers it belongs to."""
    return [value for values in spec["datasets"].values() for value in values]


def signals(spec: dict[str, Any]) -> dict[str, Any]:
    return {one["name"]: one["value"] for one in spec["params"]}


# Rows to points


def test_subsets_are_averaged_and_the_band_is_that_of_seeds() -> None:
    found = rows()
    point = next(
        p for p in aggregate(split_unpruned(measured(found))[1]) if p["criterion"] == "lrp" and p["budget"] == 0.5
    )
    chosen = [r for r in found if (r["criterion"], r["budget"], r.get("scored_on")) == ("lrp", 0.5, "subset")]
    chosen = [r for r in chosen if not r["finetuned"]]
    by_seed = [statistics.fmean(r["accuracy"] for r in chosen if r["seed"] == seed) for seed in (0, 1)]
    assert len(chosen) == 6
    assert point["accuracy"] == pytest.approx(statistics.fmean(by_seed))
    assert (point["accuracy_low"], point["accuracy_high"]) == pytest.approx((min(by_seed), max(by_seed)))
    assert point["accuracy_std"] == pytest.approx(statistics.stdev(by_seed))
    assert point["seeds"] == 2


@given(order=st.permutations(range(12)), accuracies=st.lists(st.floats(0, 1), min_size=12, max_size=12))
@settings(max_examples=30, deadline=None)
def test_the_mean_lies_in_the_band_whatever_the_order(order: list[int], accuracies: list[float]) -> None:
    cells = [
        {"criterion": "lrp", "budget": 0.5, "subset": str(place % 3), "seed": place // 3, "accuracy": accuracy}
        for place, accuracy in enumerate(accuracies)
    ]
    (point,) = aggregate(measured([cells[place] for place in order]))
    assert point["accuracy"] == pytest.approx(statistics.fmean(accuracies))
    assert point["accuracy_low"] - 1e-9 <= point["accuracy"] <= point["accuracy_high"] + 1e-9
    each = aggregate(measured(cells), by_subset=True)
    assert statistics.fmean(p["accuracy"] for p in each) == pytest.approx(point["accuracy"])


def test_rows_of_the_past_mean_what_they_meant() -> None:
    old = compare_rows((False, True))
    new = [row | {"subset": "all", "scored_on": "subset", "structured": True} for row in old]
    assert measured(old) == measured(new)
    assert not Curves.of(measured(old)).aware
    assert Curves.of(measured(rows())).aware


def test_class_blind_rows_and_masks_are_points_of_their_own() -> None:
    points = aggregate(split_unpruned(measured(rows()))[1])
    names = {(p["criterion"], p["base"], p["structured"]) for p in points}
    assert ("lrp (class-blind)", "lrp", True) in names
    assert ("magnitude (masked weights)", "magnitude (masked weights)", False) in names
    texts = measured([{"criterion": "a", "structured": "False"}, {"criterion": "b", "structured": float("nan")}])
    assert [row.structured for row in texts] == [False, True]


def test_the_best_on_average_come_first_and_masks_last() -> None:
    found = Curves.of(measured(rows(STRUCTURED, MASKS)))
    names = list(found.looks)
    assert set(names[: len(STRUCTURED)]) == set(STRUCTURED)
    truth = {
        name: statistics.fmean(p["accuracy"] for p in found.points if p["criterion"] == name) for name in STRUCTURED
    }
    assert names[: len(STRUCTURED)] == sorted(truth, key=lambda name: -truth[name])
    coloured = [name for name in names[: len(STRUCTURED)] if found.looks[name][0] != "#8A8F8C"]
    assert coloured == names[:TOP]
    assert ranking([]) == []


# Curves


def test_curves_hold_the_mean_and_every_subset() -> None:
    charts = Page(render(report())).charts()
    assert set(charts) == {"curves-0", "masked-0", "gains-0", "layer-shares"}
    values = [value for value in data_of(charts["curves-0"]) if "base" in value]
    assert {value["subset"] for value in values} == {MEAN, *SUBSETS}
    assert {value["base"] for value in values} == {"lrp", "weight", "random"}
    mean = [
        v for v in values if (v["subset"], v["criterion"], v["budget"], v["stage"]) == (MEAN, "lrp", 0.5, "fine-tuned")
    ]
    each = [v for v in values if (v["criterion"], v["budget"], v["stage"]) == ("lrp", 0.5, "fine-tuned")]
    assert len(mean) == 1
    assert len(each) == 4
    assert mean[0]["accuracy"] == pytest.approx(
        statistics.fmean(v["accuracy"] for v in each if v["subset"] != MEAN), abs=1e-4
    )
    start = {"measure": "macs", "focus": "", "subset": MEAN, "stage": "not fine-tuned", "scored": "class-aware"}
    assert signals(charts["curves-0"]) == start


def test_each_subset_has_its_own_unpruned_network() -> None:
    rules = [v for v in data_of(Page(render(report())).charts()["curves-0"]) if "text" in v]
    found = {rule["subset"]: rule["accuracy"] for rule in rules}
    assert found == pytest.approx({"pets": 0.97, "vehicles": 0.94, "pair": 0.91, MEAN: 0.94})


@pytest.mark.slow
def test_masks_are_drawn_by_weights_that_are_left_and_nowhere_else() -> None:
    page = Page(render(report()))
    masked = [value for value in data_of(page.charts()["masked-0"]) if "base" in value]
    assert {value["base"] for value in masked} == {"magnitude (masked weights)"}
    assert all(value["weights"] == value["budget"] for value in masked)
    assert "datum.weights" in json.dumps(page.charts()["masked-0"])
    assert "no speed gained" in page.text
    charts = Page(render(compared(_whole(rows())))).charts()
    assert {value["criterion"] for value in values_of(charts["curves-0"])} == {"lrp", "weight", "random"}
    assert {value["criterion"] for value in values_of(charts["masked-0"])} == {"magnitude (masked weights)"}


def test_controls_are_there_for_what_differs_alone() -> None:
    def names(found: list[dict[str, Any]]) -> set[str | None]:
        elements = Page(render(compared(found))).elements
        return {attributes.get("name") for tag, attributes in elements if tag in ("input", "select")}

    assert names(rows()) == {"measure", "stage", "scored", "subset"}
    one = [row for row in rows() if row["subset"] == "pets"]
    assert names(one) == {"measure", "stage", "scored"}
    assert names([row for row in one if row.get("scored_on") != "all" and not row["finetuned"]]) == {"measure"}


@pytest.mark.slow
def test_latency_is_a_measure_where_it_was_timed() -> None:
    def measures(found: list[dict[str, Any]]) -> list[str | None]:
        elements = Page(render(compared(found))).elements
        return [a.get("value") for tag, a in elements if tag == "input" and a.get("name") == "measure"]

    assert measures(rows()) == ["macs", "params", "units", "latency_share"]
    assert measures([row | {"onnx_share": 0.5} for row in rows()]) == list(MEASURES)
    assert measures(compare_rows()) == ["macs", "params", "units"]
    timed = [row | {"latency_share": 1.2} for row in compare_rows()]
    assert measures(timed) == ["macs", "params", "units", "latency_share"]
    across = Page(render(compared(timed))).charts()["curves-0"]["layer"][0]["encoding"]["x"]
    assert "1.2" in across["scale"]["domain"]["expr"]


def test_a_stage_with_fewer_budgets_has_its_own_mean() -> None:
    page = Page(render(compared(rows(budgets=(0.9, 0.8, 0.5)))))
    assert "Per-cost · fine-tuned" in page.text
    table = page.text.split("Per-cost · fine-tuned")[1]
    assert "90\u202f%" not in table.split("Masked weights")[0]


@pytest.mark.slow
def test_masks_and_criteria_of_the_same_name_stay_apart() -> None:
    found = rows(criteria=("taylor", "random"), masks=("taylor", "random"))
    for page in (Page(render(compared(found))), Page(render(compared(_whole(found))))):
        chips = {a.get("data-criterion") for _, a in page.elements if "data-criterion" in a}
        assert chips == {"taylor", "random", "taylor (masked weights)", "random (masked weights)"}


def _whole(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As without subsets."""
    kept = [row for row in found if row["subset"] == "pets" and row.get("scored_on") != "all"]
    return [row | {"subset": "all"} for row in kept]


@pytest.mark.slow
def test_budgets_that_say_what_goes_rise() -> None:
    text = Page(render(compared([row | {"budget_kind": "ratio"} for row in rows()]))).text
    table = text.split("criterion · nominal share that goes")[1]
    assert table.startswith("30\u202f%50\u202f%80\u202f%")


# Gains, classes, layers, time


@pytest.mark.slow
def test_gains_are_in_points_sorted_and_sure_where_zero_is_outside() -> None:
    found = Gains(read_rows(GainRow, gains(("weak", "strong"))[::-1])).by_strategy[""]
    assert found[0].criterion == "weak"  # the first of the two gains more
    lowest = next(row for row in found if row.criterion == "weak" and row.budget == 0.2)
    assert lowest.sure
    assert not next(row for row in found if row.budget == 0.9).sure
    page = Page(render(report()))
    assert "+4.0+2.8 to +5.2" in page.text
    lone = {"criterion": "lrp", "budget": 0.5, "gain": 0.1, "low": None, "high": None, "pairs": 1}
    assert not read_rows(GainRow, [lone])[0].sure
    mean = lone | {"budget": None, "gain": 0.123}
    page = Page(render(Report("t", sections=[Gains(read_rows(GainRow, [lone, mean]))])))
    assert "50\u202f%mean" in page.text
    assert "+12.3" in page.text
    values = data_of(page.charts()["gains-0"])
    assert [(value["budget"], value["gain"], value["stage"]) for value in values] == [(0.5, 10.0, "not fine-tuned")]
    with pytest.raises(RequestError, match=r"row 0 \(GainRow\) has no low, high"):
        read_rows(GainRow, [{"criterion": "lrp", "budget": 0.5, "gain": 0.1}])
    with pytest.raises(RequestError, match=r"row 0 \(GainRow\): gain: Input should be a valid number"):
        read_rows(GainRow, [lone | {"gain": "much"}])


def test_class_tables_take_the_budget_nearest_to_half() -> None:
    found = class_tables(read_rows(ClassAccuracyRow, class_rows()))
    assert {(t.subset, t.finetuned, t.budget) for t in found} == {
        (subset, tuned, 0.45) for subset in SUBSETS for tuned in (False, True)
    }
    pets = found[0]
    assert pets.classes == ("cat", "dog", "deer")
    assert pets.cells["weight"]["class-blind", "deer"] == pytest.approx(0.95 - 0.04 - 0.1 - 0.1)
    with pytest.raises(RequestError, match=r"row 0 \(ClassAccuracyRow\) has no subset"):
        read_rows(ClassAccuracyRow, [{"criterion": "lrp", "budget": 0.5, "class": "cat", "accuracy": 1.0}])


def test_a_page_of_class_tables_alone_can_change_the_subset() -> None:
    page = Page(render(Report("t", sections=[ClassAccuracy(read_rows(ClassAccuracyRow, class_rows()))])))
    assert any(tag == "select" and a.get("name") == "class-subset" for tag, a in page.elements)
    assert any("data-choice" in script for script in page.scripts)


def test_layers_show_the_share_that_stays_over_subsets() -> None:
    found = layer_rows()
    cells = {(c.criterion, c.budget, c.layer): c for c in layer_cells(read_rows(LayerShareRow, found))}
    cell = cells["lrp (class-blind)", "50 %", LAYERS[2]]
    chosen = [
        row
        for row in found
        if (row["criterion"], row["scored_on"], row["budget"], row["layer"]) == ("lrp", "all", 0.5, LAYERS[2])
    ]
    assert cell.share == pytest.approx(sum(r["kept"] for r in chosen) / (32 * len(SUBSETS)), abs=1e-4)
    spec = Page(render(report())).charts()["layer-shares"]
    assert signals(spec) == {"budget": "50 %"}
    with pytest.raises(RequestError, match=r"row 0 \(LayerShareRow\) has no layer, kept, total"):
        read_rows(LayerShareRow, [{"criterion": "lrp", "budget": 0.5}])


def test_time_is_shown_by_part_and_together() -> None:
    text = Page(render(Report("t", sections=[Timings(read_rows(TimingRow, timings()))]))).text.replace("\u202f", " ")
    assert "0.40 s0.20 s3.00 min3.01 min90.093.0" in text
    assert "accuracy finetuned, %" in text


# Page


def test_json_and_back_is_the_same() -> None:
    whole = report()
    assert Report.from_json(json.loads(json.dumps(whole.to_json()))) == whole


def test_frames_are_read_as_rows() -> None:
    frame = pd.DataFrame(class_rows())
    frame.loc[0, "accuracy"] = np.nan
    found = read_rows(ClassAccuracyRow, frame)
    assert found[1:] == read_rows(ClassAccuracyRow, class_rows())[1:]
    assert found[0].accuracy is None


@pytest.mark.parametrize("missing", ["rows", "gains", "class_rows", "layer_rows", "timings"])
def test_any_part_may_be_missing(missing: str) -> None:
    page = Page(render(report(**{missing: []})))
    ids = {attributes.get("id") for _, attributes in page.elements}
    assert set(page.charts()) <= ids
    titles = {
        "gains": "What scoring on the wanted classes gains",
        "layer_rows": "Where each criterion removes",
        "timings": "Time to a pruned network",
    }
    titles |= {"class_rows": "Accuracy of each class", "rows": "Accuracy against what stays"}
    assert titles[missing] not in page.text


def test_text_from_outside_stays_text() -> None:
    def evil(found: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
        return [row | {name: EVIL for name in names if row.get("criterion") != "none"} for row in found]

    raw = render(
        report(
            rows=[
                row | {"criterion": EVIL, "strategy": EVIL, "subset": EVIL + row["subset"], "classes": EVIL}
                for row in rows()
            ],
            gains=evil(gains(), "criterion", "strategy"),
            class_rows=evil(class_rows(), "criterion", "strategy", "class"),
            layer_rows=evil(layer_rows(), "criterion", "layer"),
            timings=[row | {"criterion": EVIL} for row in timings()],
        )
    )
    assert "<script>alert" not in raw
    page = Page(raw)
    assert len(page.scripts) == 3
    assert page.text.count(EVIL) >= 12


# Static pictures


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_static_pictures_are_drawn(tmp_path: Path, suffix: str) -> None:
    curves = save_subset_curves(rows(), tmp_path / f"curves{suffix}")
    gained = save_gains(gains(), tmp_path / f"gains{suffix}")
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"curves{suffix}", f"gains{suffix}"]
    if suffix == ".svg":
        text = "".join(ElementTree.parse(curves).getroot().itertext())
        for word in (
            "Per-cost, not fine-tuned",
            "Per-cost, fine-tuned",
            "class-blind",
            "unpruned 94.0%",
        ):
            assert word in text
        assert "magnitude (masked weights)" not in text
        words = "".join(ElementTree.parse(gained).getroot().itertext())
        for word in ("percentage points", "taylor", "fine-tuned"):
            assert word in words


def test_static_pictures_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no row has both accuracy and macs"):
        save_subset_curves([row for row in rows() if row.get("structured") is False], tmp_path / "a.svg")
    with pytest.raises(RequestError, match="no row has a gain"):
        save_gains([], tmp_path / "a.svg")
    for save in (save_subset_curves, save_gains):
        with pytest.raises(RequestError, match="unknown ending"):
            save([], tmp_path / "a.gif")


def test_plain_static_curves_leave_out_masks_and_class_blind_scores(tmp_path: Path) -> None:
    text = save_curves([row for row in rows() if row["criterion"] != "none"], tmp_path / "a.svg").read_text()
    assert "lrp" in text
    assert "magnitude (masked weights)" not in text
    assert "class-blind" not in text
