"""Image files decoded once: the same bytes as reading them, kept, resumed, shared between processes."""

import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset, default_collate

from secateur.core.errors import RequestError, SecateurError
from secateur.data import LabelledImages, Normalisation, Resize, loader
from secateur.data import decoded as decoding
from secateur.data.decoded import decoded_images
from secateur.data.images import read_image
from secateur.data.mapped import MappedImages

COLOUR = Normalisation((0.5, 0.4, 0.3), (0.25, 0.2, 0.1))
SIDE = Resize(size=10, crop=8)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "images"


def pixels(seed: int, height: int = 14, width: int = 18) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def files(folder: Path, count: int = 12) -> list[Path]:
    folder.mkdir(exist_ok=True)
    made = [folder / f"{i:03}.{'jpg' if i % 2 else 'png'}" for i in range(count)]
    for i, path in enumerate(made):
        Image.fromarray(pixels(i)).save(path)
    return made


def read(paths, channels: int = 3) -> np.ndarray:
    return np.stack([read_image(path, channels, SIDE).permute(1, 2, 0).numpy() for path in paths])


def count_reads(monkeypatch, fail_at: int | None = None) -> list[str]:
    """Names of the files that are read from now on; reading the ``fail_at``-th is interrupted."""
    names: list[str] = []
    original = decoding.read_pixels

    def counted(path, *arguments):
        names.append(path.name)
        if fail_at is not None and len(names) > fail_at:
            raise KeyboardInterrupt
        return original(path, *arguments)

    monkeypatch.setattr(decoding, "read_pixels", counted)
    return names


# what comes out


@pytest.mark.parametrize("workers", [0, 1, 5])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_bytes_are_those_of_reading_each_file(tmp_path, workers, channels):
    paths = files(tmp_path / "images")
    found = decoded_images(paths, SIDE, channels, workers=workers)
    assert found.images.dtype == np.uint8
    assert np.array_equal(found.images, read(paths, channels))
    assert found.good.all()
    assert found.skipped == ()
    with pytest.raises(ValueError, match="read-only"):
        found.images[0] = 0


def test_files_are_read_once_until_something_changes(tmp_path, cache, monkeypatch):
    paths = files(tmp_path / "images")
    first = decoded_images(paths, SIDE)
    names = count_reads(monkeypatch)
    monkeypatch.chdir(tmp_path)
    again = decoded_images([path.relative_to(tmp_path) for path in paths], SIDE)
    assert names == []
    assert np.array_equal(again.images, first.images)
    for change in ({"resize": Resize(size=8)}, {"channels": 1}, {"window": (1.0, 2.0)}):
        names.clear()
        decoded_images(**({"paths": paths, "resize": SIDE} | change))
        assert len(names) == len(paths)
    names.clear()
    Image.fromarray(pixels(99)).save(paths[3])
    assert np.array_equal(decoded_images(paths, SIDE).images, read(paths))
    assert len(names) == len(paths)
    assert not list(cache.glob("*.part*"))
    kept = json.loads(sorted(cache.glob("*.json"))[0].read_text())
    assert (kept["source"], kept["files"], kept["images"]) == (str(tmp_path / "images"), 12, 12)


def test_damaged_files_of_the_cache_are_made_again(tmp_path, cache):
    paths = files(tmp_path / "images")
    expected = read(paths)
    decoded_images(paths, SIDE)
    (array,), (about,) = cache.glob("*.npy"), cache.glob("*.json")
    for file, content in ((array, array.read_bytes()[:-1]), (array, b""), (about, b"{}"), (about, b"[")):
        file.write_bytes(content)
        assert np.array_equal(decoded_images(paths, SIDE).images, expected)
    about.unlink()
    assert np.array_equal(decoded_images(paths, SIDE).images, expected)


# broken files


def with_broken(folder: Path) -> list[Path]:
    paths = files(folder)
    paths[2].write_bytes(b"")
    paths[7].write_bytes(paths[7].read_bytes()[:300])
    paths[9].unlink()
    return paths


def test_broken_files_are_skipped_and_told(tmp_path):
    paths = with_broken(tmp_path / "images")
    where = [f"table.csv row {i + 2}" for i in range(len(paths))]
    found = decoded_images(paths, SIDE, on_bad="skip", where=where)
    assert np.flatnonzero(~found.good).tolist() == [2, 7, 9]
    assert np.array_equal(found.images, read([path for path, good in zip(paths, found.good, strict=True) if good]))
    assert [line.split(":")[0] for line in found.skipped] == ["table.csv row 4", "table.csv row 9", "table.csv row 11"]
    for line, (name, reason) in zip(
        found.skipped, [("002.png", "zero bytes"), ("007.jpg", "Truncated"), ("009.jpg", "No such file")], strict=True
    ):
        assert name in line
        assert reason in line
        assert "\n" not in line
    assert decoded_images(paths, SIDE, on_bad="skip").skipped[0].startswith("image '")


