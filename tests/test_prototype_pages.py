"""Pages of prototypes: where they come from, which stay, what they say of images; drawn from records alone."""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import secateur as sc
from secateur.core.errors import RequestError
from secateur.data import LabelledImages, Normalisation
from secateur.models.prototype_network import PrototypeNetwork
from secateur.prototypes import (
    Projection,
    PrototypeDecision,
    PrototypePruneSettings,
    PrototypeTrainSettings,
    PrunedPrototypes,
    disable_prototypes,
    explain_images,
    nearest_patches,
    project,
    prune_prototypes,
    remove_prototypes,
)
from secateur.prototypes.pages import decisions, gallery, local, prototypes_used
from secateur.reports import (
    Conditions,
    PrototypeExplanations,
    PrototypeGallery,
    PrototypePruning,
    PrunedStage,
    Report,
    load_report,
    render,
    save_prototype_figure,
    write_report,
)
from secateur.reports.prototype_pictures import decoded, picture
from test_report import EVIL, Page

CLASSES, PER_CLASS, SIDE = ("cat", "dog", "frog"), 4, 16


def images(count: int = 18, planes: int = 3, names: tuple[str, ...] = CLASSES) -> LabelledImages:
    pixels = np.random.default_rng(0).integers(0, 255, (count, SIDE, SIDE, planes), np.uint8)
    normal = Normalisation((0.5,) * 3, (0.2,) * 3)
    return LabelledImages(pixels, np.arange(count) % len(names), names, normal)


def built(per_class: int) -> PrototypeNetwork:
    small: dict[str, Any] = {"backbone_arguments": {"width": 4}, "channels": 8, "image_size": SIDE}
    network = sc.build("prototype-network", num_classes=3, per_class=per_class, **small).eval()
    assert isinstance(network, PrototypeNetwork)
    return network


@dataclasses.dataclass(frozen=True)
class Made:
    network: PrototypeNetwork
    train: LabelledImages
    projection: Projection
    pruned: PrunedPrototypes


@pytest.fixture(scope="module")
def made() -> Made:
    torch.manual_seed(0)
    network = built(PER_CLASS)
    train = images()
    projection = project(network, train, progress=False)
    settings = PrototypePruneSettings(criterion="usage", budget=0.5, k=5, last_iterations=2)
    pruned = prune_prototypes(network, train, images(9), settings, PrototypeTrainSettings(device="cpu"), progress=False)
    return Made(network, train, projection, pruned)


def shown(section: object, **held: Any) -> Page:
    return Page(render(Report("t", sections=[section], conditions=Conditions(**held))))


def csv_of(page: Page) -> list[dict[str, str]]:
    (link,) = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    return list(csv.DictReader(io.StringIO(base64.b64decode((link or "").partition(",")[2]).decode())))


def whole(made: Made, large: int = 24) -> PrototypeGallery:
    return gallery(made.network, made.projection, made.train, made.pruned.nearest, made.pruned.decisions, large=large)


def test_a_gallery_has_every_prototype_with_its_patch_in_the_colours_of_its_image(made: Made) -> None:
    found = whole(made)
    assert [card.number for card in found.prototypes] == [source.prototype for source in made.projection.sources]
    for card, source in zip(found.prototypes, made.projection.sources, strict=True):
        box = source.boxes["relevance"]
        pixels = made.train.images[source.patch.image][box.top : box.bottom, box.left : box.right]
        assert np.array_equal(decoded(card.crop), pixels)
        assert card.class_name == CLASSES[source.label] == CLASSES[source.patch.label]
        assert card.source == f"train image {source.patch.image}"
        assert card.duplicate_of == source.duplicate_of


def test_grey_images_stay_grey() -> None:
    torch.manual_seed(0)
    network = built(1)
    train = images(planes=1)
    found = gallery(network, project(network, train, boxes=("activation",), progress=False), train)
    assert found.cropped_by == "activation"
    assert [set(card.image.boxes) for card in found.prototypes if card.image] == [{"activation"}] * 3
    for card in found.prototypes:
        crop = decoded(card.crop)
        assert np.array_equal(crop[..., 0], crop[..., 2])


