"""Duplicates of images, and ``secateur data check``: leakage, broken files, counts, the page."""

from __future__ import annotations

import csv
import itertools
import json
import shutil
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from typer.testing import CliRunner, Result

from secateur.cli.main import app, run
from secateur.core.errors import RequestError
from secateur.data import duplicates
from secateur.data.duplicates import exact_duplicates, fingerprints, near_duplicates, near_pairs
from secateur.data.inspection import inspect
from secateur.data.settings import DataSettings, SplitSettings
from secateur.data.sources import open_data, read_table
from secateur.data.splits import assigned, write_assignment
from secateur.data.synthetic import write_lesions
from secateur.data.verdicts import verdict

Table = list[dict[str, str]]


@pytest.fixture(scope="module")
def lesions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """113 synthetic pictures in the layout of HAM10000."""
    return write_lesions(tmp_path_factory.mktemp("check") / "lesions", scale=0.01, size=(112, 84))


@pytest.fixture(scope="module")
def pictures(lesions: Path) -> list[Path]:
    return sorted(lesions.glob("*/*.jpg"))


@pytest.fixture
def table(tmp_path: Path, lesions: Path) -> tuple[Path, Table]:
    """A table whose splits are clean, and its rows; write it with `_written`."""
    found = read_table(DataSettings(source=str(lesions)))
    split = assigned(found, DataSettings().split, 0)
    rows = []
    for path, label, group, name in zip(found.paths, found.labels, found.groups or (), split.splits, strict=True):
        shutil.copy(path, tmp_path / path.name)
        rows.append({"image": path.name, "label": found.class_names[label], "lesion_id": group, "split": name})
    return tmp_path / "lesions.csv", rows


def _written(table: tuple[Path, Table]) -> Path:
    path, rows = table
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def _check(source: Path | str, *options: str) -> Result:
    return CliRunner().invoke(app, ["data", "check", str(source), *options])


def _first(rows: Table, split: str, nth: int = 0) -> dict[str, str]:
    return [row for row in rows if row["split"] == split][nth]


def _copied(table: tuple[Path, Table], row: dict[str, str], change: Callable[[Path, Path], Any], **columns: str) -> str:
    """A copy of a picture as a new row of the table."""
    folder, rows = table[0].parent, table[1]
    name = f"copy_{len(rows)}.jpg"
    change(folder / row["image"], folder / name)
    rows.append({**row, "image": name, **columns})
    return name


def _altered(source: Path, target: Path) -> None:
    """The same picture at another size, lighter, compressed again."""
    with Image.open(source) as picture:
        ImageEnhance.Brightness(picture.resize((150, 112))).enhance(1.1).save(target, quality=70)


# ---------------------------------------------------------------- duplicates


def test_altered_copies_are_found_and_other_pictures_are_not(tmp_path: Path, pictures: list[Path]) -> None:
    def saved(change: Callable[[Image.Image], Image.Image], quality: int = 90) -> Callable[[Path, Path], None]:
        return lambda source, target: change(Image.open(source)).save(target, quality=quality)

    changes = (
        saved(lambda picture: picture.resize((70, 52))),
        saved(lambda picture: picture, quality=40),
        saved(lambda picture: ImageEnhance.Brightness(picture).enhance(1.12)),
        saved(lambda picture: picture.resize((200, 150)), quality=60),
    )
    copies = []
    for number, (change, source) in enumerate(itertools.product(changes, pictures[::6])):
        copies.append(tmp_path / f"{number}.jpg")
        change(source, copies[-1])
    found = near_pairs(fingerprints([*pictures, *copies]))
    originals = list(range(0, len(pictures), 6))
    paired = {(one, two) for one, two in found.rows.tolist() if one < len(pictures) <= two}
    wanted = {(originals[number % len(originals)], len(pictures) + number) for number in range(len(copies))}
    assert not paired - wanted  # a copy is like no other picture
    assert len(paired & wanted) >= 0.97 * len(wanted)
    assert not [pair for pair in found.rows.tolist() if max(pair) < len(pictures)]
    assert found.complete


