"""Where networks look: heatmaps, the units of each class, agreement before and after pruning."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from torch import nn

import secateur as sc
from marks import some_slow
from networks import randomised
from secateur.cli.main import run
from secateur.core.errors import RequestError
from secateur.data import LabelledImages, Normalisation
from secateur.pipeline import explain, strongest_units
from secateur.pipeline.agreement import Agreement, cosine_similarity, mean_ranks, rank_correlation
from secateur.pipeline.explanation import agreement, check_outputs, draw, draw_per_class, first_of_classes
from secateur.reports import Agreement as AgreementRecord
from secateur.reports import AgreementGroup, ClassUnit, ClassUnits, Heatmap, Heatmaps, Report, load_report, render
from test_report import EVIL, Page, values_of

SMALL = ["--data", "mnist5k", "--set", "data.limit=120", "--device", "cpu"]


def resnet(seed: int = 0, **arguments: Any) -> nn.Module:
    torch.manual_seed(seed)
    return randomised(sc.build("resnet20", **({"in_channels": 1, "width": 4} | arguments)), seed)


def images(labels: list[int], classes: int = 3) -> LabelledImages:
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 8, 8, 1), dtype=np.uint8)
    return LabelledImages(pixels, np.array(labels), "abcdefghij"[:classes], Normalisation((0.5,), (0.25,)))


# Measures of agreement


def test_ranks_of_ties_are_their_mean() -> None:
    values = np.array([[2.0, 1.0, 2.0, 3.0, 2.0], [0.0, -0.0, 0.0, 0.0, 0.0], [5.0, 4.0, 3.0, 2.0, 1.0]])
    assert mean_ranks(values).tolist() == [[3, 1, 3, 5, 3], [3, 3, 3, 3, 3], [5, 4, 3, 2, 1]]


def test_rank_correlation_with_ties_by_hand() -> None:
    a = np.array([[[1.0, 2.0], [2.0, 4.0]]])  # ranks 1, 2.5, 2.5, 4: deviations -1.5, 0, 0, 1.5
    b = np.array([[[10.0, 30.0], [20.0, 20.0]]])  # ranks 1, 4, 2.5, 2.5: deviations -1.5, 1.5, 0, 0
    # covariance 2.25, sums of squares 4.5 and 4.5
    assert rank_correlation(a, b).tolist() == pytest.approx([0.5])


maps = hnp.arrays(np.float64, (3, 4, 5), elements=st.integers(-3, 3).map(float))


@given(a=maps, b=maps)
@settings(max_examples=50, deadline=None)
def test_rank_correlation_is_pandas_rank_and_pearson(a: np.ndarray, b: np.ndarray) -> None:
    found = rank_correlation(a, b)
    for x, y, value in zip(a.reshape(3, -1), b.reshape(3, -1), found, strict=True):
        ranks = [pd.Series(v).rank().to_numpy() for v in (x, y)]
        if min(r.std() for r in ranks) == 0:
            assert value == 0
        else:
            assert value == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-12)


@given(a=maps, b=maps, scale=st.sampled_from([1e-200, 1e-3, 7.0, 1e200]))
@settings(max_examples=50, deadline=None)
def test_scale_does_not_matter_and_rank_ignores_monotonic_change(a: np.ndarray, b: np.ndarray, scale: float) -> None:
    assert np.allclose(cosine_similarity(a, b), cosine_similarity(a * scale, b))
    assert np.allclose(rank_correlation(a, b), rank_correlation(np.exp(a), b * scale))
    assert np.allclose(cosine_similarity(a, b), cosine_similarity(b, a))
    assert (np.abs(cosine_similarity(a, b)) <= 1).all()


def test_an_empty_map_agrees_with_nothing() -> None:
    a = np.zeros((1, 2, 2))
    assert cosine_similarity(a, a).tolist() == rank_correlation(a, a + 1).tolist() == [0.0]


# Agreement of two networks


def test_a_network_agrees_with_itself_fully(tiny_data: Any) -> None:
    net = resnet()
    found = agreement(net, copy.deepcopy(net), tiny_data.test, draw(tiny_data.test, 20), batch_size=8)
    assert found.cosine == pytest.approx(np.ones(20))
    assert found.rank == pytest.approx(np.ones(20))
    assert (found.before == found.after).all()
    assert found.summary()[0]["same_answer"] == 1
    assert found.chance_cosine.mean() < 0.99


def test_another_network_agrees_less(tiny_data: Any) -> None:
    found = agreement(resnet(), resnet(seed=1), tiny_data.test, draw(tiny_data.test, 20))
    assert found.cosine.max() < 0.999
    assert found.rank.mean() < 0.9


def test_evidence_that_turned_against_the_class_is_disagreement() -> None:
    before, after = TwoLayers(), TwoLayers()
    after.head.weight.data *= -1
    split = LabelledImages(
        np.arange(1, 25, dtype=np.uint8).reshape(4, 1, 6, 1), np.arange(4) % 3, "abc", Normalisation((0.0,), (1.0,))
    )
    found = {start: agreement(before, after, split, range(4), "epsilon", start=start) for start in ("logit", "one")}
    assert found["logit"].cosine == pytest.approx(-np.ones(4), abs=1e-4)
    assert found["one"].cosine == pytest.approx(np.ones(4), abs=1e-4)


def test_batches_do_not_matter(tiny_data: Any) -> None:
    chosen = draw(tiny_data.test, 11)
    one, many = (agreement(resnet(), resnet(1), tiny_data.test, chosen, batch_size=size) for size in (64, 3))
    for field in dataclasses.fields(Agreement)[1:]:
        assert getattr(one, field.name) == pytest.approx(getattr(many, field.name), abs=1e-4), field.name
    assert len(many.chance_cosine) == 10


def test_agreement_is_that_of_the_heatmaps(tiny_data: Any) -> None:
    before, after = resnet(), resnet(1)
    chosen = [7, 3, 5]
    found = agreement(before, after, tiny_data.test, chosen)
    shown = explain([before, after], tiny_data.test, chosen)
    assert [item.index for item in shown] == chosen
    assert found.cosine == pytest.approx([item.cosine[1] for item in shown])
    assert found.rank == pytest.approx([item.rank[1] for item in shown])
    a, b = (np.stack([item.relevance[0] for item in shown[cut]]) for cut in (slice(0, 2), slice(1, 3)))
    assert found.chance_cosine == pytest.approx(cosine_similarity(a, b))
    assert [row["image"] for row in found.rows()] == [3, 5, 7]
    assert {row["image"]: row["cosine"] for row in found.rows()} == pytest.approx(
        dict(zip(chosen, found.cosine, strict=True))
    )


def test_summary_by_outcome_and_class() -> None:
    found = Agreement(
        class_names=("a", "b"),
        indices=np.array([4, 2, 9, 0, 1]),
        labels=np.array([0, 0, 0, 1, 1]),
        before=np.array([0, 0, 1, 0, 1]),
        after=np.array([0, 1, 1, 7, 1]),
        cosine=np.array([0.5, 0.1, 0.3, 0.2, 1.0]),
        rank=np.array([0.0, 0.2, 0.4, 0.6, 0.8]),
        chance_cosine=np.array([0.1, 0.2, 0.3, 0.4]),
        chance_rank=np.array([0.0, 0.0, 0.0, 0.1]),
    )
    rows = {row["name"]: row for row in found.summary()}
    assert list(rows) == [
        "all images",
        "different images (chance)",
        "both right",
        "only before right",
        "only after right",
        "both wrong",
        "a",
        "b",
    ]
    assert [row["images"] for row in rows.values()] == [5, 4, 2, 1, 0, 2, 3, 2]
    assert rows["all images"]["cosine_mean"] == pytest.approx(0.42)
    assert [rows["all images"][f"rank_{q}"] for q in ("q1", "median", "q3")] == pytest.approx([0.2, 0.4, 0.6])
    assert rows["both right"]["cosine_median"] == pytest.approx(0.75)
    assert rows["both wrong"]["same_answer"] == 0.5
    assert rows["only after right"]["cosine_mean"] is None
    assert rows["different images (chance)"]["rank_mean"] == pytest.approx(0.025)
    assert rows["a"]["cosine_mean"] == pytest.approx(0.3)
    assert found.rows()[0] == {
        "image": 0,
        "class": "b",
        "predicted_before": "a",
        "predicted_after": "output 7",
        "cosine": 0.2,
        "rank": 0.6,
    }


def test_networks_see_their_own_normalisation(tiny_data: Any) -> None:
    torch.manual_seed(0)
    before = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 26 * 26, 10))
    after = copy.deepcopy(before)
    # the same function of pixels: inputs half as large, weights twice
    after[0].weight.data *= 2
    whole = tiny_data.test.replace(normalisation=Normalisation((0.0,), (1.0,)))
    half = whole.replace(normalisation=Normalisation((0.0,), (2.0,)))
    found = agreement(before, after, [whole, half], [0, 1, 2])
    assert (found.before == found.after).all()
    assert found.cosine == pytest.approx(np.ones(3), abs=1e-5)
    assert agreement(before, after, whole, [0, 1, 2]).cosine.max() < 1 - 1e-4


@pytest.mark.parametrize(
    ("after", "message"),
    [
        (lambda: resnet(num_classes=3), r"'network 2' gives 3 outputs, 'network 1' 10: .*same classes"),
        (lambda: resnet(in_channels=3), r"'network 2' cannot be explained on images of shape \[1, 28, 28\]: .*; give"),
    ],
)
def test_networks_that_cannot_be_compared(tiny_data: Any, after: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        agreement(resnet(), after(), tiny_data.test, [0])
    with pytest.raises(RequestError, match=message):
        explain([resnet(), after()], tiny_data.test, [0])


def test_too_few_outputs_for_the_data(tiny_data: Any) -> None:
    with pytest.raises(RequestError, match="'small' gives 3 outputs, the data has 10 classes"):
        check_outputs([resnet(num_classes=3)], tiny_data.test, names=["small"])


@pytest.mark.parametrize(("indices", "wrong"), [([0, 200], 200), ([-1], -1)])
def test_an_image_beyond_the_split_is_named(tiny_data: Any, indices: list[int], wrong: int) -> None:
    for work in (
        lambda: explain([resnet()], tiny_data.test, indices),
        lambda: agreement(resnet(), resnet(), tiny_data.test, indices),
        lambda: strongest_units(resnet(), tiny_data.test, indices),
    ):
        with pytest.raises(RequestError, match=f"image {wrong} is not among the 200 .* 0 to 199"):
            work()


def test_no_image_no_explanation(tiny_data: Any) -> None:
    with pytest.raises(RequestError, match="at least one image"):
        explain([resnet()], tiny_data.test, [])


def test_networks_come_back_as_they_were(tiny_data: Any) -> None:
    net = resnet().train()
    weights = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    agreement(net, net, tiny_data.test, [0, 1])
    strongest_units(net, tiny_data.test, [0, 1])
    assert net.training
    assert all(torch.equal(tensor, weights[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("composite", some_slow(sc.composites.registry, "smoothgrad", "integrated-gradients"))
def test_every_composite_by_name(tiny_data: Any, composite: str) -> None:
    net = resnet()
    found = agreement(net, copy.deepcopy(net), tiny_data.test, [0, 1], composite)
    assert found.cosine == pytest.approx(np.ones(2))
    assert strongest_units(net, tiny_data.test, [0, 1], 1, composite)


# Choosing images


def test_draws_follow_the_seed_and_grow() -> None:
    split = images([0, 1, 2] * 10)
    assert draw(split, 8, 1) == draw(split, 12, 1)[:8] != draw(split, 8, 2)
    assert sorted(draw(split, 500)) == list(range(30))
    assert draw(split, 0) == []


def test_draws_per_class_are_balanced() -> None:
    split = images([0] * 20 + [1] * 2 + [2] * 9)
    chosen = draw_per_class(split, 4, seed=3)
    assert np.bincount(split.labels[chosen]).tolist() == [4, 2, 4]
    assert len(set(chosen)) == 10
    assert chosen == draw_per_class(split, 4, seed=3) != draw_per_class(split, 4, seed=4)


@pytest.mark.parametrize("choose", [draw, draw_per_class])
def test_negative_counts_are_refused(choose: Any) -> None:
    with pytest.raises(RequestError, match="must not be negative, got -3"):
        choose(images([0, 1, 2]), -3)


def test_pictures_go_round_the_classes() -> None:
    split = images([2, 2, 2, 0, 0, 1])
    assert first_of_classes(split, 3) == [0, 3, 5]
    assert first_of_classes(split, 4) == [0, 1, 3, 5]
    assert first_of_classes(split, 50) == list(range(6))


# Units


class TwoLayers(nn.Module):
    """Unit k of the hidden layer passes pixel k; class c is the sum of units 2c and 2c + 1."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(6, 6, bias=False), nn.Linear(6, 3, bias=False)
        self.hidden.weight.data = torch.eye(6)
        self.head.weight.data = torch.eye(3).repeat_interleave(2, dim=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.hidden(x.flatten(1))))


