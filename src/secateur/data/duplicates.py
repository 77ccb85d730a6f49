"""Finds equal and nearly equal images: by a digest of their bytes, then by a perceptual hash and a small picture.

The hash is the difference hash: of the grey picture at 9 by 8 pixels, which pixels are lighter than their left
neighbours; and at 8 by 9, than those above: 128 bits. Pictures that are laid out alike, as dark spots in the middle of
skin are, have close hashes without being copies. So those within `DISTANCE` bits are compared once more, by the
correlation of the grey pictures at 16 by 16 pixels, which must be `ALIKE`.

The limits are measured on 3,005 synthetic lesions (`secateur.data.synthetic`, 224 by 168 pixels). By the hash alone,
1,047 of 4.5 million pairs of different pictures are near-duplicates; by both, none (of all 10,015 lesions, five of 50
million pairs). Copies that were halved, enlarged, compressed again at quality 40 or made lighter by 12 % are found, 300
of 300 each; of those that were halved, darkened and compressed 99.7 %, of those that lost 2 % at each edge 89 %. Copies
that were rotated or mirrored are not found.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from secateur.core.errors import RequestError
from secateur.core.progress import ProgressOption, reported, track
from secateur.data.images import read_pixels
from secateur.data.threads import in_order

DISTANCE = 14
"""Largest number of bits, of 128, in which the hashes of near-duplicates differ."""

ALIKE = 0.985
"""Least correlation of the small grey pictures of near-duplicates."""

MOST_PAIRS = 100_000
"""Near-duplicates beyond these are counted as more, not listed."""

_FLAT = 3.0  # grey levels: what spreads less has no picture in it to compare
_SMALL = 16
_BLOCK = 256


class Images(Protocol):
    """Images by number: a list, an array, or an object that reads each on access."""

    def __len__(self) -> int:
        """Number of images."""

    def __getitem__(self, index: int, /) -> Any:
        """Path of a file, or uint8 [H, W, C]."""


@dataclass(frozen=True, eq=False)
class Fingerprints:
    """Fingerprints of images; see `fingerprints`.

    Attributes:
        digests: hex SHA-256 of the file, or of the pixels of an array; empty where it cannot be read, [N].
        hashes: difference hashes, uint64 [N, 2].
        small: grey pictures at 16 by 16, mean 0 and norm 1, float32 [N, 256].
        flat: too even to be compared with others, bool [N].
        sizes: width and height, int64 [N, 2].
        grey: all channels alike, bool [N].
        broken: positions of images that cannot be read, and why.
    """

    digests: tuple[str, ...]
    hashes: np.ndarray
    small: np.ndarray
    flat: np.ndarray
    sizes: np.ndarray
    grey: np.ndarray
    broken: dict[int, str]

    def __len__(self) -> int:
        return len(self.digests)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Near-duplicates.

    Attributes:
        rows: positions of the two, the smaller first, int64 [P, 2].
        distance: bits that their hashes differ by, [P].
        alike: correlation of their small pictures, [P].
        complete: there are no more.
    """

    rows: np.ndarray
    distance: np.ndarray
    alike: np.ndarray
    complete: bool

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, mask: np.ndarray) -> Pairs:
        """Some of them."""
        return Pairs(self.rows[mask], self.distance[mask], self.alike[mask], self.complete)


@dataclass(frozen=True)
class _Fingerprint:
    digest: str = ""
    hash: tuple[int, int] = (0, 0)
    small: np.ndarray | None = None
    size: tuple[int, int] = (0, 0)
    grey: bool = False
    broken: str = ""


def fingerprints(images: Images, *, window: tuple[float, float] | None = None, workers: int = 0) -> Fingerprints:
    """Compute the fingerprints of images, reading all pixels of each once.

    Args:
        images: files or uint8 [H, W, C], as a list, an array or what `secateur.data.LabelledImages` keeps; each is
            asked for once, and a few are in memory at any time.
        window: of DICOM images, see `secateur.data.images.read_pixels`.
        workers: threads; 0: as many as there are cores.

    Example:
        >>> images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
        >>> prints = fingerprints([*images, images[0] // 2])  # the last one is the first, darker
        >>> near_pairs(prints).rows.tolist()
        [[0, 2]]
    """

    def look(row: int) -> _Fingerprint:
        image = images[row]  # once: it may be read or copied for this
        image = Path(image) if isinstance(image, str) else image
        if not isinstance(image, Path):
            pixels_HWC = np.asarray(image)
            return _fingerprint(pixels_HWC, hashlib.sha256(f"{pixels_HWC.shape}".encode() + pixels_HWC.tobytes()))
        try:
            pixels_HWC = read_pixels(image, 3, None, window)
            with image.open("rb") as file:
                return _fingerprint(pixels_HWC, hashlib.file_digest(file, "sha256"))
        except (RequestError, OSError) as error:
            return _Fingerprint(broken=str(error))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd metadata; once for all threads, which share what is ignored
        every = list(track(in_order(look, range(len(images)), workers), "looking at images", len(images)))
    blank = np.zeros(_SMALL**2, np.float32)
    return Fingerprints(
        digests=tuple(each.digest for each in every),
        hashes=np.array([each.hash for each in every], np.uint64).reshape(-1, 2),
        small=np.array([blank if each.small is None else each.small for each in every]).reshape(-1, _SMALL**2),
        flat=np.array([each.small is None and not each.broken for each in every], bool),
        sizes=np.array([each.size for each in every], np.int64).reshape(-1, 2),
        grey=np.array([each.grey for each in every], bool),
        broken={row: each.broken for row, each in enumerate(every) if each.broken},
    )