def test_a_gallery_says_which_stay_and_why_and_what_is_near(made: Made) -> None:
    found = whole(made)
    near = made.pruned.nearest
    for row, (card, decision) in enumerate(zip(found.prototypes, made.pruned.decisions, strict=True)):
        assert (card.kept, card.reason, card.score) == (decision.kept, decision.reason, decision.score)
        assert card.purity == pytest.approx(decision.purity)
        assert card.nearest_classes == [CLASSES[label] for label in near.labels[row]]
        if card.image is not None:
            assert [patch.class_name for patch in card.nearest] == card.nearest_classes
            assert [patch.same for patch in card.nearest] == [name == card.class_name for name in card.nearest_classes]
            assert all(set(patch.image.boxes) == {"relevance"} for patch in card.nearest)
    page = shown(found)
    assert "6 of 12 prototypes stay" in page.text
    rows = csv_of(page)
    assert [row["kept"] for row in rows] == [str(decision.kept) for decision in made.pruned.decisions]
    assert [row["class"] for row in rows] == [card.class_name for card in found.prototypes]


def test_without_a_decision_nothing_is_said_to_be_kept(made: Made) -> None:
    found = gallery(made.network, made.projection, made.train)
    page = shown(found)
    assert "12 prototypes of 3 classes" in page.text
    assert "kept" not in page.text
    assert "removed" not in page.text
    assert {card.purity for card in found.prototypes} == {None}
    assert not any(card.nearest for card in found.prototypes)


def test_kept_ones_are_beside_removed_ones_and_the_class_that_loses_most_comes_first(made: Made) -> None:
    gone = {1, 8, 9, 10}
    chosen = [
        PrototypeDecision(source.prototype, source.label, source.prototype not in gone, "so", 0.5)
        for source in made.projection.sources
    ]
    found = gallery(made.network, made.projection, made.train, made.pruned.nearest, chosen, large=4)
    large = [card for card in found.prototypes if card.image is not None]
    shown_large = sorted((card.class_name, bool(card.kept)) for card in large)
    assert shown_large == [("cat", False), ("cat", True), ("frog", False), ("frog", True)]
    text = shown(found).text.partition("Kept beside removed")[2]
    order = [text.index(f"Prototype {card.number}") for card in sorted(large, key=lambda card: not card.kept)]
    assert order[0] < order[2] < order[1] < order[3]  # cat kept, cat removed, frog kept, frog removed
    assert "frog 1 of 4 kept" in " ".join(text.split())


def test_of_many_prototypes_few_are_shown_large_and_all_are_listed(made: Made) -> None:
    few, all_of_them = whole(made, large=2), whole(made)
    assert sum(card.image is not None for card in few.prototypes) == 2
    assert sum(bool(card.nearest) for card in few.prototypes) == 2
    assert [card.number for card in few.prototypes] == [card.number for card in all_of_them.prototypes]
    many = PrototypeGallery(few.prototypes * 60)
    page = shown(many)
    assert "120 more are in the CSV" in page.text
    assert len(csv_of(page)) == 720


def test_a_gallery_of_a_pruned_network_shows_those_that_are_left(made: Made) -> None:
    slim = made.pruned.network
    near = nearest_patches(slim, made.train, k=3, progress=False)
    found = gallery(slim, made.projection, made.train, near)
    known = {card.number for card in found.prototypes if card.purity is not None}
    assert known == set(made.pruned.kept)
    first = next(card for card in found.prototypes if card.number == made.pruned.kept[1])
    assert first.nearest_classes == [CLASSES[label] for label in near.labels[1]]


