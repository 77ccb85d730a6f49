"""Skin lesions of HAM10000 in its common layouts: as published, and as in the ISIC 2018 challenge, task 3.

Light: neither PyTorch nor NumPy is loaded before a table is read. The data set: Tschandl, Rosendahl, Kittler: The
HAM10000 dataset, a large collection of multi-source dermatoscopic images of common pigmented skin lesions (2018).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from secateur.core.errors import RequestError
from secateur.data.image_paths import ImageFinder
from secateur.data.manifest import columns_named, read_header, read_sheet
from secateur.data.settings import DataSettings
from secateur.data.table import Faults, LabelledTable, Row, plain, table_of

DIAGNOSES = {
    "akiec": "actinic keratosis",
    "bcc": "basal cell carcinoma",
    "bkl": "benign keratosis",
    "df": "dermatofibroma",
    "mel": "melanoma",
    "nv": "melanocytic nevus",
    "vasc": "vascular lesion",
}
"""Full name of each class, by its code; class indices are in this order, as in DermaMNIST."""

_METADATA = "ham10000metadata"
_TRUTH = "isic2018task3traininggroundtruth"
_GROUPINGS = "isic2018task3traininglesiongroupings"
_IMAGES = ("ham10000images", "isic2018task3traininginput")
_PARTS = {"ham10000imagespart1": "HAM10000_images_part_1", "ham10000imagespart2": "HAM10000_images_part_2"}
_TEXT = ("", ".csv", ".tsv", ".tab", ".txt")


@dataclass(frozen=True)
class LesionFiles:
    """Where HAM10000 or the training part of ISIC 2018 task 3 was recognised.

    Attributes:
        root: the folder.
        table: metadata (``image_id``, ``dx``, ``lesion_id``), or ground truth with a column of 0 and 1 per class.
        by_columns: whether it is the latter.
        groupings: table of the lesions, which ground truth lacks.
    """

    root: Path
    table: Path
    by_columns: bool
    groupings: Path | None = None


def find_lesions(path: Path) -> LesionFiles | None:
    """Recognise a folder of HAM10000 or ISIC 2018 task 3 by the names in it; None: it is neither.

    Case, blanks, ``-`` and ``_`` in names do not matter.

    Args:
        path: of the folder, or of the metadata.
    """
    if path.is_file():
        return LesionFiles(path.parent, path, False) if plain(path.stem) == _METADATA else None
    if not path.is_dir():
        return None
    named = {plain(file.stem): file for file in sorted(_tables(path), reverse=True)}
    if _METADATA in named:
        return LesionFiles(path, named[_METADATA], False)
    return LesionFiles(path, named[_TRUTH], True, named.get(_GROUPINGS)) if _TRUTH in named else None


def check_lesions(files: LesionFiles, settings: DataSettings) -> None:
    """Refuse tables without the columns that are needed; of the tables only the headers are read.

    Raises:
        RequestError: as said.
    """
    header = read_header(files.table)
    if files.by_columns:
        columns_named(files.table.name, header, ("image", *map(str.upper, DIAGNOSES)))
        if files.groupings is not None:
            columns_named(files.groupings.name, read_header(files.groupings), ("image", "lesion_id"))
    else:
        columns_named(files.table.name, header, ("image_id", "dx"))
    if settings.split.by == "group" and not _knows_lesions(files, header):
        lacking = (
            "there is no ISIC2018_Task3_Training_LesionGroupings.csv"
            if files.by_columns
            else f"{files.table.name} has no column 'lesion_id'"
        )
        raise RequestError(
            f"{lacking}, by which all images of a lesion are kept in one split; add it, or set data.split.by=image: "
            "then images of the same lesions are trained and tested on, and test figures are too high"
        )


def read_lesions(files: LesionFiles, settings: DataSettings) -> LabelledTable:
    """Read the table and find its images, in whatever folders they are.

    Args:
        files: as recognised.
        settings: ``split.by``, ``on_bad_sample`` and ``table.root`` count.

    Raises:
        RequestError: for what `check_lesions` refuses, missing images, and the first row that cannot be used, unless
            such are skipped.
    """
    check_lesions(files, settings)
    faults = Faults(settings.on_bad_sample == "skip")
    finder = ImageFinder(settings.table.root or files.root)
    files_by_stem = _images(finder)
    known = _knows_lesions(files, read_header(files.table))
    rows, absent = [], []
    for where, image, dx, lesion in _hot_rows(files, faults) if files.by_columns else _rows(files, known, faults):
        if image not in files_by_stem:
            absent.append(f"{where}: image '{image}' does not exist in '{finder.root}'")
            faults.ids.add(image)
            continue
        try:
            path = finder.find(finder.name(files_by_stem[image]))
        except RequestError as error:
            faults.add(f"{where}: {error}", image)
            continue
        rows.append(Row(image, path, dx, lesion if known else None, None, where))
    if absent:
        _report_absent(absent, len(rows) + len(absent), files, finder, faults)
    notes = []
    if (files.root / "SYNTHETIC.txt").is_file():
        notes.append("the images are synthetic: drawn by a program, not photographs of skin")
    if not known:
        notes.append(
            "nothing is known of lesions: images of the same lesion may be trained and tested on, and test figures are "
            "too high"
        )
    return table_of(
        files.root.resolve().name,
        rows,
        faults,
        of=files.table.name,
        class_names=tuple(DIAGNOSES),
        group_column="lesion_id" if known else None,
        notes=notes,
    )


def _tables(root: Path) -> Iterator[Path]:
    """Tables in a folder, and in folders named after the ground truth in it."""
    for entry in root.iterdir():
        if plain(entry.stem) in (_TRUTH, _GROUPINGS) and entry.is_dir():
            yield from (file for file in entry.iterdir() if file.is_file() and file.suffix.lower() in _TEXT)
        elif entry.suffix.lower() in _TEXT and entry.is_file():
            yield entry


def _knows_lesions(files: LesionFiles, header: Sequence[str]) -> bool:
    return files.groupings is not None if files.by_columns else "lesion_id" in header


def _rows(files: LesionFiles, known: bool, faults: Faults) -> Iterator[tuple[str, str, str, str]]:
    """Where, image, class and lesion of each row of the metadata."""
    columns = ("image_id", "dx", *(("lesion_id",) if known else ()))
    for where, cells in read_sheet(files.table, faults).records(*columns):
        yield where, cells[0], cells[1].lower(), cells[2] if known else ""


def _hot_rows(files: LesionFiles, faults: Faults) -> Iterator[tuple[str, str, str, str]]:
    """The same of ground truth with a column per class."""
    lesions: dict[str, str] = {}
    if files.groupings is not None:
        groupings = read_sheet(files.groupings, faults).records("image", "lesion_id")
        lesions = {image: lesion for _, (image, lesion) in groupings}
    codes = tuple(DIAGNOSES)
    for where, (image, *cells) in read_sheet(files.table, faults).records("image", *map(str.upper, codes)):
        marked = [code for code, cell in zip(codes, cells, strict=True) if cell == "1"]
        if len(marked) != 1 or any(cell not in ("0", "1") for cell in cells):
            faults.add(f"{where}: exactly one class must be 1, the others 0; got {', '.join(cells)}", image)
            continue
        yield where, image, marked[0], lesions.get(image, "")


def _images(finder: ImageFinder) -> dict[str, Path]:
    """Image files by stem: in the folder and two levels below, those in folders with the published names first."""
    below = [entry for entry in sorted(finder.root.iterdir()) if entry.is_dir()]
    folders = [finder.root, *below, *(entry for each in below for entry in sorted(each.iterdir()) if entry.is_dir())]
    files: dict[str, Path] = {}
    for folder in sorted(folders, key=lambda each: not plain(each.name).startswith(_IMAGES)):
        for file in finder.images(folder):
            files.setdefault(file.stem, file)
    return files


def _report_absent(absent: list[str], count: int, files: LesionFiles, finder: ImageFinder, faults: Faults) -> None:
    """Say all missing images in one line, or one for each that is skipped."""
    if faults.skip:
        faults.lines += absent
        return
    there = {plain(entry.name) for entry in finder.root.iterdir()}
    parts = [name for key, name in _PARTS.items() if key not in there]
    folder = f"; there is no folder {parts[0]}" if len(parts) == 1 else ""
    more = f"; {len(absent):,} of {count:,} images are missing" if len(absent) > 1 else ""
    faults.add(f"{absent[0]}{more}{folder}")