def test_broken_files_are_refused_all_at_once(tmp_path):
    paths = with_broken(tmp_path / "images")
    with pytest.raises(RequestError) as caught:
        decoded_images(paths, SIDE, where=[f"row {i}" for i in range(len(paths))])
    text = str(caught.value)
    assert text.startswith("row 2: image '")
    assert text.endswith("; 2 more of 12 images cannot be read: row 7, row 9")
    with pytest.raises(RequestError, match=r"2 more of 12 images cannot be read: '007.jpg', '009.jpg'$"):
        decoded_images(paths, SIDE)
    for path in paths:
        path.write_bytes(b"")
    with pytest.raises(RequestError, match="11 more of 12 images cannot be read$"):
        decoded_images(paths, SIDE, on_bad="skip")
    with pytest.raises(RequestError, match="no images"):
        decoded_images([], SIDE)


# interrupted, killed, at the same time


def test_an_interrupted_run_goes_on_from_what_it_kept(tmp_path, cache, monkeypatch):
    paths = with_broken(tmp_path / "images")
    monkeypatch.setattr(decoding, "_FLUSHED", 4)
    with monkeypatch.context() as patched:
        count_reads(patched, fail_at=10)
        with pytest.raises(KeyboardInterrupt) as caught:
            decoded_images(paths, SIDE, on_bad="skip", workers=1)
        assert "the same command goes on from there" in caught.value.__notes__[0]
    names = count_reads(monkeypatch)
    found = decoded_images(paths, SIDE, on_bad="skip", workers=1)
    assert names == [path.name for path in paths[8:]]
    assert np.array_equal(found.images, read(np.array(paths)[found.good]))
    assert np.flatnonzero(~found.good).tolist() == [2, 7, 9]
    assert not list(cache.glob("*.part*"))


SLOW = """
import sys, time
from pathlib import Path
from secateur.data import Resize, decoded
decoded._FLUSHED = 3
original = decoded.read_pixels
def slow(*arguments):
    time.sleep(0.01)
    return original(*arguments)
decoded.read_pixels = slow
print("ready", flush=True)
sys.stdin.readline()
found = decoded.decoded_images(sorted(Path(sys.argv[1]).iterdir()), Resize(size=10, crop=8), workers=1)
print(found.images.sum())
"""


def start(folder: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", SLOW, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def begin(process: subprocess.Popen) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_killed_and_simultaneous_processes_leave_the_same_bytes(tmp_path, cache):
    paths = files(tmp_path / "images", 40)
    killed = start(tmp_path / "images")
    begin(killed)
    while not list(cache.glob("*.json")):  # the first images are kept
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not [file for file in cache.glob("*.npy") if ".part" not in file.name]
    both = [start(tmp_path / "images") for _ in range(2)]
    for process in both:  # both are there before either starts, so that one has to wait
        begin(process)
    sums = {process.communicate()[0] for process in both}
    assert sums == {f"{read(paths).sum()}\n"}
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(file.suffix for file in cache.iterdir()) == [".json", ".npy"]
    assert np.array_equal(decoded_images(paths, SIDE).images, read(paths))


def test_files_that_change_meanwhile_are_noticed(tmp_path, cache, monkeypatch):
    paths = files(tmp_path / "images")
    original = decoding.read_pixels

    def changing(path, *arguments):
        if path == paths[5]:
            Image.fromarray(pixels(77, 30, 30)).save(paths[1])
        return original(path, *arguments)

    monkeypatch.setattr(decoding, "read_pixels", changing)
    with pytest.raises(SecateurError, match="changed while they were read; start again"):
        decoded_images(paths, SIDE)
    assert not list(cache.iterdir())


# disks


def test_full_disks_and_folders_that_cannot_be_written_are_one_line(tmp_path, cache, monkeypatch):
    paths = files(tmp_path / "images")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(decoding.os, "fsync", full)
        with pytest.raises(SecateurError, match="No space left on device.*SECATEUR_CACHE") as caught:
            decoded_images(paths, SIDE)
        assert "\n" not in str(caught.value)
    with monkeypatch.context() as patched:
        usage = decoding.shutil.disk_usage(tmp_path)._replace(free=1000)
        patched.setattr(decoding.shutil, "disk_usage", lambda path: usage)
        with pytest.raises(SecateurError, match="12 decoded images need .* GB"):
            decoded_images(paths, SIDE)
    assert np.array_equal(decoded_images(paths, SIDE).images, read(paths))
    (tmp_path / "file").touch()
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path / "file"))
    with pytest.raises(RequestError, match="cannot write to folder"):
        decoded_images(paths, SIDE)