def test_records_are_drawn_again_without_a_network(made: Made, tmp_path: Path) -> None:
    explained = explain_images(made.network, images(3).batch(range(3))[0], projection=made.projection, progress=False)
    sections = [
        decisions(made.pruned, CLASSES, made.projection, (3.0, 2.0)),
        whole(made),
        local(explained, images(3), made.projection, made.train, network=made.network),
    ]
    report = Report("t", sections=sections)
    page = write_report(report, tmp_path / "p.html")
    assert load_report(page) == report
    assert render(load_report(page)) == page.read_text()
    names = [part["section"] for part in json.loads(page.with_suffix(".json").read_text())["sections"]]
    assert names == ["prototypes/decisions", "prototypes/gallery", "prototypes/local"]


def test_decisions_say_what_pruning_cost_and_left(made: Made) -> None:
    found = decisions(made.pruned, CLASSES, made.projection, (3.25, 2.0))
    assert [stage.prototypes for stage in found.stages] == [12, 6, 6]
    assert [stage.accuracy for stage in found.stages] == [one.accuracy for one in made.pruned.measured.values()]
    assert found.stages[0].macs > found.stages[-1].macs
    assert [stage.used for stage in found.stages] == [3.25, None, 2.0]
    page = shown(found, data="pets", split="test")
    assert "6 of 12 prototypes go" in page.text
    assert "A decision used 3.2 prototypes before and uses 2.0 now." in page.text
    assert "Accuracy on 9 test samples of pets" in page.text
    charts = page.charts()
    for name in ("prototype-classes", "prototype-purity"):
        (values,) = charts[name]["datasets"].values()
        for state, count in (("kept", 6), ("removed", 6)):
            assert sum(value["prototypes"] for value in values if value["state"] == state) == count
    assert len(csv_of(page)) == 12


def test_accuracy_is_compared_with_its_interval() -> None:
    stages = [PrunedStage(name, 10, accuracy, accuracy, 100, 100) for name, accuracy in (("a", 0.9), ("b", 0.5))]
    row = {"number": 0, "class_name": "cat", "kept": True, "reason": "", "purity": 1.0}
    found = PrototypePruning(stages, [sc.reports.PrototypeDecisionRow(**row)], 6, samples=1000)  # type: ignore[arg-type]
    assert "−40.0" in shown(found).text


def test_of_very_many_classes_those_that_lose_most_are_drawn() -> None:
    rows = [
        sc.reports.PrototypeDecisionRow(number, f"class {number // 2}", number < 100 or number % 2 == 0, "", 0.5)
        for number in range(120)
    ]
    found = PrototypePruning([PrunedStage("unpruned", 120, 0.5, 0.5, 1, 1)], rows, 6)
    page = shown(found)
    (values,) = page.charts()["prototype-classes"]["datasets"].values()
    drawn = {value["class"] for value in values}
    assert len(drawn) == 40
    assert {f"class {place}" for place in range(50, 60)} <= drawn
    assert "40 classes of 60" in page.text


def test_contributions_that_are_shown_and_the_rest_add_up_to_the_logit(made: Made) -> None:
    some = images(4)
    explained = explain_images(made.network, some.batch(range(4))[0], top=3, projection=made.projection, progress=False)
    found = local(explained, some, made.projection, made.train, titles=["a.png", "b.png", "c.png", "d.png"])
    for image, item in zip(found.images, explained, strict=True):
        total = sum(match.contribution for match in image.matches) + image.rest
        assert total == pytest.approx(item.logits[item.target])
        assert image.image.boxes == {}
        for match, evidence in zip(image.matches, item.evidence, strict=True):
            assert match.number == evidence.prototype
            assert match.boxes["relevance"] == dataclasses.astuple(evidence.boxes["relevance"])
            assert match.source is not None
            assert match.heat == ""
    page = shown(found)
    assert "a.png" in page.text
    assert (
        f"{len([i for i in found.images if i.label == i.predicted])} of 4 images shown get their true class"
        in page.text
    )
    wrong = next(image for image in found.images if image.label != image.predicted)
    assert f"the network says {wrong.predicted} (true class: {wrong.label})" in page.text


