import csv
import io
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from secateur.core.errors import RequestError
from secateur.data import (
    DataSettings,
    LabelledTable,
    Resize,
    TableSettings,
    check_source,
    open_data,
    read_table,
    write_assignment,
)

COUNT = 24
HEADER = ("image", "label", "patient", "age")


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path / "cache"))


def picture(path: Path, seed: int = 0, kind: str = "PNG") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(path, format=kind)
    return path


def rows() -> list[dict[str, str]]:
    """Twelve patients with two images each, in three classes."""
    return [
        {"image": f"img/{i:02d}.png", "label": "abc"[i // 2 % 3], "patient": f"p{i // 2}", "age": str(20 + i)}
        for i in range(COUNT)
    ]


def text(table: list[dict[str, str]], delimiter: str = ",", header: tuple[str, ...] | None = None) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, header or tuple(table[0]), delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return file.getvalue()


@pytest.fixture
def folder(tmp_path) -> Path:
    """With images ``img/00.png`` and so on; tables are put beside them."""
    for i in range(COUNT):
        picture(tmp_path / "data" / "img" / f"{i:02d}.png", i)
    return tmp_path / "data"


def write(folder: Path, content: str | bytes | list[dict[str, str]], name: str = "manifest.csv") -> Path:
    content = text(content) if isinstance(content, list) else content
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder / name


def read(path: Path, **settings) -> LabelledTable:
    return read_table(DataSettings(source=str(path), **settings))


def refusal(call, *args, **settings) -> str:
    with pytest.raises(RequestError) as caught:
        call(*args, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# what is read


def test_a_table_becomes_labelled_images(folder):
    table = read(write(folder, rows()))
    assert table.class_names == ("a", "b", "c")
    assert table.labels.tolist() == [i // 2 % 3 for i in range(COUNT)]
    assert table.ids[3] == "img/03.png"
    assert table.paths[3] == folder / "img" / "03.png"
    assert table.groups == tuple(f"p{i // 2}" for i in range(COUNT))
    assert table.splits is None
    assert table.where[3] == "manifest.csv row 5"  # as spreadsheets number it: the header is row 1
    assert not table.skipped
    assert not table.notes
    assert repr(table) == "LabelledTable('manifest': 24 images, 3 classes, 12 groups)"


def test_opened_tables_are_split_by_group_and_keep_their_pixels(folder):
    path = write(folder, rows())
    data = open_data(DataSettings(source=str(path), resize=8))
    assignment = data.assignment
    assert {*assignment.ids} == {row["image"] for row in rows()}
    parts: dict[str, set[str]] = {}
    for group, split in zip(assignment.groups, assignment.splits, strict=True):
        parts.setdefault(group, set()).add(split)
    assert all(len(found) == 1 for found in parts.values())
    for split in ("train", "val", "test"):
        images = getattr(data, split)
        ids = [id_ for id_, where in zip(assignment.ids, assignment.splits, strict=True) if where == split]
        assert {*images.labels} == {0, 1, 2}
        for row, id_ in enumerate(ids):
            with Image.open(folder / id_) as stored:
                assert np.array_equal(images.raw([row])[0].permute(1, 2, 0).numpy(), np.asarray(stored))
    assert not list(folder.rglob("*.npy"))


ACCEPTED = {
    "BOM": lambda t: b"\xef\xbb\xbf" + text(t).encode(),
    "semicolons": lambda t: text(t, ";"),
    "tabs": lambda t: text(t, "\t"),
    "bars": lambda t: text(t, "|"),
    "lines of Windows": lambda t: text(t).replace("\n", "\r\n"),
    "no newline at the end": lambda t: text(t).rstrip("\n"),
    "blanks around names and cells": lambda t: text(t).replace(",", " , "),
    "an age that is not known": lambda t: text([row | {"age": "nan"} for row in t]),
    "commas in quotes": lambda t: text([row | {"age": "31, about"} for row in t]),
    "line breaks in quotes": lambda t: text([row | {"age": "31\nor so"} for row in t]),
    "blank lines at the end": lambda t: text(t) + "\n\n",
    "empty cells at the end": lambda t: text(t) + ",,,\n",
    "other usual names": lambda t: text(t).replace("image,label,patient", "File-Name,DX,Patient ID"),
    "other order of columns": lambda t: text(t, header=HEADER[::-1]),
    "paths of Windows": lambda t: text([row | {"image": row["image"].replace("/", "\\")} for row in t]),
    "dots in paths": lambda t: text([row | {"image": "./img/../" + row["image"]} for row in t]),
    "no extensions": lambda t: text([row | {"image": row["image"].removesuffix(".png")} for row in t]),
    "upper-case extensions": lambda t: text([row | {"image": row["image"].replace(".png", ".PNG")} for row in t]),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_the_same_table_in_other_forms(folder, name):
    usual = read(write(folder, rows()))
    path = write(folder, ACCEPTED[name](rows()), "other.csv")
    check_source(DataSettings(source=str(path), resize=8))
    other = read(path)
    assert (other.ids, other.paths, other.groups) == (usual.ids, usual.paths, usual.groups)
    assert other.labels.tolist() == usual.labels.tolist()
    assert not other.skipped


def test_parquet_is_read_like_text(folder):
    usual = read(write(folder, rows()))
    frame = pd.DataFrame(rows()).assign(age=np.nan, box=[[1, 2]] * COUNT)
    frame["label"] = frame["label"].astype("category")
    frame.to_parquet(folder / "manifest.parquet")
    other = read(folder / "manifest.parquet")
    assert (other.ids, other.groups, other.class_names) == (usual.ids, usual.groups, usual.class_names)
    assert other.where[3] == "manifest.parquet row 4"
    frame.loc[3, "label"] = None
    frame.to_parquet(folder / "manifest.parquet")
    assert "manifest.parquet row 4: the label is empty" in refusal(read, folder / "manifest.parquet")


def test_images_elsewhere_and_columns_of_other_names(folder, tmp_path):
    table = [
        {"which": Path(row["image"]).stem, "finding": row["label"], "who": row["patient"], "label": "?"}
        for row in rows()
    ]
    path = write(tmp_path, table)
    asked = TableSettings(path="which", label="finding", group="who", root=folder / "img", extension="PNG")
    found = read(path, table=asked)
    assert found.ids[3] == "03.png"
    assert found.groups is not None
    assert found.class_names == ("a", "b", "c")
    assert read(path, table=replace_settings(asked, group="")).groups is None


def replace_settings(settings: TableSettings, **changes) -> TableSettings:
    return settings.model_copy(update=changes)


def test_numbers_stay_what_they_are(folder):
    table = read(write(folder, [row | {"label": str(2 + i % 9)} for i, row in enumerate(rows())]))
    assert table.class_names == tuple(map(str, range(11)))
    assert table.labels.tolist() == [2 + i % 9 for i in range(COUNT)]
    # as pandas writes whole numbers in a column that had gaps
    floats = read(write(folder, [row | {"label": f"{2 + i % 9}.0"} for i, row in enumerate(rows())]))
    assert floats.labels.tolist() == table.labels.tolist()


def test_of_several_usual_columns_one_is_taken_and_that_is_said(folder):
    table = read(write(folder, [row | {"target": "1", "lesion_id": "x"} for row in rows()]))
    assert table.groups[0] == "p0"
    assert any("'label' is taken as the column of the label, not 'target'" in note for note in table.notes)
    assert any("'patient' is taken as the column of the group, not 'lesion_id'" in note for note in table.notes)


def test_numbers_of_folds_are_no_splits(folder):
    path = write(folder, [row | {"fold": f"{i % 5}.0"} for i, row in enumerate(rows())])
    table = read(path)
    assert table.splits is None
    (note,) = table.notes
    assert note == "manifest.csv: column 'fold' holds numbers, as of folds; it is not used as the split"
    assert "split '0' is unknown" in refusal(read, path, table=TableSettings(split="fold"))


def test_content_counts_not_the_extension(folder):
    picture(folder / "img" / "wrong.jpg", kind="PNG")
    path = write(folder, rows() + [{"image": "img/wrong.jpg", "label": "a", "patient": "p99", "age": ""}])
    data = open_data(DataSettings(source=str(path), resize=8))
    assert len(data.train) + len(data.val) + len(data.test) == COUNT + 1


def test_the_same_name_with_two_extensions_is_ambiguous(folder):
    picture(folder / "img" / "03.jpg")
    table = [row | {"image": row["image"].removesuffix(".png")} for row in rows()]
    assert "row 5: image 'img/03' could be 03.jpg or 03.png; set data.table.extension" in refusal(
        read, write(folder, table)
    )
    assert len(read(folder / "manifest.csv", table=TableSettings(extension="png"))) == COUNT


# rows that cannot be used: row 7 of the file, and how many rows are left out

WRONG_ROWS = {
    "image that does not exist": ({"image": "img/99.png"}, "image 'img/99.png' does not exist in '.*data'", 1),
    "no image": ({"image": ""}, "no image is named", 1),
    "path out of the folder": ({"image": "../outside.png"}, r"image '\.\./outside.png' lies outside of", 1),
    "absolute path": ({"image": "/outside.png"}, "image '/outside.png' lies outside of", 1),
    "folder": ({"image": "img"}, "image 'img' is no file", 1),
    "empty label": ({"label": " "}, "the label is empty", 1),
    "label of pandas for nothing": ({"label": "NaN"}, "the label is empty", 1),
    "empty group": ({"patient": ""}, "patient is empty", 1),
    "image twice": ({"image": "img/04.png", "label": "c", "patient": "p2"}, "image .* is in manifest.csv row 6 alr", 1),
    "image twice in other words": ({"image": "./img/04.png"}, "image 'img/04.png' is in manifest.csv row 6 already", 1),
    "image twice, two classes": ({"image": "img/04.png", "label": "a"}, r"another class.*\('c', here 'a'\)", 2),
    "image twice, two groups": ({"image": "img/04.png", "patient": "p9"}, "with another class, group or split", 2),
    "link out of the folder": ({"image": "img/link.png"}, "image 'img/link.png' is a link out of '.*data' ", 1),
    "link to nothing": ({"image": "img/broken.png"}, "image 'img/broken.png' is no file", 1),
    "folder that is a link out": ({"image": "linked/0.png"}, "image 'linked/0.png' is a link out of ", 1),
    "unknown split": ({"split": "tets"}, "split 'tets' is unknown; known: train, val, test", 1),
    "no split": ({"split": ""}, "split '' is unknown; known: train, val, test", 1),
    "number of a fold": ({"split": "3"}, "split '3' is unknown; known: train, val, test", 1),
}


@pytest.mark.parametrize("name", WRONG_ROWS)
def test_wrong_rows_are_named_or_counted(folder, tmp_path, name):
    change, message, left_out = WRONG_ROWS[name]
    picture(tmp_path / "outside.png")
    picture(tmp_path / "outside" / "0.png")
    (folder / "img" / "link.png").symlink_to(tmp_path / "outside.png")
    (folder / "img" / "broken.png").symlink_to(folder / "nothing.png")
    (folder / "linked").symlink_to(tmp_path / "outside")
    table = rows()
    if "split" in change:
        table = [row | {"split": "train"} for row in table]
    table[5] |= change
    path = write(folder, table)
    said = refusal(read, path)
    assert re.match(f"manifest.csv row 7: .*{message}", said), said
    assert "data.on_bad_sample=skip" in said
    skipping = read(path, on_bad_sample="skip")
    assert len(skipping) == COUNT - left_out
    assert len(skipping.skipped) == left_out
    assert any(re.match(f"manifest.csv row 7: .*{message}", line) for line in skipping.skipped)


@pytest.mark.parametrize("cells", [("img/05.png", "c", "p2"), ("img/05.png", "c", "p2", "25", "26")])
def test_rows_with_too_few_or_too_many_cells(folder, cells):
    lines = text(rows()).splitlines()
    lines[6] = ",".join(cells)
    path = write(folder, "\n".join(lines))
    assert refusal(read, path).startswith(f"manifest.csv row 7: {len(cells)} cells, but the header has 4; ")
    assert len(read(path, on_bad_sample="skip")) == COUNT - 1


def test_a_lesion_of_two_classes_is_named_by_both_rows(folder):
    table = [{"lesion_id" if key == "patient" else key: value for key, value in row.items()} for row in rows()]
    table[5]["label"] = "a"
    path = write(folder, table)
    said = refusal(read, path)
    assert said.startswith(
        "manifest.csv row 6: lesion_id 'p2' is 'c' in manifest.csv row 6 but 'a' in manifest.csv row"
    )
    skipping = read(path, on_bad_sample="skip")
    assert len(skipping) == COUNT - 2  # which of the two is right cannot be known
    assert "p2" not in skipping.groups
    # a patient may have lesions of several classes
    assert len(read(write(folder, text(table).replace("lesion_id", "patient"), "patients.csv"))) == COUNT


def test_links_within_the_folder_are_followed(folder):
    (folder / "img" / "same.png").symlink_to(folder / "img" / "00.png")
    table = rows()
    table[0]["image"] = "img/same.png"
    assert read(write(folder, table)).ids[0] == "img/same.png"
    (folder.parent / "link").symlink_to(folder)
    assert read(folder.parent / "link" / "manifest.csv").ids[0] == "img/same.png"


def test_broken_images_are_named_with_their_row(folder):
    (folder / "img" / "05.png").write_bytes(b"no picture")
    path = write(folder, rows())
    for cache in ("auto", "never"):
        asked = DataSettings(source=str(path), resize=8, cache=cache)
        said = refusal(open_data, asked)
        assert re.match(r"manifest.csv row 7: image '.*05.png' cannot be read", said)
        data = open_data(asked.model_copy(update={"on_bad_sample": "skip"}))
        assert len(data.assignment.ids) == COUNT - 1
        assert len(data.skipped) == 1


# tables that cannot serve at all, skipped rows or not

USELESS = {
    "absent": (None, "table '.*' does not exist"),
    "empty": ("", r"is empty \(zero bytes\)"),
    "blank": ("\n\n\n", "has no header"),
    "header only": (",".join(HEADER) + "\n", "manifest.csv has no rows that can be used"),
    "another delimiter": (
        text(rows(), "^"),
        "has one column only, 'image.label.patient.age'; columns are separated by",
    ),
    "no column of images": (
        text(rows()).replace("image", "x", 1),
        "has no column of image files: none of path, image,",
    ),
    "no column of labels": (
        text(rows()).replace("label", "x", 1),
        "has no column of labels.*columns: 'image', 'x', 'p",
    ),
    "a column twice": (text(rows()).replace(",age", ",label", 1), "has several columns 'label'; rename all but one"),
    "Latin-1": (
        text([row | {"age": "zwölf"} for row in rows()]).encode("latin-1"),
        "is not UTF-8 .byte 0xf6.; save it",
    ),
    "UTF-16": (text(rows()).encode("utf-16"), "is not UTF-8"),
    "quotes that do not end": (text(rows()).replace("img/05.png", '"img/05.png'), "cannot be read .*end of data"),
    "one class": (
        [row | {"label": "a"} for row in rows()],
        "manifest.csv has images of one class only .'a'.; at least",
    ),
    "no row that is right": ([row | {"label": ""} for row in rows()], "manifest.csv .*row 2: the label is empty"),
    "negative numbers": ([row | {"label": str(i % 3 - 1)} for i, row in enumerate(rows())], "has labels from -1 to 1"),
    "numbers that are no classes": ([row | {"label": f"{i}00000"} for i, row in enumerate(rows())], "labels from 0 to"),
}


@pytest.mark.parametrize("name", USELESS)
@pytest.mark.parametrize("on_bad_sample", ["fail", "skip"])
def test_useless_tables_are_refused_in_one_line(folder, name, on_bad_sample):
    content, message = USELESS[name]
    path = folder / "manifest.csv" if content is None else write(folder, content)
    assert re.search(message, refusal(read, path, on_bad_sample=on_bad_sample))
    assert re.search(message, refusal(open_data, DataSettings(source=str(path), resize=8, on_bad_sample=on_bad_sample)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"label": "lable"},
            r"has no column 'lable' \(did you mean 'label'\?\) \(data.table.label\); columns: 'image', ",
        ),
        ({"group": "lesion"}, "has no column 'lesion' .data.table.group.; columns: "),
        ({"split": "set"}, "has no column 'set' .data.table.split.; columns: "),
        ({"root": Path("nowhere")}, "folder of the images '.*nowhere' does not exist; name it with data.table.root"),
    ],
)
def test_wrong_settings_of_tables(folder, settings, message):
    path = write(folder, rows())
    assert re.search(message, refusal(read, path, table=TableSettings(**settings)))


def test_headers_are_refused_before_anything_is_loaded(folder):
    path = write(folder, text(rows()).replace("label", "x", 1))
    code = (
        "import sys; from secateur.data import DataSettings, check_source\n"
        "from secateur.core.errors import RequestError\n"
        f"try: check_source(DataSettings(source={str(path)!r}, resize=8))\n"
        "except RequestError as error: print(error)\n"
        "assert not {'torch', 'numpy', 'pandas', 'pyarrow', 'sklearn', 'datasets'} & {*sys.modules}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "has no column of labels" in done.stdout


def test_damaged_parquet_is_refused(folder):
    path = folder / "manifest.parquet"
    pd.DataFrame(rows()).to_parquet(path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"PAR1" + bytes(50) + b"PAR1"):
        path.write_bytes(content)
        assert "cannot be read as Parquet" in refusal(read, path)
    nested = pd.DataFrame(rows()).assign(image=[{"bytes": b"", "path": "x"}] * COUNT)
    nested.to_parquet(path)
    assert "has no column of image files" in refusal(read, path)


def test_a_size_is_needed(folder):
    path = write(folder, rows())
    assert "table of images '" in refusal(open_data, DataSettings(source=str(path)))
    with pytest.raises(ValidationError, match="forbid"):
        DataSettings(source=str(path), table={"labels": "x"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": {"by": "image"}}, "data.split is for folders and tables of image files, and does nothing for"),
        ({"table": {"label": "x"}}, "data.table is for folders and tables of image files"),
        ({"window": (40, 80)}, "data.window is for folders and tables"),
        ({"cache": "always"}, "data.cache=always is for image files"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(tmp_path, changes, message):
    arrays = {f"{split}_images": np.zeros((4, 8, 8), np.uint8) for split in ("train", "val", "test")}
    np.savez(
        tmp_path / "digits.npz", **arrays, **{f"{split}_labels": np.arange(4) for split in ("train", "val", "test")}
    )
    asked = DataSettings(source=str(tmp_path / "digits.npz"), **changes)
    assert message in refusal(check_source, asked)
    assert message in refusal(open_data, asked)
    picture(tmp_path / "pets" / "cat" / "0.png")
    folder = DataSettings(source=str(tmp_path / "pets"), resize=8, table={"label": "x"})
    assert "data.table is for tables of images, and does nothing for" in refusal(check_source, folder)


# images in one array


def test_decoded_images_are_the_same_as_those_read_each_time(folder):
    path = write(folder, rows())
    made = {
        cache: open_data(DataSettings(source=str(path), resize={"size": 8, "crop": 6}, cache=cache))
        for cache in ("always", "never")
    }
    for split in ("train", "val", "test"):
        one, other = (getattr(data, split) for data in made.values())
        assert torch.equal(one.batch(range(len(one)))[0], other.batch(range(len(other)))[0])
        assert one.labels.tolist() == other.labels.tolist()
    assert made["always"].normalisation == made["never"].normalisation
    assert made["always"].assignment == made["never"].assignment
    assert made["always"].resize == made["never"].resize == Resize(size=8, crop=6)  # which bundles record
    assert not isinstance(made["always"].train.images, list)


def test_normalisation_is_of_all_classes_whether_or_not_files_are_kept(tmp_path, monkeypatch):
    """Of files sorted by class, the first hundreds are of one class only."""
    table = []
    for name, value in (("dark", 20), ("light", 220)):
        for i in range(420):
            table.append({"image": f"{name}{i:03d}.bmp", "label": name, "split": "test" if i < 20 else "train"})
            Image.new("RGB", (4, 4), (value,) * 3).save(tmp_path / table[-1]["image"])
    path = write(tmp_path, table)
    asked = DataSettings(source=str(path), resize=4)
    made = [open_data(asked.model_copy(update={"cache": cache})).normalisation for cache in ("never", "always")]
    assert made[0] == made[1]
    assert made[0].mean[0] == pytest.approx(120 / 255, abs=0.03)
    assert made[0].std[0] == pytest.approx(100 / 255, abs=0.01)


def split_file(folder: Path, path: Path, **settings) -> Path:
    """The split of a run with these settings."""
    data = open_data(DataSettings(source=str(path), resize=8, **settings))
    write_assignment(data.assignment, folder / "split.csv")
    return folder / "split.csv"


@pytest.mark.parametrize("cache", ["never", "always"])
@pytest.mark.parametrize("broken", [(), (7,), (6, 7)])
def test_split_files_serve_where_images_break_later(folder, tmp_path, cache, broken):
    for number in broken:  # before the file is written, then it lacks them
        (folder / "img" / f"{number:02d}.png").write_bytes(b"no picture")
    path = write(folder, rows())
    skip = {"on_bad_sample": "skip", "cache": cache}
    file = split_file(tmp_path, path, **skip)
    again = {**skip, "split": {"file": file}}
    first = open_data(DataSettings(source=str(path), resize=8, **again)).assignment
    assert len(first.ids) == COUNT - len(broken)
    (folder / "img" / "00.png").write_bytes(b"no picture")
    (folder / "img" / "01.png").unlink()
    second = open_data(DataSettings(source=str(path), resize=8, **again)).assignment
    assert {*first.ids} - {*second.ids} == {"img/00.png", "img/01.png"}
    given = dict(zip(first.ids, first.splits, strict=True))
    assert all(given[id_] == split for id_, split in zip(second.ids, second.splits, strict=True))
    write(folder, [row for row in rows() if row["image"] != "img/09.png"])
    said = refusal(open_data, DataSettings(source=str(path), resize=8, **again))
    assert "image 'img/09.png' of the file is not in the data" in said


def test_images_without_extension_that_break_later(folder, tmp_path):
    path = write(folder, [row | {"image": row["image"].removesuffix(".png")} for row in rows()])
    file = split_file(tmp_path, path)
    (folder / "img" / "01.png").unlink()
    asked = DataSettings(source=str(path), resize=8, on_bad_sample="skip", split={"file": file})
    assert len(open_data(asked).assignment.ids) == COUNT - 1


def test_what_a_split_file_lacks_is_said_as_it_is_used(folder, tmp_path):
    path = write(folder, rows())
    file = split_file(tmp_path, path)
    file.write_text(file.read_text().replace(",val,", ",train,"))
    data = open_data(DataSettings(source=str(path), resize=8, split={"file": file}))
    splits = data.assignment.splits
    assert [len(data.train), len(data.val)] == [splits.count("train"), splits.count("val")]
    parted = {group for group, split in zip(data.assignment.groups, splits, strict=True) if split == "val"}
    assert len(data.val) == 2 * len(parted) > 0


def test_what_cannot_be_decoded_once_is_refused_or_read_each_time(folder):
    asked = DataSettings(source=str(write(folder, rows())), resize=8, augmentation="resized-crop-flip", cache="always")
    assert "data.cache=always cannot be met: augmentation" in refusal(open_data, asked)
    data = open_data(asked.model_copy(update={"cache": "auto"}))
    assert isinstance(data.train.images, list)
    assert data.train.batch([0])[0].shape == (1, 3, 8, 8)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written_is_done_without(folder, tmp_path, monkeypatch):
    (tmp_path / "locked").mkdir(mode=0o500)
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path / "locked" / "cache"))
    data = open_data(DataSettings(source=str(write(folder, rows())), resize=8))
    assert isinstance(data.train.images, list)


def test_image_folders_are_tables_too(tmp_path):
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            for i in range(3):
                picture(tmp_path / "pets" / split / name / f"{i}.png", i)
    table = read(tmp_path / "pets")
    assert table.ids[0] == "train/cat/0.png"
    assert table.splits == ("train",) * 6 + ("test",) * 6
    assert any("has no test images" in note for note in table.notes)
    data = open_data(DataSettings(source=str(tmp_path / "pets"), resize=8))
    assert {path.parent.name for path in data.test.images} == {"cat", "dog"}
    decoded = open_data(DataSettings(source=str(tmp_path / "pets"), resize=8, cache="always"))
    assert not isinstance(decoded.test.images, list)
    assert torch.equal(decoded.test.batch(range(6))[0], data.test.batch(range(6))[0])
    assert sorted(data.assignment.splits) == ["test"] * 6 + ["train"] * 4 + ["val"] * 2
    shown = replace(data.assignment, notes=())
    assert repr(shown).startswith("Assignment(4 train, 2 val, 6 test")


def test_what_is_no_table():
    assert "is no table or folder" in refusal(read, Path("torchvision/cifar10"), download=True, root=Path())


def test_classes_without_a_training_image_that_can_be_read(tmp_path):
    for split, name in (("train", "cat"), ("train", "dog"), ("test", "cat"), ("test", "dog")):
        picture(tmp_path / "pets" / split / name / "0.png")
    (tmp_path / "pets" / "train" / "dog" / "0.png").write_bytes(b"no picture")
    for cache in ("always", "never"):
        asked = DataSettings(source=str(tmp_path / "pets"), resize=8, on_bad_sample="skip", cache=cache)
        assert "no usable training images of class(es) dog" in refusal(open_data, asked)


def test_classes_that_are_only_tested_do_not_lack_training_images(folder):
    table = [row | {"split": "test" if row["label"] == "c" or i < 6 else "train"} for i, row in enumerate(rows())]
    (folder / "img" / "08.png").write_bytes(b"no picture")
    path = write(folder, table)
    data = open_data(DataSettings(source=str(path), resize=8, on_bad_sample="skip", split={"by": "image"}))
    assert len(data.skipped) == 1
    assert {*data.train.labels} == {0, 1}
    assert {*data.test.labels} == {0, 1, 2}


# data sets of the package datasets


@pytest.fixture
def saved(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "picture": datasets.Image(),
            "kind": datasets.ClassLabel(names=["cat", "dog"]),
            "owner": datasets.Value("string"),
        }
    )

    def save(name: str, **counts: int) -> Path:
        parts = {}
        for number, (split, count) in enumerate(counts.items()):
            files = [str(picture(tmp_path / "raw" / f"{split}{i}.png", 100 * number + i)) for i in range(count)]
            owners = [f"{split}{i // 2}" for i in range(count)]
            columns = {"picture": files, "kind": [i // 2 % 2 for i in range(count)], "owner": owners}
            parts[split] = datasets.Dataset.from_dict(columns, features=features)
        whole = datasets.DatasetDict(parts) if len(parts) > 1 else next(iter(parts.values()))
        whole.save_to_disk(str(tmp_path / name))
        return tmp_path / name

    return save


def test_saved_datasets(saved, tmp_path):
    path = saved("pets", train=20, validation=4, test=8, unsupervised=2)
    asked = DataSettings(source=f"hf:{path}", resize=8)
    data = open_data(asked)
    assert (len(data.train), len(data.val), len(data.test)) == (20, 4, 8)
    assert data.class_names == ("cat", "dog")
    assert data.name == "pets"
    assert any("not used: unsupervised" in note for note in data.assignment.notes)
    with Image.open(tmp_path / "raw" / "test3.png") as stored:
        assert np.array_equal(data.test.raw([3])[0].permute(1, 2, 0).numpy(), np.asarray(stored))
    files = sorted((tmp_path / "cache" / "hf").rglob("*.png"))
    times = [file.stat().st_mtime_ns for file in files]
    assert read_table(asked).ids[:2] == ("train/000000", "train/000001")
    assert [file.stat().st_mtime_ns for file in files] == times  # written once


def test_a_saved_dataset_without_splits_is_split_by_its_groups(saved):
    path = saved("pets", train=40)
    data = open_data(DataSettings(source=f"hf:{path}", resize=8, table={"group": "owner"}))
    parts: dict[str, set[str]] = {}
    for group, split in zip(data.assignment.groups, data.assignment.splits, strict=True):
        parts.setdefault(group, set()).add(split)
    assert all(len(found) == 1 for found in parts.values())
    assert len(data.test) == 8


def test_rows_of_datasets_without_image_or_label(saved, tmp_path):
    datasets = pytest.importorskip("datasets")
    whole = datasets.load_from_disk(str(saved("pets", train=12)))
    columns = whole.to_dict()
    columns["picture"][3], columns["kind"][5] = None, -1
    datasets.Dataset.from_dict(columns, features=whole.features).save_to_disk(str(tmp_path / "holes"))
    assert "train row 3: there is no image" in refusal(read, f"hf:{tmp_path}/holes")
    table = read(f"hf:{tmp_path}/holes", on_bad_sample="skip")
    assert len(table) == 10
    assert "train row 5: the label is empty" in table.skipped[1]


def test_datasets_that_cannot_serve(saved, tmp_path):
    (tmp_path / "plain").mkdir()
    assert "was not written by datasets' save_to_disk" in refusal(read, f"hf:{tmp_path}/plain")
    assert "for a data set of the hub of this name set data.download=true" in refusal(read, "hf:nobody/nothing")
    path = saved("pets", train=8, test=8)
    assert "has no column 'knd' (did you mean 'kind'?)" in refusal(read, f"hf:{path}", table=TableSettings(label="knd"))
    assert "column 'owner' has no feature Image" in refusal(read, f"hf:{path}", table=TableSettings(path="owner"))
    (path / "train" / "state.json").write_text("{")
    assert "cannot be read" in refusal(read, f"hf:{path}")
