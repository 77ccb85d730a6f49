"""Synthetic lesions: the published layouts, counts, masks, and the same pictures for the same seed."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from secateur.cli.main import app
from secateur.core.errors import RequestError
from secateur.core.randomness import numpy_generator
from secateur.data.lesion_pictures import TRAITS, draw, lesion, view
from secateur.data.synthetic import COUNTS, _rows, write_lesions

SMALL = {"scale": 0.002, "size": (64, 48)}


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def kaggle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lesions(tmp_path_factory.mktemp("synthetic") / "kaggle", masks=True, **SMALL)


def test_whole_set_has_the_published_counts() -> None:
    rows = _rows(1.0, 0)
    assert len(rows) == 10015
    assert Counter(row.dx for row in rows) == {dx: images for dx, (images, _) in COUNTS.items()}
    lesions = Counter(row.lesion_id for row in rows)
    assert len(lesions) == 7470
    assert max(lesions.values()) == 4
    assert len({row.image_id for row in rows}) == 10015
    assert 20 < sum(row.age == "" for row in rows) < 150


def test_pictures_of_a_lesion_share_all_but_their_id() -> None:
    told: dict[str, set[tuple[str, ...]]] = {}
    for row in _rows(0.05, 0):
        about = (row.dx, row.dx_type, row.age, row.sex, row.localization)
        told.setdefault(row.lesion_id, set()).add(about)
    assert all(len(each) == 1 for each in told.values())


def test_kaggle_layout(kaggle: Path) -> None:
    rows = _table(kaggle / "HAM10000_metadata.csv")
    assert list(rows[0]) == ["lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization"]
    parts = [{path.stem for path in (kaggle / f"HAM10000_images_part_{part}").iterdir()} for part in (1, 2)]
    assert not parts[0] & parts[1]
    assert parts[0] | parts[1] == {row["image_id"] for row in rows}
    assert min(Counter(row["dx"] for row in rows).values()) >= 6
    assert all(row["image_id"].startswith("SYN_") for row in rows)
    assert "SYNTHETIC" in (kaggle / "SYNTHETIC.txt").read_text()
    with Image.open(next((kaggle / "HAM10000_images_part_1").iterdir())) as picture:
        assert (picture.format, picture.size, picture.mode) == ("JPEG", (64, 48), "RGB")


def test_masks_cover_the_lesion(kaggle: Path) -> None:
    rows = _table(kaggle / "HAM10000_metadata.csv")
    pictures = {path.stem: path for path in kaggle.glob("HAM10000_images_part_*/*.jpg")}
    differences = []
    for row in rows:
        mask_file = kaggle / "HAM10000_segmentations_lesion_tumor" / f"{row['image_id']}_segmentation.png"
        with Image.open(mask_file) as opened, Image.open(pictures[row["image_id"]]) as picture:
            mask, pixels = np.asarray(opened) > 0, np.asarray(picture, float)
        assert 0.02 < mask.mean() < 0.9
        differences.append(np.abs(pixels[mask].mean(0) - pixels[~mask].mean(0)).max())
    assert np.median(differences) > 20  # lesions differ from the skin around them


def test_isic_layout_tells_the_same(tmp_path: Path, kaggle: Path) -> None:
    folder = write_lesions(tmp_path / "isic", layout="isic", **SMALL)
    truth = _table(folder / "ISIC2018_Task3_Training_GroundTruth" / "ISIC2018_Task3_Training_GroundTruth.csv")
    groups = _table(folder / "ISIC2018_Task3_Training_LesionGroupings.csv")
    assert list(truth[0]) == ["image", "MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"]
    told = {}
    for row, group in zip(truth, groups, strict=True):
        assert row["image"] == group["image"]
        assert (folder / "ISIC2018_Task3_Training_Input" / f"{row['image']}.jpg").is_file()
        (code,) = [name for name in list(row)[1:] if row[name] == "1.0"]
        told[row["image"]] = (code.lower(), group["lesion_id"])
    expected = {row["image_id"]: (row["dx"], row["lesion_id"]) for row in _table(kaggle / "HAM10000_metadata.csv")}
    assert told == expected


def test_same_seed_same_files(tmp_path: Path, kaggle: Path) -> None:
    again = write_lesions(tmp_path / "again", masks=True, **SMALL)
    for path in kaggle.rglob("*.*"):
        assert (again / path.relative_to(kaggle)).read_bytes() == path.read_bytes()
    other = write_lesions(tmp_path / "other", seed=1, **SMALL)
    assert (other / "HAM10000_metadata.csv").read_text() != (kaggle / "HAM10000_metadata.csv").read_text()


@pytest.mark.parametrize("dx", TRAITS)
def test_any_size_is_drawn(dx: str) -> None:
    for number, size in enumerate([(16, 16), (97, 31), (200, 150)]):
        random = numpy_generator(number, dx)
        picture, mask = draw(lesion(dx, random), view(random), size, random)
        assert picture.size == mask.size == size
        assert np.asarray(picture).std() > 3


def test_wrong_requests_change_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RequestError, match="is not empty; remove it"):
        write_lesions(tmp_path)
    for wrong, message in (
        ({"scale": 0.0}, "scale 0"),
        ({"scale": float("nan")}, "scale nan"),
        ({"layout": "zip"}, "unknown layout 'zip'"),
        ({"size": (8, 900)}, "size 8x900"),
    ):
        with pytest.raises(RequestError, match=message):
            write_lesions(tmp_path / "new", **wrong)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_command_says_that_they_are_synthetic(tmp_path: Path) -> None:
    folder = tmp_path / "lesions"
    done = CliRunner().invoke(app, ["data", "synthesise", str(folder), "--scale", "0.001", "--size", "32x24"])
    assert done.exit_code == 0, done.output
    assert "43 synthetic pictures of 7 classes" in done.output
    assert "drawn, not photographed" in done.output
    wrong = CliRunner().invoke(app, ["data", "synthesise", str(folder), "--size", "large"])
    assert "--size needs width and height" in str(wrong.exception)