def test_strongest_units_are_means_over_the_images_of_a_class() -> None:
    pixels = np.zeros((4, 1, 6, 1), np.uint8)
    pixels[0, 0, :2, 0] = 10, 30  # class 0: shares 0.25, 0.75
    pixels[1, 0, :2, 0] = 50, 50  # and 0.5, 0.5
    pixels[2, 0, 4:, 0] = 80, 20  # class 2: shares 0.8, 0.2
    pixels[3, 0, 0, 0] = 99  # not looked at
    split = LabelledImages(pixels, np.array([0, 0, 2, 0]), ("a", "b", "c"), Normalisation((0.0,), (1.0,)))
    rows = strongest_units(TwoLayers(), split, [0, 1, 2], top=2, composite="epsilon", start="one", batch_size=2)
    found = [(row["class"], row["layer"], row["unit"], round(row["relevance"], 4), row["rank"]) for row in rows]
    assert found == [
        ("a", "hidden", 1, 0.625, 1),
        ("a", "hidden", 0, 0.375, 2),
        ("c", "hidden", 4, 0.8, 1),
        ("c", "hidden", 5, 0.2, 2),
    ]


def test_strongest_units_do_not_depend_on_batches(tiny_data: Any) -> None:
    chosen = draw_per_class(tiny_data.test, 2)
    one, many = (strongest_units(resnet(), tiny_data.test, chosen, 3, batch_size=size) for size in (64, 7))
    assert [row["unit"] for row in one] == [row["unit"] for row in many]
    frame = pd.DataFrame(one)
    assert set(frame["class"]) == set("0123456789")
    assert "fc" not in set(frame["layer"])
    assert frame.groupby(["class", "layer"])["rank"].apply(list).map(lambda ranks: ranks == [1, 2, 3]).all()
    relevance = frame.pivot(index=["class", "layer"], columns="rank", values="relevance")
    assert (relevance[1] >= relevance[2]).all()


