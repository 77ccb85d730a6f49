"""CUB-200-2011 as it is unpacked: its split, its classes, its boxes; and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import secateur as sc
from secateur.data import DataSettings, Resize
from secateur.data.settings import TableSettings
from secateur.data.sources import read_table

NAMES = ("001.Black_footed_Albatross", "002.Laysan_Albatross")


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """24 pictures of two kinds: grey, with a square of the kind's colour, which is the box."""
    folder = tmp_path / "CUB_200_2011"
    lists: dict[str, list[str]] = {name: [] for name in ("images", "labels", "split", "boxes")}
    for number in range(1, 25):
        kind = number % 2
        name = f"{NAMES[kind]}/{number:03}.png"
        pixels = np.full((40, 60, 3), 128, np.uint8)
        pixels[10:30, 20:40] = (255, 0, 0) if kind else (0, 0, 255)
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / "images" / name)
        lists["images"].append(f"{number} {name}")
        lists["labels"].append(f"{number} {kind + 1}")
        lists["split"].append(f"{number} {int(number > 8)}")
        lists["boxes"].append(f"{number} 20.0 10.0 20.0 20.0")
    files = {"images": "images", "labels": "image_class_labels", "split": "train_test_split", "boxes": "bounding_boxes"}
    for name, lines in lists.items():
        (folder / f"{files[name]}.txt").write_text("\n".join(lines) + "\n")
    (folder / "classes.txt").write_text(f"1 {NAMES[0]}\n2 {NAMES[1]}\n")
    return folder


def settings(folder: Path, **changes: object) -> DataSettings:
    return DataSettings(source=str(folder), resize=Resize(size=16), **changes)  # type: ignore[arg-type]


def test_the_published_split_and_names_are_used(birds: Path) -> None:
    data = sc.open_data(settings(birds))
    assert data.class_names == ("Black footed Albatross", "Laysan Albatross")
    assert len(data.test) == 8
    assert len(data.train) + len(data.val) == 16
    assert data.assignment is not None
    tested = {name for name, split in zip(data.assignment.ids, data.assignment.splits, strict=True) if split == "test"}
    assert tested == {f"{NAMES[n % 2]}/{n:03}.png" for n in range(1, 9)}
    assert data.test.labels.tolist() == [n % 2 for n in range(1, 9)]


def test_crops_hold_the_bird_alone(birds: Path) -> None:
    whole = sc.open_data(settings(birds)).test.raw([0])[0]
    cropped = sc.open_data(settings(birds, table=TableSettings(crop=True))).test.raw([0])[0]
    assert (whole == 128).any()
    assert cropped[0].unique().tolist() == [255]
    assert cropped[2].unique().tolist() == [0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cache": "never"}, "crop=true cannot be met: data.cache=never"),
        ({"augmentation": "resized-crop-flip"}, "crop=true cannot be met: augmentation"),
    ],
)
def test_crops_that_cannot_be_kept_are_refused(birds: Path, changes: dict, message: str) -> None:
    with pytest.raises(sc.RequestError, match=message):
        sc.open_data(settings(birds, table=TableSettings(crop=True), **changes))


def test_other_sources_have_no_boxes(tmp_path: Path, birds: Path) -> None:
    with pytest.raises(sc.RequestError, match="needs bounding boxes"):
        sc.open_data(settings(birds / "images", table=TableSettings(crop=True)))


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("train_test_split.txt", None, "lacks train_test_split.txt"),
        ("classes.txt", None, "lacks classes.txt"),
        ("bounding_boxes.txt", None, "lacks bounding_boxes.txt"),
        ("bounding_boxes.txt", "1 20 10 20\n", "images.txt line 1: '20 10 20' in bounding_boxes.txt are no four"),
        ("bounding_boxes.txt", "1 90 10 20 20\n", "image 2 is not in bounding_boxes.txt"),
        ("image_class_labels.txt", "1 2\n", "images.txt line 2: image 2 is not in image_class_labels.txt"),
        ("image_class_labels.txt", "1 7\n", "images.txt line 2"),
        ("train_test_split.txt", "1 5\n", "images.txt line 2"),
        ("images.txt", "1\n", "line 1: '1' is no number and value"),
        ("images.txt", "1 nowhere.png\n", r"images.txt line 1: .*nowhere.png' does not exist"),
        ("classes.txt", f"1 {NAMES[0]}\n2 {NAMES[0]}\n", "has a class twice"),
    ],
)
def test_broken_lists_are_named(birds: Path, file: str, text: str | None, message: str) -> None:
    (birds / file).unlink() if text is None else (birds / file).write_text(text)
    with pytest.raises(sc.RequestError, match=message):
        read_table(settings(birds, table=TableSettings(crop=True)))


def test_boxes_beside_the_image_are_named_with_their_row(birds: Path) -> None:
    lines = (birds / "bounding_boxes.txt").read_text().splitlines()
    (birds / "bounding_boxes.txt").write_text("\n".join(["1 90 10 20 20", *lines[1:]]))
    with pytest.raises(sc.RequestError, match=r"images.txt line 1: .* its box .* lies outside"):
        sc.open_data(settings(birds, table=TableSettings(crop=True)))


def test_images_that_are_missing_can_be_left_out(birds: Path) -> None:
    (birds / "images" / NAMES[1] / "001.png").unlink()
    data = sc.open_data(settings(birds, table=TableSettings(crop=True), on_bad_sample="skip"))
    assert len(data.test) == 7
    assert len(data.skipped) == 1
