import csv
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from secateur.core.errors import RequestError
from secateur.data import DataSettings, LabelledTable, check_source, open_data, read_table
from secateur.data.lesions import DIAGNOSES
from secateur.data.synthetic import write_lesions

CODES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
LESIONS, IMAGES = 4, 2  # of each class, and of each lesion
COUNT = len(CODES) * LESIONS * IMAGES
PARTS = ("HAM10000_images_part_1", "HAM10000_images_part_2")
HEADER = ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization")
TRUTH = "ISIC2018_Task3_Training_GroundTruth"
Rows = list[dict[str, str]]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path / "cache"))


def metadata() -> Rows:
    rest = {"dx_type": "histo", "age": "50.0", "sex": "male", "localization": "back"}
    return [
        {"lesion_id": f"HAM_{i // IMAGES:07d}", "image_id": f"ISIC_{24306 + i:07d}", "dx": dx} | rest
        for i, dx in enumerate(dx for dx in CODES for _ in range(LESIONS * IMAGES))
    ]


def picture(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)).save(path)


def write_csv(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, tuple(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """The images of all rows, written once."""
    folder = tmp_path_factory.mktemp("lesions")
    for i, row in enumerate(metadata()):
        picture(folder / f"{row['image_id']}.jpg", i)
    return folder


@pytest.fixture
def ham(tmp_path, images) -> Path:
    """As published: the metadata and two folders of images."""
    root = tmp_path / "ham"
    for number, part in enumerate(PARTS):
        (root / part).mkdir(parents=True)
        for row in metadata()[number * COUNT // 2 : (number + 1) * COUNT // 2]:
            shutil.copy(images / f"{row['image_id']}.jpg", root / part)
    write_csv(root / "HAM10000_metadata.csv", metadata())
    return root


@pytest.fixture
def isic(tmp_path, images) -> Path:
    """As the challenge ISIC 2018, task 3, gave it out."""
    root = tmp_path / "isic"
    shutil.copytree(images, root / "ISIC2018_Task3_Training_Input")
    write_csv(root / TRUTH / f"{TRUTH}.csv", truth())
    grouped = [
        {"image": row["image_id"], "lesion_id": row["lesion_id"], "diagnosis_confirm_type": "histopathology"}
        for row in metadata()
    ]
    write_csv(root / "ISIC2018_Task3_Training_LesionGroupings.csv", grouped)
    return root


def truth() -> Rows:
    order = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
    hot = [{code: f"{float(row['dx'].upper() == code)}" for code in order} for row in metadata()]
    return [{"image": row["image_id"]} | marks for row, marks in zip(metadata(), hot, strict=True)]


def read(root: Path, **settings) -> LabelledTable:
    return read_table(DataSettings(source=str(root), **settings))


def refusal(root: Path, call=read_table, **settings) -> str:
    with pytest.raises(RequestError) as caught:
        call(DataSettings(source=str(root), resize=8, **settings))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def is_whole(table: LabelledTable) -> bool:
    found = {id_: (CODES[label], lesion) for id_, label, lesion in zip(*columns(table), strict=True)}
    return found == {row["image_id"]: (row["dx"], row["lesion_id"]) for row in metadata()} and all(
        path.stem == id_ for id_, path in zip(table.ids, table.paths, strict=True)
    )


def columns(table: LabelledTable) -> tuple[tuple[str, ...], list[int], tuple[str, ...]]:
    assert table.groups is not None
    return table.ids, table.labels.tolist(), table.groups


# layouts


def test_classes_have_their_right_names(ham):
    assert read(ham).class_names == CODES == tuple(DIAGNOSES)
    assert DIAGNOSES["mel"] == "melanoma"
    assert DIAGNOSES["df"] == "dermatofibroma"
    assert DIAGNOSES["nv"] == "melanocytic nevus"


def merged(root: Path, name: str) -> None:
    (root / name).mkdir(exist_ok=True)
    for part in PARTS:
        for file in (root / part).iterdir():
            file.rename(root / name / file.name)
        (root / part).rmdir()


def renamed(root: Path, *pairs: tuple[str, str]) -> None:
    for old, new in pairs:
        (root / old).rename(root / new)


def nested(root: Path) -> None:
    for part in PARTS:  # as some archives are unpacked
        (root / "x").mkdir()
        (root / part).rename(root / "x" / part)
        (root / "x").rename(root / part)


def thumbnails(root: Path) -> None:
    (root / "8x8").mkdir()
    for file in (root / PARTS[0]).iterdir():
        (root / "8x8" / file.name).write_bytes(b"another picture of the same name")


LAYOUTS = {
    "as published": lambda root: None,
    "lower case": lambda root: renamed(root, *((part, part.lower()) for part in PARTS)),
    "no underscores": lambda root: renamed(root, *((part, part.replace("_", "")) for part in PARTS)),
    "blanks": lambda root: renamed(root, *((part, part.replace("_", " ")) for part in PARTS)),
    "hyphens": lambda root: renamed(root, *((part, part.replace("_", "-")) for part in PARTS)),
    "metadata without suffix": lambda root: renamed(root, ("HAM10000_metadata.csv", "HAM10000_metadata")),
    "metadata in lower case": lambda root: renamed(root, ("HAM10000_metadata.csv", "ham10000-metadata.CSV")),
    "metadata with tabs": lambda root: (
        (root / "HAM10000_metadata.csv")
        .rename(root / "HAM10000_metadata.tab")
        .write_text((root / "HAM10000_metadata.tab").read_text().replace(",", "\t"))
    ),
    "parts merged": lambda root: merged(root, "HAM10000_images"),
    "parts merged under another name": lambda root: merged(root, "all_images"),
    "images beside the metadata": lambda root: merged(root, "."),
    "parts twice": lambda root: [shutil.copytree(root / part, root / part.lower()) for part in PARTS],
    "folders in folders": nested,
    "other pictures of the same names": thumbnails,
    "side files of another system": lambda root: (root / PARTS[0] / "._ISIC_0024306.jpg").write_bytes(b"x"),
    "upper-case extensions": lambda root: [
        file.rename(file.with_suffix(".JPG")) for part in PARTS for file in (root / part).iterdir()
    ],
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_published_layouts(ham, name):
    LAYOUTS[name](ham)
    check_source(DataSettings(source=str(ham), resize=8))
    table = read(ham)
    assert is_whole(table)
    assert not any("8x8" in str(path) for path in table.paths)


def test_the_metadata_stand_for_their_folder(ham):
    assert is_whole(read(ham / "HAM10000_metadata.csv"))


def test_the_challenge(isic):
    table = read(isic)
    assert is_whole(table)
    assert table.where[0] == f"{TRUTH}.csv row 2"
    (isic / TRUTH / f"{TRUTH}.csv").rename(isic / f"{TRUTH}.csv")
    (isic / TRUTH).rmdir()
    assert is_whole(read(isic))


def test_opened_lesions_are_split_by_lesion(ham):
    data = open_data(DataSettings(source=str(ham), resize=8))
    assert (len(data.train), len(data.val), len(data.test)) == (28, 14, 14)
    parts: dict[str, set[str]] = {}
    for lesion, split in zip(data.assignment.groups, data.assignment.splits, strict=True):
        parts.setdefault(lesion, set()).add(split)
    assert all(len(found) == 1 for found in parts.values())
    assert not data.assignment.notes


def test_synthetic_lesions_are_called_so(tmp_path):
    for layout in ("kaggle", "isic"):
        root = write_lesions(tmp_path / layout, scale=0.001, size=(24, 18), layout=layout)
        table = read(root)
        assert table.class_names == CODES
        assert any("synthetic" in note for note in table.notes)
    assert len(read(tmp_path / "kaggle")) == len(read(tmp_path / "isic"))


def test_dermamnist_has_its_class_names(tmp_path):
    arrays = {}
    for split in ("train", "val", "test"):
        arrays[f"{split}_images"] = np.zeros((7, 8, 8, 3), np.uint8)
        arrays[f"{split}_labels"] = np.arange(7)[:, None]
    for name in ("dermamnist", "dermamnist_64", "DermaMNIST"):
        np.savez(tmp_path / f"{name}.npz", **arrays)
        assert open_data(tmp_path / f"{name}.npz").class_names == CODES
    np.savez(tmp_path / "bloodmnist.npz", **arrays)
    assert open_data(tmp_path / "bloodmnist.npz").class_names == tuple("0123456")


# what is wrong: row 4 of the metadata, and how many rows are left out

WRONG_ROWS = {
    "missing image": ({"image_id": "ISIC_9999999"}, "image 'ISIC_9999999' does not exist in '.*ham'", 1),
    "image of a path": ({"image_id": "../ISIC_0024307"}, r"image '\.\./ISIC_0024307' does not exist", 1),
    "unknown dx": ({"dx": "melanoma"}, r"class 'melanoma' is unknown \(did you mean 'mel'\?\); known: akiec, bcc,", 1),
    "empty dx": ({"dx": ""}, "the label is empty", 1),
    "empty lesion_id": ({"lesion_id": ""}, "lesion_id is empty", 1),
    "duplicate image_id": ({"image_id": "ISIC_0024307"}, "image 'ISIC_0024307' is in .*csv row 3 already", 2),
}


@pytest.mark.parametrize("name", WRONG_ROWS)
def test_wrong_rows_are_named_or_counted(ham, name):
    change, message, left_out = WRONG_ROWS[name]
    rows = metadata()
    rows[2] |= change
    write_csv(ham / "HAM10000_metadata.csv", rows)
    said = refusal(ham)
    assert re.match(f"HAM10000_metadata.csv row 4: {message}", said), said
    table = read(ham, on_bad_sample="skip")
    assert len(table) == COUNT - left_out
    assert len(table.skipped) == left_out
    assert any(re.match(f"HAM10000_metadata.csv row 4: {message}", line) for line in table.skipped)


@pytest.mark.parametrize("change", [{"age": ""}, {"age": "nan", "sex": "unknown"}, {"dx": "AKIEC"}])
def test_rows_that_are_right(ham, change):
    rows = metadata()
    rows[2] |= change
    write_csv(ham / "HAM10000_metadata.csv", rows)
    assert is_whole(read(ham))


def test_a_lesion_in_two_classes(ham):
    rows = metadata()
    rows[3]["dx"] = "mel"
    write_csv(ham / "HAM10000_metadata.csv", rows)
    assert (
        "lesion_id 'HAM_0000001' is 'akiec' in HAM10000_metadata.csv row 4 but 'mel' in HAM10000_metadata.csv row 5"
        in (refusal(ham))
    )
    assert len(read(ham, on_bad_sample="skip")) == COUNT - IMAGES


def test_a_part_that_is_missing_is_one_line(ham):
    shutil.rmtree(ham / PARTS[1])
    said = refusal(ham)
    assert re.match(r"HAM10000_metadata.csv row \d+: image 'ISIC_\d+' does not exist", said)
    assert f"; 28 of {COUNT} images are missing; there is no folder HAM10000_images_part_2; correct that" in said
    table = read(ham, on_bad_sample="skip")
    assert len(table) == len(table.skipped) == COUNT // 2
    shutil.rmtree(ham / PARTS[0])
    assert f"{COUNT} of {COUNT} images are missing" in refusal(ham)
    assert "has no rows that can be used; the first: HAM10000_metadata.csv row 2: image" in refusal(
        ham, on_bad_sample="skip"
    )


def test_links_out_of_the_folder_are_refused(ham, tmp_path):
    file = ham / PARTS[0] / "ISIC_0024308.jpg"
    file.rename(tmp_path / "elsewhere.jpg")
    file.symlink_to(tmp_path / "elsewhere.jpg")
    assert "row 4: image 'HAM10000_images_part_1/ISIC_0024308.jpg' is a link out of" in refusal(ham)
    assert len(read(ham, on_bad_sample="skip")) == COUNT - 1


def test_metadata_without_lesions(ham):
    rows = [{key: value for key, value in row.items() if key != "lesion_id"} for row in metadata()]
    write_csv(ham / "HAM10000_metadata.csv", rows)
    for call in (check_source, read_table, open_data):
        said = refusal(ham, call)
        assert "has no column 'lesion_id'" in said
        assert "set data.split.by=image: then images of the same lesions are trained and tested on" in said
    data = open_data(DataSettings(source=str(ham), resize=8, split={"by": "image"}))
    assert any("nothing is known of lesions" in note for note in data.assignment.notes)


def test_lesions_split_image_by_image_say_what_leaks(ham):
    data = open_data(DataSettings(source=str(ham), resize=8, split={"by": "image"}))
    (note,) = data.assignment.notes
    assert re.match(r"\d+ of 28 groups \(\d+ images\) are in several splits: images of the same lesion", note)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("image_id", "isic_id", r"has no column 'image_id'.*; columns: 'lesion_id', 'isic_id', 'dx'"),
        ("dx,", "diagnosis,", r"has no column 'dx'"),
        ("dx_type", "dx", r"has several columns 'dx'"),
    ],
)
def test_metadata_of_other_columns(ham, old, new, message):
    file = ham / "HAM10000_metadata.csv"
    file.write_text(file.read_text().replace(old, new, 1))
    for call in (check_source, read_table):
        assert re.search(f"HAM10000_metadata.csv {message}", refusal(ham, call))


@pytest.mark.parametrize("content", ["", "\n", ",".join(HEADER) + "\n"])
def test_metadata_without_rows(ham, content):
    (ham / "HAM10000_metadata.csv").write_text(content)
    assert re.search("is empty|has no header|has no rows that can be used", refusal(ham))


def test_too_few_lesions_of_a_class(ham):
    rows = [row for row in metadata() if row["dx"] != "df" or row["lesion_id"] < "HAM_0000014"]
    write_csv(ham / "HAM10000_metadata.csv", rows)
    said = refusal(ham, open_data)
    assert (
        "too few groups of a class to split into train, test, val: 'df' has 2 (4 images), at least 3 are needed" in said
    )


def test_one_class_only(ham):
    write_csv(ham / "HAM10000_metadata.csv", [row for row in metadata() if row["dx"] == "mel"])
    assert "has images of one class only ('mel')" in refusal(ham)


@pytest.mark.parametrize(
    ("marks", "shown"),
    [({"NV": "1.0"}, "1, 0, 0, 0, 0, 1, 0"), ({"AKIEC": "0.0"}, ""), ({"AKIEC": "0.5"}, "0.5"), ({"AKIEC": ""}, "")],
)
def test_one_hot_rows_with_two_ones_or_none(isic, marks, shown):
    rows = truth()
    rows[2] |= marks
    write_csv(isic / TRUTH / f"{TRUTH}.csv", rows)
    said = refusal(isic)
    assert said.startswith(f"{TRUTH}.csv row 4: exactly one class must be 1, the others 0; got ")
    assert shown in said
    assert len(read(isic, on_bad_sample="skip")) == COUNT - 1


def test_ground_truth_that_lacks_something(isic):
    file = isic / "ISIC2018_Task3_Training_LesionGroupings.csv"
    whole = file.read_text()
    file.write_text("\n".join(line for line in whole.splitlines() if "ISIC_0024308" not in line))
    assert f"{TRUTH}.csv row 4: lesion_id is empty" in refusal(isic)
    file.write_text(whole.replace("lesion_id", "group"))
    assert "has no column 'lesion_id'" in refusal(isic, check_source)
    file.unlink()
    for call in (check_source, open_data):
        assert "there is no ISIC2018_Task3_Training_LesionGroupings.csv" in refusal(isic, call)
    assert read(isic, split={"by": "image"}).groups is None
    rows = [{key: value for key, value in row.items() if key != "VASC"} for row in truth()]
    write_csv(isic / TRUTH / f"{TRUTH}.csv", rows)
    assert "has no column 'VASC'" in refusal(isic, check_source, split={"by": "image"})


def test_a_class_of_a_request_is_known_by_its_code(ham):
    assert "unknown class 'melanom' (did you mean" in refusal(ham, check_source, classes=("melanom", "nv"))
    data = open_data(DataSettings(source=str(ham), resize=8, classes=("mel", "nv")))
    assert {*data.train.labels} == {4, 5}