def test_the_number_of_units_is_checked(tiny_data: Any) -> None:
    with pytest.raises(RequestError, match="at least 1, got 0"):
        strongest_units(resnet(), tiny_data.test, [0], top=0)


# Records and page


def record(classes: int = 2) -> AgreementRecord:
    figures = dict.fromkeys(["cosine_mean", "cosine_q1", "cosine_median", "cosine_q3"], 0.75)
    figures |= dict.fromkeys(["rank_mean", "rank_q1", "rank_median", "rank_q3"], -0.25)
    return AgreementRecord(
        groups=[
            AgreementGroup("all", "all images", 8, 0.5, **figures),
            AgreementGroup("outcome", "only after right", 0),
            *(AgreementGroup("class", f"class {place}", 4, 1.0, **figures) for place in range(classes)),
        ],
        counts={"cosine": [0, 0, 2, 6], "rank": [0, 8, 0, 0], "chance_cosine": [1, 1, 1, 1], "chance_rank": []},
    )


def units(classes: int = 2) -> list[ClassUnit]:
    return [
        ClassUnit(f"class {c}", layer, 10 * c + rank, 0.5 / rank, rank)
        for c in range(classes)
        for layer in ("conv1", "conv2")
        for rank in (1, 2)
    ]


def explained(agreement: AgreementRecord, units: list[ClassUnit]) -> Report:
    return Report("t", sections=[agreement, ClassUnits(units)])