def test_pairs_are_those_of_comparing_each_with_each(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    base = random.integers(0, 256, (12, 24, 24, 3), np.uint8)
    noisy = np.clip(base[random.integers(0, 12, 60)].astype(int) + random.normal(0, 14, (60, 24, 24, 3)), 0, 255)
    found = fingerprints(noisy.astype(np.uint8))
    distances = [
        [sum((int(a) ^ int(b)).bit_count() for a, b in zip(one, two, strict=True)) for two in found.hashes]
        for one in found.hashes
    ]
    alike = found.small @ found.small.T
    expected = [
        [one, two]
        for one, two in itertools.combinations(range(60), 2)
        if distances[one][two] <= 14 and alike[one, two] >= 0.9
    ]
    assert 10 < len(expected) < 1000
    for block in (7, 256):
        monkeypatch.setattr(duplicates, "_BLOCK", block)
        pairs = near_pairs(found, alike=0.9)
        assert sorted(pairs.rows.tolist()) == expected
        assert [distances[one][two] for one, two in pairs.rows] == pairs.distance.tolist()
    monkeypatch.setattr(duplicates, "MOST_PAIRS", 5)
    few = near_pairs(found, alike=0.9)
    assert len(few) == 5
    assert not few.complete


def test_even_pictures_are_not_compared() -> None:
    grey = np.full((1, 20, 20, 3), 128, np.uint8)
    picture = np.random.default_rng(0).integers(0, 256, (1, 20, 20, 3), np.uint8)
    found = fingerprints(np.concatenate([grey, grey, grey + 1, picture]))
    assert found.flat.tolist() == [True, True, True, False]
    assert len(near_pairs(found)) == 0
    assert exact_duplicates(found) == [[0, 1]]


def test_near_duplicates_count_across_splits_and_groups() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    images = np.stack([images[0], images[0] // 2 + 60, images[0], images[1]])
    splits = ["train", "test", "test", "val"]
    assert near_duplicates(images, splits) == [(0, 1), (0, 2)]
    assert near_duplicates(images, splits, ["a", "a", "b", "c"]) == [(0, 2)]
    assert near_duplicates(images, ["train"] * 4) == []
    assert near_duplicates(list(images), splits) == [(0, 1), (0, 2)]
    with pytest.raises(RequestError, match="4 images, but 3 splits"):
        near_duplicates(images, splits[:3])


def test_images_that_are_made_when_asked_for_are_not_kept() -> None:
    asked: list[int] = []
    gone: list[None] = []
    most = [0]
    lock = threading.Lock()

    class Lazy:
        def __len__(self) -> int:
            return 200

        def __getitem__(self, row: int) -> np.ndarray:
            image = np.random.default_rng(row % 150).integers(0, 256, (16, 16, 3), np.uint8)
            weakref.finalize(image, gone.append, None)
            with lock:
                asked.append(row)
                most[0] = max(most[0], len(asked) - len(gone))
            return image

    splits = ["train"] * 150 + ["test"] * 50
    assert near_duplicates(Lazy(), splits, workers=2) == [(row, row + 150) for row in range(50)]
    assert sorted(asked) == list(range(200))  # each once
    assert most[0] < 20


# ---------------------------------------------------------------- inspection


def test_clean_data_have_no_leakage(table: tuple[Path, Table]) -> None:
    found = inspect(DataSettings(source=str(_written(table))))
    assert not found.leakage
    assert verdict(found).startswith("no leakage; ")
    assert found.findings()[0] == "No group and no file is in two splits."
    assert found.usable == found.files == len(table[1])
    assert sum(sum(each.images.values()) for each in found.classes) == len(table[1])
    assert found.sizes is not None
    assert found.sizes.smallest == found.sizes.largest == (112, 84)


def test_group_in_two_splits_leaks(table: tuple[Path, Table]) -> None:
    groups = [row["lesion_id"] for row in table[1]]
    several = [row for row in table[1] if groups.count(row["lesion_id"]) > 1 and row["split"] == "train"]
    several[0]["split"] = "test"
    done = _check(_written(table))
    assert done.exit_code == 1
    assert f"1 of {len({*groups})} groups are in several splits" in done.output
    assert several[0]["lesion_id"] in done.output


def test_same_file_in_two_splits_leaks(table: tuple[Path, Table], tmp_path: Path) -> None:
    name = _copied(table, _first(table[1], "train"), shutil.copy, split="test", lesion_id="other")
    source, out = _written(table), tmp_path / "out"
    done = _check(source, "--out", str(out))
    assert done.exit_code == 1
    assert run(["data", "check", str(source)]) == 1
    assert "1 image is the same, byte by byte, as one in another split" in done.output
    rows = list(csv.DictReader((out / "duplicates.csv").read_text().splitlines()))
    assert [(row["kind"], row["second"], row["second_split"]) for row in rows] == [("exact", name, "test")]


def test_altered_copy_of_another_group_is_a_warning(table: tuple[Path, Table], tmp_path: Path) -> None:
    first = _first(table[1], "train")
    name = _copied(table, first, _altered, split="test", lesion_id="other", label="mel")
    _copied(table, _first(table[1], "train", 3), _altered, lesion_id="another")  # in the same split
    done = _check(_written(table), "--out", str(tmp_path / "out"))
    assert done.exit_code == 0, done.output
    assert "no leakage; 1 pair of near-duplicates across splits" in done.output
    assert "1 pair of near-duplicates of different groups in the same split" in done.output
    if first["label"] != "mel":
        assert "1 pair of duplicates with different classes" in done.output
    page = (tmp_path / "out" / "check.html").read_text()
    assert name in page
    assert page.count("data:image/jpeg;base64,") == 4


def test_broken_files_are_counted_by_reason(table: tuple[Path, Table]) -> None:
    folder, rows = table[0].parent, table[1]
    (folder / rows[0]["image"]).write_bytes(b"")
    (folder / rows[1]["image"]).write_text("no image")
    for row in rows[2:4]:
        whole = (folder / row["image"]).read_bytes()
        (folder / row["image"]).write_bytes(whole[: len(whole) // 2 + len(row["label"])])
    rows.append({**rows[5], "image": "absent.jpg"})
    found = inspect(DataSettings(source=str(_written(table))))
    assert found.files - found.usable == 4
    assert sorted(reason.count for reason in found.broken) == [1, 1, 2]
    assert found.broken[0].text.startswith("image file is truncated")
    assert {reason.text for reason in found.broken[1:]} == {"empty (zero bytes)", "cannot identify image file"}
    assert found.broken[0].examples == (rows[2]["image"], rows[3]["image"])
    (left_out,) = found.left_out
    assert left_out.count == 1
    assert "absent.jpg" in left_out.text
    assert verdict(found).startswith("no leakage; 4 broken files; 1 row that cannot be used")


def test_split_is_made_as_a_run_makes_it(lesions: Path, tmp_path: Path) -> None:
    settings = DataSettings(source=str(lesions), seed=3)
    found = inspect(settings)
    split = assigned(read_table(settings), settings.split, 3)
    counts = {name: sum(each.images[name] for each in found.classes) for name in found.splits}
    assert counts == {name: split.splits.count(name) for name in ("train", "val", "test")}
    assert any("synthetic" in note for note in found.notes)
    write_assignment(split, tmp_path / "split.csv")
    done = _check(lesions, "--split", str(tmp_path / "split.csv"), "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["split_by"] == f"by '{tmp_path / 'split.csv'}'"


def test_split_files_are_looked_at_where_images_are_broken(table: tuple[Path, Table], tmp_path: Path) -> None:
    for row in table[1]:
        del row["split"]
    source, file = _written(table), tmp_path / "split.csv"
    broken = tmp_path / table[1][0]["image"]
    whole = broken.read_bytes()
    for written, looked_at in ((b"", b""), (whole, b"")):  # the file lacks the image, or has it
        broken.write_bytes(written)
        settings = DataSettings(source=str(source), resize=8, on_bad_sample="skip")
        write_assignment(open_data(settings).assignment, file)
        broken.write_bytes(looked_at)
        done = _check(source, "--split", str(file), "--json")
        assert done.exit_code == 0, done.output
        assert sum(sum(each["images"].values()) for each in json.loads(done.stdout)["classes"]) == len(table[1]) - 1


def test_groups_in_several_splits_of_a_file_are_counted(table: tuple[Path, Table], tmp_path: Path) -> None:
    for row in table[1]:
        del row["split"]
    found = read_table(DataSettings(source=str(_written(table))))
    write_assignment(assigned(found, SplitSettings(by="image"), 0), tmp_path / "split.csv")
    done = _check(table[0], "--split", str(tmp_path / "split.csv"))
    assert done.exit_code == 1
    assert "groups are in several splits" in done.output


def test_split_by_image_leaks(lesions: Path) -> None:
    done = _check(lesions, "--split-by", "image")
    assert done.exit_code == 1
    assert "groups are in several splits" in done.output


def test_data_that_cannot_be_split_are_looked_at_all_the_same(table: tuple[Path, Table]) -> None:
    path, rows = table
    table = path, [{name: row[name] for name in ("image", "label", "lesion_id")} for row in rows]
    _copied(table, table[1][0], shutil.copy, label="rare", lesion_id="other")
    found = inspect(DataSettings(source=str(_written(table))))
    assert found.splits == ("all",)
    assert any("cannot be split: " in note for note in found.notes)
    assert not found.leakage
    assert sum(each.images["all"] for each in found.classes) == len(rows) + 1


def test_folders_and_archives(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (40, 16, 16), np.uint8)
    arrays = {}
    for split, part in (("train", slice(0, 24)), ("val", slice(24, 30)), ("test", slice(30, 40))):
        arrays |= {f"{split}_images": images[part], f"{split}_labels": np.arange(40)[part] % 2}
    np.savez(tmp_path / "clean.npz", **arrays)
    assert run(["data", "check", str(tmp_path / "clean.npz")]) == 0
    arrays["test_images"] = np.concatenate([images[30:39], images[:1]])
    np.savez(tmp_path / "leaking.npz", **arrays)
    done = _check(tmp_path / "leaking.npz")
    assert done.exit_code == 1
    assert "test 9 (test) and train 0 (train)" in done.output
    for split, part in (("train", range(24)), ("test", range(24, 40))):
        for row in part:
            folder = tmp_path / "folder" / split / ("even", "odd")[row % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[row]).save(folder / f"{row}.png")
    assert run(["data", "check", str(tmp_path / "folder")]) == 0
    shutil.copy(tmp_path / "folder" / "train" / "odd" / "1.png", tmp_path / "folder" / "test" / "even" / "1.png")
    done = _check(tmp_path / "folder")
    assert done.exit_code == 1
    assert "1 pair of duplicates with different classes" in done.output


# ---------------------------------------------------------------- command


def test_json_is_all_there_is_on_standard_output(
    table: tuple[Path, Table], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["data", "check", str(_written(table)), "--json", "--out", str(tmp_path / "out")])
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((tmp_path / "out" / "check.json").read_text())
    assert told["leakage"] is False
    assert told["classes"][0].keys() == {"name", "images", "groups"}
    assert told["duplicates"]["near"]["across_splits"] == 0
    assert (tmp_path / "out" / "duplicates.csv").read_text().startswith("kind,first,second,first_split")


def test_page_escapes_what_comes_from_the_data(table: tuple[Path, Table], tmp_path: Path) -> None:
    for row in table[1]:
        row["label"] = {"mel": "<b>mel</b>", "df": "</script><script>alert(1)"}.get(row["label"], row["label"])
        row["lesion_id"] = f"<i>{row['lesion_id']}"
    _first(table[1], "train")["split"] = "test"
    _copied(table, _first(table[1], "train"), shutil.copy, split="val")
    _check(_written(table), "--out", str(tmp_path / "out"))
    page = (tmp_path / "out" / "check.html").read_text()
    assert "&lt;b&gt;mel&lt;/b&gt;" in page
    for raw in ("<b>mel", "<script>alert", "<i>SYN"):
        assert raw not in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.csv"], "table 'absent.csv' does not exist"),
        (["cifar99"], "unknown data source 'cifar99'"),
        (["SOURCE", "--set", "train.epochs=3"], "only settings of the data count here"),
        (["SOURCE", "--set", "data.table.label=diagnosis"], "diagnosis"),
        (["SOURCE", "--split", "absent.csv"], "absent.csv"),
        (["SOURCE", "--split-by", "patient"], "patient"),
    ],
)
def test_wrong_requests(
    table: tuple[Path, Table],
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = _written(table)
    monkeypatch.chdir(source.parent)
    assert run(["data", "check", *(source.name if each == "SOURCE" else each for each in arguments)]) == 2
    told = capsys.readouterr()
    assert message in told.err
    assert len(told.err.strip().splitlines()) <= 2  # one of them: loading PyTorch
    assert not told.out


def test_split_file_of_other_data_is_refused(table: tuple[Path, Table], lesions: Path, tmp_path: Path) -> None:
    split = assigned(read_table(DataSettings(source=str(lesions))), DataSettings().split, 0)
    write_assignment(split, tmp_path / "split.csv")
    done = _check(_written(table), "--split", str(tmp_path / "split.csv"))
    assert isinstance(done.exception, RequestError)
    assert "is of other data than" in str(done.exception)