def test_files_have_no_true_class_and_only_the_first_are_shown(made: Made) -> None:
    some = images(3)
    explained = explain_images(made.network, some.batch(range(3))[0], boxes=(), progress=False)
    found = local(explained, some, None, made.train, labelled=False, most=2)
    page = shown(found)
    assert [image.label for image in found.images] == ["", ""]
    assert "true class" not in page.text
    assert "The first 2 of 3 images" in page.text
    assert all(match.source is None and match.crop == "" for image in found.images for match in image.matches)


def test_a_prototype_that_is_switched_off_is_said_to_be(made: Made) -> None:
    off = disable_prototypes(made.network, [0])
    explained = explain_images(off, images(1).batch([0])[0], top=12, boxes=(), progress=False)
    found = local(explained, images(1), made.projection, made.train)
    (match,) = [match for match in found.images[0].matches if match.number == 0]
    assert (match.class_name, match.contribution) == ("", 0.0)
    assert "switched off" in shown(found).text


def test_prototypes_used_are_fewer_when_fewer_are_left(made: Made) -> None:
    one_each = remove_prototypes(made.network, [n for n in range(12) if n % PER_CLASS])
    assert 1 <= prototypes_used(one_each, images(70)) <= 3
    assert prototypes_used(made.network, images(70)) > prototypes_used(one_each, images(70))


def test_a_figure_for_papers_has_three_rows(made: Made, tmp_path: Path) -> None:
    explained = explain_images(made.network, images(2).batch(range(2))[0], top=3, progress=False)
    found = local(explained, images(2), made.projection, made.train, network=made.network)
    drawn = save_prototype_figure(found.images[0], tmp_path / "one.svg").read_text()
    assert drawn.count("<image") == 9
    for words in ("image", "relevance", "prototype", "receptive field", f"{found.images[0].matches[0].number} ("):
        assert words in drawn
    assert save_prototype_figure(found.images[0], tmp_path / "again.svg").read_text() == drawn
    several = save_prototype_figure(found, tmp_path / "several.svg").read_text()
    assert several.count("<image") == 6
    assert save_prototype_figure(found, tmp_path / "several.png").read_bytes()[:4] == b"\x89PNG"
    without = local(explained, images(2), made.projection, made.train)
    assert save_prototype_figure(without, tmp_path / "two.svg").read_text().count("<image") == 4
    with pytest.raises(RequestError, match="use .svg"):
        save_prototype_figure(found, tmp_path / "a.gif")
    with pytest.raises(RequestError, match="explain images first"):
        save_prototype_figure(PrototypeExplanations([]), tmp_path / "a.svg")


def test_whatever_classes_are_called_stays_text(made: Made) -> None:
    evil = dataclasses.replace(made, train=made.train.replace(class_names=(EVIL, "dog", "frog")))
    explained = explain_images(made.network, images(1).batch([0])[0], projection=made.projection, progress=False)
    sections = [
        decisions(made.pruned, evil.train.class_names, made.projection),
        whole(evil),
        local(explained, evil.train, made.projection, evil.train, network=made.network, titles=[EVIL]),
    ]
    raw = render(Report("t", sections=sections))
    assert "<script>alert" not in raw
    assert EVIL in Page(raw).text


def test_sections_without_content_leave_no_trace() -> None:
    empty = [PrototypeGallery([]), PrototypePruning([], [], 6), PrototypeExplanations([])]
    assert "Nothing has been measured yet" in Page(render(Report("t", sections=empty))).text


def test_large_pictures_are_scaled_down_and_odd_ones_refused() -> None:
    found = decoded(picture(np.full((600, 300, 3), (10, 200, 30), np.uint8)))
    assert found.shape == (256, 128, 3)
    assert np.abs(found.astype(int) - (10, 200, 30)).max() <= 3
    with pytest.raises(RequestError, match=r"shape \[8, 8, 5\] cannot be shown"):
        picture(np.zeros((8, 8, 5), np.uint8))
    with pytest.raises(RequestError, match="no picture"):
        decoded("https://example.org/a.png")