def test_report_with_agreement_and_units_survives_json() -> None:
    report = explained(record(), units())
    text = json.dumps(report.to_json(), allow_nan=False)
    assert Report.from_json(json.loads(text)) == report


def test_page_shows_agreement_and_units() -> None:
    page = Page(render(explained(record(), units())))
    text = page.text.replace("\u202f", " ")
    assert "Does it still look at the same thing?" in text
    assert "0.75 (0.75 to 0.75)" in text
    assert "−0.25" in text
    assert "only after right0–" in text
    assert "11 (0.50) · 12 (0.25)" in text
    charts = page.charts()
    assert set(charts) == {"agreement-cosine", "agreement-rank"}
    bins = [(v["pair"], v["low"], v["high"], v["count"], v["share"]) for v in values_of(charts["agreement-cosine"])]
    assert bins[:2] == [("before and after", 0, 0.5, 2, 0.25), ("before and after", 0.5, 1, 6, 0.75)]
    assert {v["pair"] for v in values_of(charts["agreement-rank"])} == {"before and after"}


def test_of_many_classes_some_are_shown_and_the_page_says_so() -> None:
    text = Page(render(explained(record(100), units(100)))).text
    assert "(the first 40 of 100)" in text
    assert "The first 40 of 100 classes." in text
    assert "class 39" in text
    assert "class 40" not in text


