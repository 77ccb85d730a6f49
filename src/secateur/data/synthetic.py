"""Synthetic data in the shape of HAM10000: its files, sizes and imbalance, with drawn pictures instead of photographs.

For tests, examples and trying out a study where the real images are not at hand. Nothing measured on them says
anything about skin lesions. HAM10000: Tschandl, Rosendahl, Kittler, "The HAM10000 dataset", Scientific Data 5, 2018.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from secateur.core.errors import RequestError
from secateur.core.files import atomic_folder
from secateur.core.progress import ProgressOption, reported, track
from secateur.core.randomness import numpy_generator
from secateur.data.lesion_pictures import draw, lesion, view
from secateur.data.threads import in_order

Layout = Literal["kaggle", "isic"]
LAYOUTS: tuple[Layout, ...] = ("kaggle", "isic")

COUNTS = {
    "akiec": (327, 228),
    "bcc": (514, 327),
    "bkl": (1099, 727),
    "df": (115, 73),
    "mel": (1113, 614),
    "nv": (6705, 5403),
    "vasc": (142, 98),
}
"""Images and lesions of each class, as in HAM10000."""

NOTICE = (
    "These pictures are SYNTHETIC. They were drawn by secateur.data.synthetic in the layout of HAM10000 (ids SYN_...), "
    "with invented ages, sexes and places.\nNo patient was photographed; nothing measured on them says anything about "
    "skin lesions.\n"
)

_MOST_VIEWS = 4
_PLACES = (
    "back", "lower extremity", "trunk", "upper extremity", "abdomen", "face", "chest", "foot", "unknown", "neck",
    "scalp", "hand", "ear", "genital", "acral",
)  # fmt: skip
_PLACE_SHARES = np.array([22, 21, 14, 11, 10, 7.4, 4, 3.2, 2.3, 1.7, 1.3, 0.9, 0.6, 0.5, 0.1]) / 100
_CONFIRMED = {
    "histo": "histopathology",
    "follow_up": "serial imaging showing no change",
    "consensus": "single image expert consensus",
    "confocal": "confocal microscopy with consensus dermoscopy",
}
"""How a diagnosis was confirmed: in HAM10000's metadata, and in the ISIC 2018 groupings."""


@dataclass(frozen=True)
class _Row:
    """One picture, as HAM10000's metadata tells of it."""

    lesion_id: str
    image_id: str
    dx: str
    dx_type: str
    age: str
    sex: str
    localization: str


@reported("writing synthetic lesions")
def write_lesions(
    folder: str | Path,
    *,
    scale: float = 1.0,
    seed: int = 0,
    layout: Layout = "kaggle",
    size: tuple[int, int] = (600, 450),
    masks: bool = False,
    progress: ProgressOption = True,
) -> Path:
    """Write synthetic pictures in the layout of HAM10000.

    Counts per class are HAM10000's times ``scale``, at least 6 images of 4 lesions each. Several pictures of a lesion
    differ in rotation, shift, zoom, light and hairs. Each picture has random numbers of its own, so the same seed gives
    the same pictures on any machine, up to the last bit of its JPEG encoder.

    Args:
        folder: folder that is created; it may exist if it is empty.
        scale: factor of the number of images; 1.0 makes 10,015 of 7,470 lesions.
        seed: seed of all random numbers.
        layout: "kaggle": ``HAM10000_metadata.csv`` and ``HAM10000_images_part_1|2``; "isic": the folders and the
            one-hot ground truth of ISIC 2018 task 3, with its table of lesions.
        size: width and height of the pictures.
        masks: also write the area of each lesion, as ``HAM10000_segmentations_lesion_tumor/ID_segmentation.png``.
        progress: how progress is reported, see `secateur.core.progress.ProgressOption`.

    Returns:
        The folder.

    Raises:
        RequestError: for a folder that is not empty, or an unknown layout, scale or size.
        SecateurError: when the folder cannot be written.

    Example:
        >>> import tempfile
        >>> folder = write_lesions(Path(tempfile.mkdtemp()) / "lesions", scale=0.001, size=(48, 36))
        >>> sorted(path.name for path in folder.iterdir())
        ['HAM10000_images_part_1', 'HAM10000_images_part_2', 'HAM10000_metadata.csv', 'SYNTHETIC.txt']
    """
    folder = Path(folder).expanduser()
    _check(folder, scale, layout, size)
    rows = _rows(scale, seed)
    with atomic_folder(folder) as part:
        (part / "SYNTHETIC.txt").write_text(NOTICE, encoding="utf-8")
        folders = _image_folders(part, rows, layout)
        drawn = part / "HAM10000_segmentations_lesion_tumor"
        for each in {*folders, *([drawn] if masks else [])}:
            each.mkdir(exist_ok=True)

        def write(item: tuple[_Row, Path]) -> None:
            row, place = item
            random = numpy_generator(seed, "image", row.image_id)
            subject = lesion(row.dx, numpy_generator(seed, "lesion", row.lesion_id))
            picture, mask = draw(subject, view(random), size, random)
            picture.save(place / f"{row.image_id}.jpg", quality=92)
            if masks:
                mask.save(drawn / f"{row.image_id}_segmentation.png")

        work = list(zip(rows, folders, strict=True))
        for _ in track(in_order(write, work), "drawing synthetic lesions", len(work)):
            pass
        _write_tables(part, rows, layout)
    return folder


