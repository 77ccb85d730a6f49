"""CUB-200-2011: 200 kinds of birds, with the split and the bounding boxes that were published. Light, as lesions are.

The data set: Wah, Branson, Welinder, Perona, Belongie: The Caltech-UCSD Birds-200-2011 dataset (2011).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from secateur.core.errors import RequestError
from secateur.data.settings import DataSettings
from secateur.data.table import Faults, LabelledTable, PixelBox, Row, table_of

_LISTS = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")
_BOXES = "bounding_boxes.txt"


def find_birds(path: Path) -> Path | None:
    """The folder of CUB-200-2011, by the names of the lists in it; None for any other folder."""
    return path if path.is_dir() and all((path / name).is_file() for name in _LISTS[:2]) else None


def check_birds(folder: Path, settings: DataSettings) -> tuple[str, ...]:
    """Refuse a folder that lacks a list; names of the classes.

    Raises:
        RequestError: as said.
    """
    needed = (*_LISTS, *((_BOXES,) if settings.table.crop else ()))
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        raise RequestError(f"'{folder}' lacks {missing[0]} of CUB-200-2011; unpack the archive again")
    return tuple(_class_names(folder).values())


def read_birds(folder: Path, settings: DataSettings) -> LabelledTable:
    """Read the lists; images are in the folder ``images``, and the published split says which are for the test.

    Args:
        folder: as recognised.
        settings: ``on_bad_sample`` and ``table.crop`` count.

    Raises:
        RequestError: for missing lists, and the first image that cannot be used, unless such are skipped.
    """
    check_birds(folder, settings)
    faults = Faults(settings.on_bad_sample == "skip")
    names = _class_names(folder)
    labels, splits = (dict(_lines(folder / name)) for name in _LISTS[1:3])
    boxes = dict(_lines(folder / _BOXES)) if settings.table.crop else {}
    rows: list[Row] = []
    cut: dict[str, PixelBox] = {}
    for number, (image, name) in enumerate(_lines(folder / _LISTS[0]), 1):
        where, path = f"{_LISTS[0]} line {number}", folder / "images" / name
        try:
            split = {"1": "train", "0": "test"}.get(_of(splits, image, _LISTS[2]), "?")
            label = names.get(_of(labels, image, _LISTS[1]), "")
            box = _box(_of(boxes, image, _BOXES)) if settings.table.crop else None
            if not path.is_file():
                raise RequestError(f"'{path}' does not exist")
        except RequestError as error:
            faults.add(f"{where}: {error}", name)
            continue
        rows.append(Row(name, path, label, None, split, where))
        if box is not None:
            cut[name] = box
    return table_of(
        folder.resolve().name, rows, faults, of=_LISTS[0], class_names=tuple(names.values()), boxes=cut or None
    )


def _class_names(folder: Path) -> dict[str, str]:
    """By number as text; ``001.Black_footed_Albatross`` is Black footed Albatross."""
    names = {key: name.partition(".")[2].replace("_", " ") or name for key, name in _lines(folder / _LISTS[3])}
    if len(set(names.values())) < len(names):
        raise RequestError(f"'{folder / _LISTS[3]}' has a class twice; unpack the archive again")
    return names


def _lines(file: Path) -> Iterator[tuple[str, str]]:
    """Number as text, and the rest of each line."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"'{file}' cannot be read ({error}); unpack the archive again") from error
    for number, line in enumerate(text.splitlines(), 1):
        key, _, rest = line.strip().partition(" ")
        if key and not rest:
            raise RequestError(f"'{file}' line {number}: '{line}' is no number and value; unpack the archive again")
        if key:
            yield key, rest.strip()


def _of(values: dict[str, str], image: str, file: str) -> str:
    if image not in values:
        raise RequestError(f"image {image} is not in {file}")
    return values[image]


def _box(text: str) -> PixelBox:
    """X, y, width and height, as left, top, right and bottom in whole pixels."""
    try:
        left, top, width, height = (round(float(part)) for part in text.split())
    except ValueError as error:
        raise RequestError(f"'{text}' in {_BOXES} are no four numbers") from error
    if width < 1 or height < 1 or left < 0 or top < 0:
        raise RequestError(f"the box '{text}' in {_BOXES} holds no pixels")
    return left, top, left + width, top + height