def test_names_in_agreement_and_units_stay_text() -> None:
    found = dataclasses.replace(record(), groups=[AgreementGroup("class", EVIL, 1)])
    raw = render(explained(found, [ClassUnit(EVIL, EVIL, 1, 0.5, 1)]))
    assert "<script>alert" not in raw
    assert Page(raw).text.count(EVIL) == 3


def test_a_single_network_has_one_heatmap() -> None:
    page = Page(render(Report("t", sections=[Heatmaps([Heatmap("a cat", "A", "B")])])))
    assert [a["alt"] for t, a in page.elements if t == "img"] == ["Image: a cat", "Relevance: a cat"]


# The command


@pytest.fixture(scope="module")
def network(tmp_path_factory: Any) -> tuple[list[str], str]:
    """Options for a small network, and the bundle of what is left of it."""
    folder = tmp_path_factory.mktemp("explain")
    options = ["--model", "resnet20", "--set", "model.arguments={width: 4}", *SMALL]
    assert run(["train", *options, "--epochs", "1", "--out", str(folder)]) == 0
    options += ["--weights", str(folder / "resnet20.safetensors")]
    pruning = ["--macs", "0.6", "--criterion", "weight", "--schedule", "one-shot", "--set", "reference.per_class=2"]
    assert run(["prune", *options, *pruning, "--out", str(folder / "half")]) == 0
    return options, str(folder / "half" / "bundle")