def _fingerprint(pixels_HWC: np.ndarray, hashed: Any) -> _Fingerprint:
    digest = hashed.hexdigest()
    height, width, channels = pixels_HWC.shape
    grey = channels == 1 or all(np.array_equal(pixels_HWC[..., 0], pixels_HWC[..., other]) for other in (1, 2))
    picture = Image.fromarray(pixels_HWC[..., 0]) if grey else Image.fromarray(pixels_HWC).convert("L")
    small = _reduced(picture, _SMALL, _SMALL).ravel()
    small -= small.mean()
    spread = float(small.std())
    if spread < _FLAT:
        return _Fingerprint(digest, size=(width, height), grey=grey)
    across, down = _reduced(picture, 9, 8), _reduced(picture, 8, 9)
    hashes = (_packed(across[:, 1:] > across[:, :-1]), _packed(down[1:] > down[:-1]))
    return _Fingerprint(digest, hashes, small / np.float32(np.linalg.norm(small)), (width, height), grey)


def _reduced(picture: Image.Image, width: int, height: int) -> np.ndarray:
    return np.asarray(picture.resize((width, height), Image.Resampling.BOX), np.float32).copy()


def _packed(bits: np.ndarray) -> int:
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def exact_duplicates(found: Fingerprints) -> list[list[int]]:
    """Positions of images with the same digest, set by set, in the order of their first ones."""
    sets: dict[str, list[int]] = {}
    for row, digest in enumerate(found.digests):
        if digest:
            sets.setdefault(digest, []).append(row)
    return [rows for rows in sets.values() if len(rows) > 1]


def near_pairs(found: Fingerprints, *, distance: int = DISTANCE, alike: float = ALIKE) -> Pairs:
    """Pairs of images that are nearly the same, without those that are exactly the same.

    Every pair is compared, in blocks: 10,000 images take about a second, 50,000 half a minute.

    Args:
        found: fingerprints of the images.
        distance: largest number of bits in which hashes differ.
        alike: least correlation of the small pictures.
    """
    rows = np.flatnonzero(np.array([bool(digest) for digest in found.digests], bool) & ~found.flat)
    hashes, small = found.hashes[rows], found.small[rows]
    files = np.unique([found.digests[row] for row in rows], return_inverse=True)[1]
    pairs, distances, correlations = [np.empty((0, 2), np.int64)], [np.empty(0, np.int64)], [np.empty(0)]
    count = 0
    for start in track(range(0, len(rows), _BLOCK), "comparing images"):
        block, others = hashes[start : start + _BLOCK, None], hashes[None, start:]
        bits = np.bitwise_count(block[..., 0] ^ others[..., 0])
        bits += np.bitwise_count(block[..., 1] ^ others[..., 1])
        one, two = np.nonzero(bits <= distance)
        apart = bits[one, two].astype(np.int64)
        one, two = one + start, two + start
        kept = (one < two) & (files[one] != files[two])
        one, two, apart = one[kept], two[kept], apart[kept]
        correlation = np.concatenate(
            [
                (small[one[at : at + 4096]] * small[two[at : at + 4096]]).sum(1)
                for at in range(0, max(1, len(one)), 4096)
            ]
        )
        close = correlation >= alike
        pairs.append(rows[np.stack([one[close], two[close]], axis=1)])
        distances.append(apart[close])
        correlations.append(correlation[close].astype(float))
        count += int(close.sum())
        if count > MOST_PAIRS:
            break
    return Pairs(
        np.concatenate(pairs)[:MOST_PAIRS],
        np.concatenate(distances)[:MOST_PAIRS],
        np.concatenate(correlations)[:MOST_PAIRS],
        count <= MOST_PAIRS,
    )


@reported("looking for duplicates")
def near_duplicates(
    images: Images | Fingerprints,
    splits: Sequence[str],
    groups: Sequence[str] | None = None,
    *,
    workers: int = 0,
    progress: ProgressOption = True,
) -> list[tuple[int, int]]:
    """Pairs of images that are nearly or exactly the same, in different splits and of different groups.

    Images that are exactly the same are each paired with the first one of another split and group.

    Args:
        images: images for `fingerprints`, or their fingerprints.
        splits: split of each image, [N].
        groups: lesion or patient of each, [N]; None: each image is a group.
        workers: number of threads that read; 0: as many as there are cores.
        progress: how progress is reported, see `secateur.core.progress.ProgressOption`.

    Returns:
        Positions of the two, the smaller first, in ascending order.

    Example:
        >>> images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
        >>> images[2] = images[0]
        >>> near_duplicates(images, ["train", "train", "test"])
        [(0, 2)]
    """
    prints = images if isinstance(images, Fingerprints) else fingerprints(images, workers=workers)
    owners = list(map(str, range(len(prints)))) if groups is None else groups
    if not len(prints) == len(splits) == len(owners):
        raise RequestError(f"{len(prints)} images, but {len(splits)} splits and {len(owners)} groups; give one of each")

    def apart(one: int, two: int) -> bool:
        return splits[one] != splits[two] and owners[one] != owners[two]

    pairs = {(one, two) for one, two in near_pairs(prints).rows.tolist() if apart(one, two)}
    for rows in exact_duplicates(prints):
        for row in rows:
            other = next((each for each in rows if apart(each, row)), None)
            if other is not None:
                pairs.add((min(row, other), max(row, other)))
    return sorted(pairs)