# counting


def test_histograms_count_each_value_of_each_channel(tmp_path, monkeypatch):
    paths = files(tmp_path / "images")
    rows = np.array([7, 2, 2, 5])
    for channels in (1, 3):
        counts = decoded_images(paths, SIDE, channels).histogram(rows)
        assert counts.dtype == np.int64
        values = read(paths, channels)[rows].reshape(-1, channels)
        assert np.array_equal(counts, [np.bincount(column, minlength=256) for column in values.T])
    found = decoded_images(paths, SIDE)
    monkeypatch.setattr(decoding.Image, "fromarray", lambda *a, **k: pytest.fail("counted again"))
    assert np.array_equal(found.histogram(rows[::-1]), counts)


# data sets on a map


def labelled(images, **changes) -> LabelledImages:
    return LabelledImages(
        **(
            {"images": images, "labels": np.arange(len(images)) % 3, "class_names": "abc", "normalisation": COLOUR}
            | changes
        )
    )


def test_mapped_images_give_the_batches_of_those_in_memory(tmp_path):
    found = decoded_images(files(tmp_path / "images"), SIDE)
    mapped, plain = labelled(found.images), labelled(np.array(found.images))
    assert isinstance(mapped.images, MappedImages)
    rows = [11, 3, 3, 0]
    for change in (
        lambda data: data,
        lambda data: data.subset(rows),
        lambda data: data.subset(data.labels != 1).subset([5, 0, 2, 1]),
        lambda data: data.only(["c", "a"], renumber=True),
        lambda data: data.replace(resize=Resize(size=5)),
    ):
        a, b = change(mapped), change(plain)
        assert isinstance(a.images, MappedImages), "nothing was copied"
        assert np.array_equal(a.images, b.images)
        assert repr(a) == repr(b)
        indices = list(range(len(a)))
        assert torch.equal(a.raw(indices), b.raw(indices))
        assert all(torch.equal(x, y) for x, y in zip(a.batch(indices), b.batch(indices), strict=True))
        assert torch.equal(a[1][0], b[1][0])
    assert mapped._repr_html_() == plain._repr_html_()


def test_other_processes_open_the_map_and_get_no_copy(tmp_path):
    paths = files(tmp_path / "images", 60)
    found = decoded_images(paths, SIDE)
    data = labelled(found.images).subset(np.arange(50, 10, -1))
    small = len(pickle.dumps(data.subset([1, 2])))
    assert small < 60 * 8 * 8 * 3 / 4
    again = pickle.loads(pickle.dumps(data))
    assert isinstance(again.images, MappedImages)
    assert np.array_equal(again.images, data.images)
    part = pickle.loads(pickle.dumps(labelled(found.images[20:40][5:])))  # a slice: one piece of the file, too
    assert np.array_equal(part.images, read(paths[25:40]))
    (tmp_path / "sent").write_bytes(pickle.dumps(data.images))
    code = (
        f"import pickle, pathlib; print(pickle.loads(pathlib.Path({str(tmp_path / 'sent')!r}).read_bytes())[:].sum())"
    )
    found_there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(found_there) == np.asarray(data.images).sum()


def test_decoded_images_are_not_resized_again(tmp_path, monkeypatch):
    found = decoded_images(files(tmp_path / "images"), SIDE)
    data = labelled(MappedImages(found.images, resized=SIDE), resize=SIDE)
    again = pickle.loads(pickle.dumps(data.subset([3, 1])))
    assert (again.resize, again.images.resized) == (SIDE, SIDE)
    assert np.array_equal(again.raw([0, 1]).permute(0, 2, 3, 1), found.images[[3, 1]])
    with pytest.raises(RequestError, match="decoded with shorter side 10, centre crop 8"):
        data.replace(resize=Resize(size=8)).raw([0])
    square = labelled(decoded_images(files(tmp_path / "images"), Resize(size=8)).images, resize=Resize(size=8))
    expected = square.raw([0])
    monkeypatch.setattr("secateur.data.dataset.resized_arrays", lambda *a: pytest.fail("resized again"))
    assert torch.equal(square.raw([0]), expected)


@pytest.mark.parametrize("workers", [0, 1])
def test_files_that_break_later_are_named_in_one_line(tmp_path, workers):
    paths = files(tmp_path / "images", 4)
    data = labelled(paths, resize=SIDE)
    paths[2].write_bytes(b"")
    with pytest.raises(RequestError) as caught:
        list(loader(data, 2, workers=workers))
    assert str(caught.value) == f"image '{paths[2]}' is empty (zero bytes)"