def test_explain_against_a_bundle(network: Any, tmp_path: Any, capsys: Any) -> None:
    options, bundle = network
    wanted = ["--against", bundle, "--image", "3", "--image", "0", "--image", "3", "--per-class", "2", "--top", "4"]
    code = run(["explain", *options, *wanted, "--agreement-images", "50", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert code == 0
    assert {p.name for p in tmp_path.iterdir()} == {
        *(f"image-{index}-{stage}.png" for index in (0, 3) for stage in ("before", "after")),
        "units.csv",
        "agreement.csv",
        "report.html",
        "report.json",
    }
    found = pd.read_csv(tmp_path / "agreement.csv")
    assert list(found) == ["image", "class", "predicted_before", "predicted_after", "cosine", "rank"]
    assert len(found) == 50
    assert found["image"].is_monotonic_increasing
    ranked = pd.read_csv(tmp_path / "units.csv")
    assert list(ranked) == ["class", "layer", "unit", "relevance", "rank"]
    assert ranked["rank"].max() == 4
    for word in ("units with the largest relevance", "both right", "different images (chance)", "agreement.csv"):
        assert word in printed
    report = load_report(tmp_path / "report.json")
    agreement, strongest = report.section(AgreementRecord), report.section(ClassUnits)
    assert agreement is not None
    assert strongest is not None
    whole = agreement.groups[0]
    assert (whole.kind, whole.images) == ("all", 50)
    assert whole.cosine_mean == pytest.approx(found["cosine"].mean())
    assert whole.rank_median == pytest.approx(found["rank"].median())
    assert sum(agreement.counts["cosine"]) == 50
    assert sum(agreement.counts["chance_rank"]) == 49
    assert len({unit.layer for unit in strongest.units}) == 3
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == render(report)
    assert "Does it still look at the same thing?" in render(report)


@pytest.mark.slow
def test_the_same_request_gives_the_same_tables_and_another_seed_others(network: Any, tmp_path: Any) -> None:
    options, bundle = network
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        few = ["--agreement-images", "20", "--per-class", "1", "--count", "1", "--seed", seed]
        assert run(["explain", *options, "--against", bundle, *few, "--out", str(tmp_path / name)]) == 0
    for table in ("agreement.csv", "units.csv"):
        a, b, c = ((tmp_path / name / table).read_text() for name in "abc")
        assert a == b != c


@pytest.mark.slow
def test_explain_alone_and_without_rankings(network: Any, tmp_path: Any) -> None:
    options, bundle = network
    assert run(["explain", *options, "--count", "2", "--per-class", "0", "--out", str(tmp_path / "a")]) == 0
    assert sorted(p.suffix for p in (tmp_path / "a").iterdir()) == [".html", ".json", ".png", ".png"]
    few = ["--count", "1", "--per-class", "0", "--agreement-images", "0"]
    assert run(["explain", *options, "--against", bundle, *few, "--out", str(tmp_path / "b")]) == 0
    assert not (tmp_path / "b" / "agreement.csv").exists()
    assert load_report(tmp_path / "b" / "report.json").section(AgreementRecord) is None


@pytest.mark.slow
@pytest.mark.parametrize("start", ["logit", "one", "contrast"])
def test_every_start_by_name(network: Any, tmp_path: Any, start: str) -> None:
    few = ["--count", "1", "--per-class", "1", "--start", start, "--composite", "epsilon-gamma-box"]
    assert run(["explain", *network[0], *few, "--out", str(tmp_path)]) == 0
    assert "epsilon-gamma-box" in load_report(tmp_path / "report.json").subtitle
    assert "fc" not in set(pd.read_csv(tmp_path / "units.csv")["layer"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image", "4000"], "there is no test image 4000; the test split has images 0 to 119"),
        (["--image", "-1"], "there is no test image -1; they are counted from 0"),
        (["--count", "0"], "Invalid value for '--count'"),
        (["--per-class", "-1"], "Invalid value for '--per-class'"),
        (["--agreement-images", "-1"], "Invalid value for '--agreement-images'"),
        (["--top", "0"], "Invalid value for '--top'"),
        (["--against", "/nowhere/bundle"], "'/nowhere/bundle' is not a bundle"),
        (["--against", "/nowhere/bundle", "--dry-run"], "'/nowhere/bundle' is not a bundle"),
        (["--composite", "epsilon-pluss"], "unknown composite 'epsilon-pluss' (did you mean 'epsilon-plus'?)"),
        (["--start", "loss"], "unknown start 'loss'; known: logit, one, contrast"),
    ],
)
def test_wrong_requests_are_one_line_and_exit_2(
    network: Any, tmp_path: Any, capsys: Any, arguments: list[str], message: str
) -> None:
    capsys.readouterr()
    code = run(["explain", *network[0], *arguments, "--out", str(tmp_path / "x")])
    lines = capsys.readouterr().err.splitlines()
    assert code == 2, lines
    assert message in lines[0]
    assert len(lines) == 1
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "channels", "message"),
    [
        ({"num_classes": 3}, 0, "'{bundle}' gives 3 outputs, 'resnet20' 10"),
        ({"in_channels": 3}, 0, "'{bundle}' cannot be explained on images of shape [1, 28, 28]: "),
        ({"in_channels": 3}, 3, "bundle '{bundle}' takes 3 channel(s), the images have 1"),
    ],
)
def test_a_bundle_of_another_kind_is_one_line(
    network: Any, tmp_path: Any, capsys: Any, changes: dict[str, int], channels: int, message: str
) -> None:
    record = {"normalisation": {"mean": [0.5] * channels, "std": [0.5] * channels}} if channels else {}
    bundle = sc.save(resnet(**changes), tmp_path / "other", data=record)
    capsys.readouterr()
    assert run(["explain", *network[0], "--against", str(bundle), "--out", str(tmp_path / "x")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message.format(bundle=bundle) in lines[0]


@pytest.mark.slow
def test_images_have_the_size_that_the_bundle_records(network: Any, tmp_path: Any, capsys: Any) -> None:
    options, bundle = network
    size = {"size": 20, "crop": 16, "interpolation": "bilinear"}
    resized = str(sc.save(sc.load(bundle), tmp_path / "resized", data={"resize": size}))
    few = ["--count", "1", "--per-class", "0", "--agreement-images", "2"]
    assert run(["explain", *options, "--against", resized, *few, "--out", str(tmp_path / "out")]) == 0
    assert f"images as bundle '{resized}' records: shorter side 20, centre crop 16, bilinear" in capsys.readouterr().err
    with Image.open(next((tmp_path / "out").glob("image-*-before.png"))) as heatmap:
        assert heatmap.width == heatmap.height
    heatmaps = load_report(tmp_path / "out" / "report.json").section(Heatmaps)
    assert heatmaps is not None
    other = str(sc.save(sc.load(bundle), tmp_path / "other", data={"resize": {"size": 24}}))
    asked = ["explain", "--model", resized, *options[4:-2], "--against", other]
    assert run([*asked, "--out", str(tmp_path / "x")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "takes images of shorter side 20" in line
    assert "say with data.resize which size both are given" in line
    assert run([*asked, *few, "--set", "data.resize=16", "--dry-run"]) == 0