def _check(folder: Path, scale: float, layout: str, size: Sequence[int]) -> None:
    if layout not in LAYOUTS:
        raise RequestError(f"unknown layout '{layout}'; known: {', '.join(LAYOUTS)}")
    if not 0 < scale <= 10:
        raise RequestError(f"scale {scale:g} is out of range; give 0 < scale <= 10 (1 makes 10,015 images)")
    if len(size) != 2 or not all(16 <= side <= 4096 for side in size):
        raise RequestError(f"size {'x'.join(map(str, size))} is out of range; give width and height of 16 to 4096")
    if folder.is_dir() and any(folder.iterdir()):
        raise RequestError(f"folder '{folder}' is not empty; remove it, or name another")


def _rows(scale: float, seed: int) -> list[_Row]:
    """All pictures in the order of their ids, which say nothing of the class."""
    lesions: list[tuple[str, int]] = []
    for dx, (images, count) in COUNTS.items():
        images, count = max(6, round(scale * images)), max(4, round(scale * count))
        views = np.ones(count, np.int64)
        random = numpy_generator(seed, "views", dx)
        for _ in range(images - count):
            views[random.choice(np.flatnonzero(views < _MOST_VIEWS))] += 1
        lesions += [(dx, int(number)) for number in views]
    random = numpy_generator(seed, "order")
    owners = [place for place, (_, views) in enumerate(lesions) for _ in range(views)]
    names = random.permutation(len(lesions))
    about = [_about(dx, numpy_generator(seed, "about", place)) for place, (dx, _) in enumerate(lesions)]
    rows = []
    for number, index in enumerate(random.permutation(len(owners)), 1):
        place = owners[index]
        name = f"SYN_L{names[place] + 1:07d}"
        rows.append(_Row(name, f"SYN_{number:07d}", lesions[place][0], *about[place]))
    return rows


def _about(dx: str, random: np.random.Generator) -> tuple[str, str, str, str]:
    """Kind of confirmation, age, sex and place of a lesion."""
    kinds = ["histo"] if dx in ("akiec", "mel", "bcc", "df") else ["histo", "consensus", "confocal"]
    kinds = ["follow_up", "histo", "consensus"] if dx == "nv" else kinds
    kind = str(random.choice(kinds, p=np.arange(len(kinds), 0, -1) / sum(range(1, len(kinds) + 1))))
    mean = 47 if dx == "nv" else 51 if dx in ("df", "vasc") else 65
    age = 5.0 * float(np.clip(round(random.normal(mean, 15) / 5), 0, 17))
    sex = str(random.choice(["male", "female", "unknown"], p=[0.54, 0.454, 0.006]))
    return kind, "" if random.random() < 0.006 else f"{age:.1f}", sex, str(random.choice(_PLACES, p=_PLACE_SHARES))


def _image_folders(part: Path, rows: Sequence[_Row], layout: Layout) -> list[Path]:
    if layout == "isic":
        return [part / "ISIC2018_Task3_Training_Input"] * len(rows)
    first = len(rows) // 2
    return [part / f"HAM10000_images_part_{1 if position < first else 2}" for position in range(len(rows))]


def _write_tables(part: Path, rows: Sequence[_Row], layout: Layout) -> None:
    if layout == "kaggle":
        head = tuple(_Row.__dataclass_fields__)
        _write_csv(part / "HAM10000_metadata.csv", head, ([getattr(row, name) for name in head] for row in rows))
        return
    truth = part / "ISIC2018_Task3_Training_GroundTruth" / "ISIC2018_Task3_Training_GroundTruth.csv"
    truth.parent.mkdir()
    codes = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
    hot = ([row.image_id, *("1.0" if row.dx.upper() == code else "0.0" for code in codes)] for row in rows)
    _write_csv(truth, ("image", *codes), hot)
    groupings = ([row.image_id, row.lesion_id, _CONFIRMED[row.dx_type]] for row in rows)
    head = ("image", "lesion_id", "diagnosis_confirm_type")
    _write_csv(part / "ISIC2018_Task3_Training_LesionGroupings.csv", head, groupings)


def _write_csv(path: Path, head: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(lines)
    path.write_text(text.getvalue(), encoding="utf-8")