def test_arrays_that_others_could_not_open_stay_arrays(tmp_path):
    np.save(tmp_path / "a.npy", np.stack([pixels(i) for i in range(6)]))
    for images in (np.load(tmp_path / "a.npy", mmap_mode="c"), np.load(tmp_path / "a.npy", mmap_mode="r")[::2]):
        data = labelled(images)
        assert not isinstance(data.images, MappedImages)
        assert np.array_equal(pickle.loads(pickle.dumps(data)).images, images)


@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_give_what_stacked_pairs_give(tmp_path, workers):
    data = labelled(decoded_images(files(tmp_path / "images"), SIDE).images)
    for dataset in (data, Subset(data, [4, 4, 9, 1, 0])):
        for images, labels in loader(dataset, 5, shuffle=True, workers=workers):
            assert images.is_contiguous()
            assert labels.dtype == torch.int64
        pairs = [dataset[i] for i in range(len(dataset))]
        expected = default_collate(pairs)
        found = next(iter(loader(dataset, len(dataset), workers=workers)))
        own = next(iter(DataLoader(dataset, len(dataset), num_workers=workers)))  # a loader of the user's
        for batch in (found, own):
            assert type(batch) is list
            assert all(torch.equal(x, y) and x.stride() == y.stride() for x, y in zip(batch, expected, strict=True))


def test_published_augmentation_draws_for_each_image(tmp_path):
    from torchvision.transforms import v2

    from secateur.data.augmentation import augmentation

    found = decoded_images(files(tmp_path / "images"), SIDE)
    data = labelled(found.images, augmentation=augmentation("photo"))
    published = v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.RandomRotation(20),
            v2.ColorJitter(brightness=0.1, contrast=0.1, hue=0.1),
        ]
    )
    torch.manual_seed(0)
    expected = [np.asarray(published(Image.fromarray(image))) for image in found.images]
    torch.manual_seed(0)
    batch = data.batch(range(12))[0]
    assert np.array_equal(COLOUR.undo(batch).mul(255).round().permute(0, 2, 3, 1).numpy(), np.stack(expected))
    same = data.batch([4] * 6)[0]
    assert len({image.numpy().tobytes() for image in same}) == 6
    grey = augmentation("photo")(torch.full((1, 9, 9), 100, dtype=torch.uint8))
    assert (grey.shape, grey.dtype) == ((1, 9, 9), torch.uint8)


# pictures as people have them


def test_unusual_pictures_are_read_as_stored(tmp_path):
    rgb = Image.fromarray(pixels(0))
    rgb.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    assert read_image(tmp_path / "cmyk.jpg").shape == (3, 14, 18)
    deep = np.arange(252, dtype=np.uint16).reshape(14, 18) << 8
    for name in ("deep.png", "deep.tif"):
        Image.fromarray(deep).save(tmp_path / name)
        assert np.array_equal(read_image(tmp_path / name)[0].numpy(), deep >> 8)
    palette = rgb.quantize(16)
    palette.save(tmp_path / "palette.png")
    assert np.array_equal(read_image(tmp_path / "palette.png").permute(1, 2, 0), np.asarray(palette.convert("RGB")))
    rgb.save(tmp_path / "png_in_truth.jpg", "PNG")
    assert np.array_equal(read_image(tmp_path / "png_in_truth.jpg").permute(1, 2, 0), pixels(0))
    turned = Image.Exif()
    turned[0x0112] = 6
    rgb.save(tmp_path / "turned.png", exif=turned)
    assert read_image(tmp_path / "turned.png").shape == (3, 14, 18), "pixels as stored, as torchvision takes them"
    rgb.convert("RGBA").save(tmp_path / "alpha.png")
    assert np.array_equal(read_image(tmp_path / "alpha.png").permute(1, 2, 0), pixels(0))


def test_pictures_that_cannot_be_used_are_one_line_each(tmp_path):
    whole = tmp_path / "whole.jpg"
    Image.fromarray(pixels(0, 64, 64)).save(whole)
    large = Image.new("1", (20_000, 10_000))
    large.save(tmp_path / "large.png", compress_level=1)
    (tmp_path / "cut.jpg").write_bytes(whole.read_bytes()[:1000])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "folder.jpg").mkdir()
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "float.tif")
    for name, reason in (
        ("large.png", "more than 100 megapixels"),
        ("cut.jpg", "truncated"),
        ("empty.jpg", "zero bytes"),
        ("text.jpg", "cannot identify"),
        ("folder.jpg", "cannot be read"),
        ("float.tif", "32-bit pixels"),
        ("absent.jpg", "No such file"),
    ):
        begin = time.perf_counter()
        with pytest.raises(RequestError, match=reason) as caught:
            read_image(tmp_path / name)
        assert time.perf_counter() - begin < 1, "only the header of a large picture is read"
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
