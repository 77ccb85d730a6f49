import contextlib
import io
import json
import re
import struct
import subprocess
import sys
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from secateur.core.errors import RequestError
from secateur.data import (
    DataSettings,
    ImageData,
    LabelledImages,
    Normalisation,
    ReferenceSet,
    Resize,
    check_source,
    loader,
    open_data,
)
from secateur.data.augmentation import AUGMENTATIONS, augmentation
from secateur.data.images import read_image, resized_arrays
from secateur.data.settings import AUGMENTATION_NAMES

GREY = Normalisation((0.5,), (0.25,))
COLOUR = Normalisation((0.5, 0.4, 0.3), (0.25, 0.2, 0.1))


def pixels(count: int, height: int = 8, width: int = 8, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, channels), np.uint8)


def labelled(answers, /, **changes) -> LabelledImages:
    labels = np.asarray(answers)
    arguments = {
        "images": pixels(len(labels)),
        "labels": labels,
        "class_names": [f"class{i}" for i in range(int(labels.max()) + 1)],
        "normalisation": COLOUR,
    }
    return LabelledImages(**(arguments | changes))


def save_image(path: Path, seed: int = 0, height: int = 12, width: int = 10) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(1, height, width, seed=seed)[0]).save(path)
    return path


def huge_png(width: int, height: int) -> bytes:
    """A small file that announces a huge picture."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(10))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def npz(path: Path, **changes) -> Path:
    arrays = {}
    for split, count in (("train", 20), ("val", 6), ("test", 6)):
        arrays[f"{split}_images"] = pixels(count)
        arrays[f"{split}_labels"] = np.arange(count) % 3
    arrays.update(changes)
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    return path


# start-up


def run_python(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_torchvision_is_loaded_only_when_asked_for(tmp_path):
    root = image_folder(tmp_path / "pets")
    run_python(
        "import sys, secateur.data.dataset; from secateur.data import DataSettings, ReferenceSet, loader, open_data\n"
        f"data = open_data(DataSettings(source={str(npz(tmp_path / 'med.npz'))!r}, resize=4))\n"
        f"open_data(DataSettings(source={str(root)!r}, resize=8)).train.batch([0])\n"
        "ReferenceSet.sample(data.train, 1); list(loader(data.train))\n"
        "assert 'torchvision' not in sys.modules"
    )


def test_settings_and_their_check_need_neither_pytorch_nor_numpy():
    run_python(
        "import sys; from secateur.data import DataSettings, check_source; check_source\n"
        "from secateur.data.classes import class_indices\n"
        "assert not {'torch', 'numpy', 'torchvision', 'PIL'} & {*sys.modules}"
    )


# normalisation


@settings(max_examples=50)
@given(
    mean=st.lists(st.floats(0, 1), min_size=3, max_size=3),
    std=st.lists(st.floats(0.05, 1), min_size=3, max_size=3),
    seed=st.integers(0, 1000),
)
def test_normalisation_can_be_undone_and_stays_in_bounds(mean, std, seed):
    normalisation = Normalisation(tuple(mean), tuple(std))
    split = labelled([0, 1, 0], images=pixels(3, seed=seed), normalisation=normalisation)
    images, _ = split.batch([0, 1, 2])
    low, high = normalisation.bounds()
    assert low - 1e-4 <= images.min()
    assert images.max() <= high + 1e-4
    assert torch.equal((normalisation.undo(images) * 255).round().to(torch.uint8), split.raw([0, 1, 2]))


def test_normalisation_from_json_equals_the_original():
    assert Normalisation([0.5], [0.25]) == GREY
    assert hash(Normalisation([0.5], [0.25])) == hash(GREY)


@pytest.mark.parametrize(("mean", "std"), [((), ()), ((0.5,), (0.0,)), ((0.5,), (0.1, 0.1)), ((float("nan"),), (1.0,))])
def test_impossible_normalisations_are_refused(mean, std):
    with pytest.raises(RequestError, match="one mean and one std"):
        Normalisation(mean, std)


# labelled images


def test_samples_batches_and_loaders_agree():
    split = labelled([0, 1, 2, 0, 1])
    images, labels = split.batch(range(5))
    assert images.shape == (5, 3, 8, 8)
    assert images.dtype == torch.float32
    for kind in (loader(split, 2), DataLoader(split, batch_size=2), DataLoader(Subset(split, range(5)), 2)):
        batches = list(kind)
        assert torch.equal(torch.cat([x for x, _ in batches]), images)
        assert torch.equal(torch.cat([y for _, y in batches]), labels)
    assert torch.equal(split[3][0], images[3])
    assert split[3][1] == 0
    assert len(list(split)) == 5


def test_shuffling_follows_the_seed():
    split = labelled([0, 1] * 20)

    def order(seed):
        return torch.cat([x for x, _ in loader(split, 7, shuffle=True, seed=seed)])

    assert torch.equal(order(1), order(1))
    assert not torch.equal(order(1), order(2))
    with pytest.raises(RequestError, match="batch size"):
        loader(split, 0)


def test_subsets():
    split = labelled([0, 1, 2, 0])
    assert split.subset([2, 0]).labels.tolist() == [2, 0]
    assert split.subset(split.labels == 0).labels.tolist() == [0, 0]
    assert len(split.subset([])) == 0
    assert torch.equal(split.subset([2]).batch([0])[0], split.batch([2])[0])


def test_grey_images_for_a_colour_network():
    split = labelled([0, 1], images=pixels(2, channels=1), normalisation=Normalisation((0.5,) * 3, (0.5,) * 3))
    images, _ = split.batch([0, 1])
    assert images.shape == (2, 3, 8, 8)
    assert torch.equal(images[:, 0], images[:, 2])


def test_arrays_are_cropped_to_a_square_and_resized():
    images = np.zeros((1, 8, 16, 1), np.uint8)
    images[:, :, 2:14] = 255
    split = labelled([0], images=images, class_names=["a"], normalisation=GREY, resize=Resize(size=4))
    assert split.raw([0]).unique().tolist() == [255]
    assert split.raw([0]).shape == (1, 1, 4, 4)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("height", "width", "size", "crop"),
    [(32, 32, 24, None), (60, 85, 32, 28), (17, 30, 8, None), (8, 9, 20, 15), (48, 31, 31, 30), (500, 375, 256, 224)],
)
def test_resizing_is_that_of_torchvision_for_arrays_and_files(tmp_path, height, width, size, crop, interpolation):
    from torchvision.transforms import InterpolationMode, v2

    resize = Resize(size=size, crop=crop, interpolation=interpolation)
    images = pixels(1, height, width)
    Image.fromarray(images[0]).save(tmp_path / "image.png")
    usual = v2.Compose([v2.Resize(size, InterpolationMode(interpolation)), v2.CenterCrop(resize.side)])
    expected = np.asarray(usual(Image.fromarray(images[0])))
    assert np.array_equal(resized_arrays(images, resize)[0], expected)
    assert np.array_equal(read_image(tmp_path / "image.png", resize=resize).permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": 224, "crop": 256}, "a crop of 256 does not fit in a shorter side of 224"),
        ({"size": 2}, "greater than or equal to 4"),
        ({"size": 8, "interpolation": "lanczos"}, "'nearest', 'bilinear' or 'bicubic'"),
        ({"side": 8}, "Field required"),
        (True, "valid dictionary"),
    ],
)
def test_impossible_sizes_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        DataSettings(resize=wrong)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.array([0, 9])}, "labels run from 0 to 9 but there are 2 class names"),
        ({"labels": np.array([-1, 0])}, "labels run from -1; class indices begin at 0"),
        ({"labels": np.array([[0, 1], [1, 1]])}, "one class index per sample"),
        ({"labels": np.array([0])}, "2 images but 1 labels"),
        ({"labels": np.array([0.0, 0.5])}, "labels are float64; class indices are needed, there is no regression"),
        ({"labels": np.eye(2)}, r"one-hot vectors of shape \[2, 2\]; argmax them"),
        ({"images": torch.zeros(2, 8, 8, 3, dtype=torch.uint8)}, "images are a Tensor; expected a uint8 array"),
        ({"images": [Image.new("RGB", (8, 8))] * 2}, "images hold a Image; expected a uint8 array"),
        ({"images": "ab"}, "images are a str"),
        ({"images": pixels(2) / 255.0}, "images are float64"),
        ({"images": pixels(2).transpose(0, 3, 1, 2)}, "expected uint8"),
        (
            {"images": pixels(2, channels=1), "normalisation": Normalisation((0.5,) * 2, (1.0,) * 2)},
            "expected uint8",
        ),
    ],
)
def test_impossible_splits_are_refused(changes, message):
    with pytest.raises(RequestError, match=message):
        labelled([0, 1], **changes)


def test_augmentations_have_their_names():
    assert tuple(AUGMENTATIONS) == AUGMENTATION_NAMES


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_augmentations_keep_shape_and_range(name, channels):
    normalisation = GREY if channels == 1 else COLOUR
    transform = augmentation(name)
    split = labelled([0, 1], images=pixels(2, channels=channels), normalisation=normalisation, augmentation=transform)
    images, _ = split.batch([0, 1])
    low, high = normalisation.bounds()
    assert images.shape == (2, channels, 8, 8)
    assert low - 1e-4 <= images.min()
    assert images.max() <= high + 1e-4


def test_random_crops_are_taken_from_the_whole_picture_and_follow_the_seed(tmp_path):
    # a picture whose left edge alone is bright: the centre crop never sees it
    wide = np.zeros((40, 120, 3), np.uint8)
    wide[:, :20] = 255
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for number in range(10):
            Image.fromarray(wide).save(tmp_path / label / f"{number}.png")
    asked = DataSettings(source=str(tmp_path), resize={"size": 32, "crop": 24}, augmentation="resized-crop-flip")
    train = open_data(asked).train
    torch.manual_seed(1)
    first = train.batch(range(len(train)))[0]
    torch.manual_seed(1)
    again = train.batch(range(len(train)))[0]
    assert first.shape == (len(train), 3, 24, 24)
    assert torch.equal(first, again)
    assert not torch.equal(first, train.batch(range(len(train)))[0])
    plain = train.replace(augmentation=None).batch(range(len(train)))[0]
    assert first.max() > plain.max(), "some crop holds what the centre does not"
    assert torch.equal(ReferenceSet.sample(train, 1).inputs[0], plain[0])


# image files


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".gif", ".webp", ".tif", ".ppm"])
def test_image_formats(tmp_path, suffix):
    path = save_image(tmp_path / f"image{suffix}")
    assert read_image(path).shape == (3, 12, 10)
    assert read_image(path, channels=1, resize=Resize(size=6)).shape == (1, 6, 6)


def test_sixteen_bit_grey_keeps_its_upper_bits(tmp_path):
    path = tmp_path / "deep.png"
    Image.fromarray(np.array([[0, 256, 65535]], np.uint16)).save(path)
    assert read_image(path, channels=1).flatten().tolist() == [0, 1, 255]
    Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(RequestError, match="32-bit"):
        read_image(tmp_path / "float.tif")


def test_palettes_with_transparency_read_without_a_warning(tmp_path):
    path = tmp_path / "palette.png"
    Image.fromarray(pixels(1)[0]).quantize(8).save(path, transparency=bytes(range(8)))
    assert read_image(path).shape == (3, 8, 8)


def test_a_long_strip_needs_no_memory_to_match(tmp_path):
    path = tmp_path / "strip.png"
    Image.new("L", (200_000, 1), 77).save(path)
    assert read_image(path, resize=Resize(size=32)).unique().tolist() == [77]


def broken_images(folder: Path) -> dict[str, Path]:
    whole = save_image(folder / "whole.jpg", height=64, width=64).read_bytes()
    contents = {
        "empty.jpg": b"",
        "truncated.jpg": whole[: len(whole) // 2],
        "text.jpg": b"this is no image",
        "huge.png": huge_png(12_000, 12_000),
        "bomb.png": huge_png(60_000, 60_000),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in contents}


def test_broken_images_are_named_in_one_line(tmp_path):
    reasons = {"empty.jpg": "zero bytes", "truncated.jpg": "truncated", "text.jpg": "cannot identify"}
    reasons |= {"huge.png": "144 megapixels", "bomb.png": "megapixels"}
    for name, path in broken_images(tmp_path).items():
        with pytest.raises(RequestError, match=name) as caught:
            read_image(path)
        assert reasons[name] in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(RequestError, match="absent"):
        read_image(tmp_path / "absent.png")


@settings(max_examples=150, deadline=None)
@given(data=st.data(), kind=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"]))
def test_damaged_files_raise_nothing_else(tmp_path_factory, data, kind):
    file = io.BytesIO()
    Image.fromarray(pixels(1, 20, 20)[0]).save(file, kind)
    content = bytearray(file.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        # the dimensions of a BMP or TIFF stand in its head: leave sizes that are legal but slow alone
        content[data.draw(st.integers(26, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(1, len(content)))]
    path = tmp_path_factory.mktemp("damaged") / f"image.{kind.lower()}"
    path.write_bytes(bytes(content))
    with contextlib.suppress(RequestError):
        assert read_image(path, resize=Resize(size=8)).shape == (3, 8, 8)


# image folders


def image_folder(root: Path, *splits: str, per_class: int = 10) -> Path:
    for split in splits or (".",):
        for label, name in enumerate(("cat", "dog")):
            for i in range(per_class):
                save_image(root / split / name / f"{i}.png", seed=100 * label + i)
    return root


@pytest.mark.parametrize(
    ("splits", "sizes"),
    [
        ((), (14, 2, 4)),
        (("train",), (14, 2, 4)),
        (("train", "val"), (18, 2, 20)),
        (("train", "test"), (18, 2, 20)),
        (("train", "valid", "test"), (20, 20, 20)),
    ],
)
def test_folders_give_three_splits_that_do_not_overlap(tmp_path, splits, sizes):
    data = open_data(DataSettings(source=str(image_folder(tmp_path / "pets", *splits)), resize=8))
    assert (len(data.train), len(data.val), len(data.test)) == sizes
    assert data.class_names == ("cat", "dog")
    assert data.name == "pets"
    assert data.input_shape == (3, 8, 8)
    paths = [str(p) for split in (data.train, data.val, data.test) for p in split.images]
    assert len(set(paths)) == len(paths)
    for split in (data.train, data.val, data.test):
        assert np.bincount(split.labels).tolist() == [len(split) // 2] * 2


def test_bad_samples_fail_or_are_counted(tmp_path):
    root = image_folder(tmp_path / "pets")
    broken = broken_images(tmp_path)
    for name, path in broken.items():
        path.rename(root / "cat" / name)
    (root / "cat" / "notes.txt").write_text("not an image by name")
    (root / "cat" / "._0.png").write_text("another system's side file")
    (root / ".hidden").mkdir()
    with pytest.raises(RequestError, match=r"image .*cat"):
        open_data(DataSettings(source=str(root), resize=8))
    data = open_data(DataSettings(source=str(root), resize=8, on_bad_sample="skip", channels=1))
    assert len(data.train) + len(data.val) + len(data.test) == 20
    assert len(data.skipped) == len(broken)
    assert all(any(name in line for line in data.skipped) for name in broken)
    assert data.input_shape == (1, 8, 8)


def test_folders_that_cannot_serve(tmp_path):
    def refused(root, message, **changes):
        with pytest.raises(RequestError, match=message) as caught:
            open_data(DataSettings(**({"source": str(root), "resize": 8} | changes)))
        assert "\n" not in str(caught.value)

    root = image_folder(tmp_path / "pets")
    refused(root, "needs a size", resize=None)
    (root / "fish").mkdir()
    refused(root, "no usable images in class folder.* fish")
    refused(tmp_path / "pets" / "cat", "has no class folders")
    refused(tmp_path / "absent", "unknown data source .* neither a folder, a .npz file nor a table; known names")
    refused(image_folder(tmp_path / "tested", "test"), "no train folder")
    one = tmp_path / "one"
    save_image(one / "cat" / "0.png")
    save_image(one / "cat" / "1.png")
    save_image(one / "cat" / "2.png")
    refused(one, "one class only")
    strange = image_folder(tmp_path / "strange", "train", "test")
    (strange / "test" / "zebra").mkdir()
    refused(strange, "classes that the training images lack: zebra")


# .npz files


def test_medmnist_layout(tmp_path):
    two_dimensional = {f"{s}_labels": np.arange(n)[:, None] % 3 for s, n in (("train", 20), ("val", 6), ("test", 6))}
    data = open_data(str(npz(tmp_path / "med.npz", **two_dimensional)))
    assert data.train.labels.shape == (20,)
    assert data.class_names == ("0", "1", "2")
    grey = {f"{s}_images": pixels(n, channels=1)[..., 0] for s, n in (("train", 20), ("val", 6), ("test", 6))}
    path = str(npz(tmp_path / "grey.npz", **grey, class_names=np.array(["a", "b", "c"])))
    assert open_data(path).input_shape == (1, 8, 8)
    assert open_data(path).class_names == ("a", "b", "c")
    wide = open_data(DataSettings(source=path, channels=3, resize=16))
    assert wide.input_shape == (3, 16, 16)
    assert len(set(wide.normalisation.mean)) == 1


def test_normalisation_is_the_training_images_own(tmp_path):
    data = open_data(str(npz(tmp_path / "med.npz")))
    images, _ = data.train.batch(range(20))
    assert images.mean((0, 2, 3)).abs().max() < 1e-3
    assert (images.std((0, 2, 3)) - 1).abs().max() < 2e-3


def test_a_missing_validation_split_is_parted_off(tmp_path):
    data = open_data(str(npz(tmp_path / "med.npz", val_images=pixels(0), val_labels=np.empty(0, int))))
    assert (len(data.train), len(data.val)) == (17, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_labels": None}, "not in the MedMNIST layout: test_labels"),
        ({"train_images": pixels(20) / 255.0}, "'train_images' in .* is float64"),
        ({"train_images": np.zeros((20, 8, 8, 8), np.uint8)}, "expected uint8"),
        ({"train_images": np.array([{}] * 20)}, "without pickle"),
        ({"train_labels": np.array(["cat"] * 20)}, "'train_labels' in .* are text; number the classes"),
        ({"train_labels": np.zeros((20, 14), int)}, "one class index per sample"),
        ({"train_labels": np.zeros(19, int)}, "20 images but 19 labels"),
        ({"train_labels": np.arange(20) % 3 - 1}, "'train_labels' in .* run from -1"),
        ({"train_labels": np.full(20, 2**40)}, "more than 100,000 classes"),
        ({"train_labels": np.zeros(20, int)}, "one class only"),
        ({"class_names": np.array(["only one"])}, "1 class names"),
        ({"train_images": pixels(0), "train_labels": np.empty(0, int)}, "no train images"),
        ({"test_images": pixels(0), "test_labels": np.empty(0, int)}, "no test images"),
    ],
)
def test_npz_files_that_cannot_serve(tmp_path, changes, message):
    with pytest.raises(RequestError, match=message) as caught:
        open_data(str(npz(tmp_path / "med.npz", **changes)))
    assert "\n" not in str(caught.value)


@settings(max_examples=30, deadline=None)
@given(share=st.floats(0, 0.999), flip=st.integers(0, 255))
def test_truncated_npz_files_are_named(tmp_path_factory, share, flip):
    path = npz(tmp_path_factory.mktemp("npz") / "med.npz")
    content = bytearray(path.read_bytes())
    content[int(share * len(content))] ^= flip
    path.write_bytes(bytes(content[: int(share * len(content))]))
    with pytest.raises(RequestError, match=r"med\.npz"):
        open_data(str(path))


def test_other_files_named_npz(tmp_path):
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    (tmp_path / "text.npz").write_text("hello")
    for name, message in (
        ("array", "single array"),
        ("text", "cannot be read"),
        ("absent", "does not exist"),
    ):
        with pytest.raises(RequestError, match=message):
            open_data(str(tmp_path / f"{name}.npz"))


def test_settings_are_checked(tmp_path):
    path = str(npz(tmp_path / "med.npz"))
    with pytest.raises(RequestError, match="unknown augmentation 'fog'; known: none"):
        open_data(DataSettings(source=path, augmentation="fog"))
    with pytest.raises(RequestError, match="3 channel"):
        open_data(DataSettings(source=path, channels=1))
    with pytest.raises(RequestError, match="unknown torchvision data set 'cifar11' .*; known: cifar10"):
        open_data("torchvision/cifar11")
    with pytest.raises(RequestError, match="needs the folder"):
        open_data("torchvision/cifar10")
    with pytest.raises(RequestError, match="download=true"):
        open_data(DataSettings(source="torchvision/cifar10", root=tmp_path))
    with pytest.raises(RequestError, match="one class only"):
        open_data(DataSettings(source=path, limit=1))


def wrong_sources(folder: Path) -> dict[str, tuple[dict, str]]:
    """Requests that can be refused without opening data, with the beginning of what is said."""
    np.save(folder / "array.npy", np.zeros(3))
    (folder / "array.npy").rename(folder / "array.npz")
    (folder / "text.npz").write_text("hello")
    npz(folder / "half.npz", test_labels=None)
    good, pets = npz(folder / "good.npz"), image_folder(folder / "pets", per_class=1)
    image_folder(folder / "tested", "test", per_class=1)
    (folder / "empty" / "cat").mkdir(parents=True)
    where = "no such folder"
    return {
        "unknown": ({"source": "cifar11"}, r"unknown data source 'cifar11' \(did you mean 'cifar10'\?\)"),
        "nearby": ({"source": f"{folder}/godo.npz"}, r"does not exist \(did you mean 'good.npz'\?\)"),
        "folder": ({"source": f"{folder}/pet"}, r"unknown data source .*\(did you mean 'pets'\?\)"),
        "library": ({"source": "imagenete"}, r"did you mean 'torchvision/imagenet'\?"),
        "absent": ({"source": f"{folder}/none/cifar10.npz"}, "does not exist; fetch it: secateur data fetch cifar10"),
        "unnamed": ({"source": " "}, "no data are named; give a file, a folder or one of: mnist5k"),
        "long": ({"source": "x" * 400}, "cannot be read"),
        "array": ({"source": f"{folder}/array.npz"}, "holds a single array"),
        "text": ({"source": f"{folder}/text.npz"}, "cannot be read as .npz"),
        "half": ({"source": f"{folder}/half.npz"}, "not in the MedMNIST layout: test_labels is missing"),
        "size": ({"source": str(pets)}, "needs a size"),
        "no training": ({"source": f"{folder}/tested", "resize": 8}, "but no train folder"),
        "no images": ({"source": f"{folder}/empty", "resize": 8}, r"no usable images in class folder\(s\) cat"),
        "fog": (
            {"source": str(good), "augmentation": "flop"},
            r"'flop' \(did you mean 'flip'\?\)",
        ),
        "vision": ({"source": "torchvision/cifar11"}, "unknown torchvision data set 'cifar11'"),
        "root": ({"source": "torchvision/cifar10"}, "needs the folder"),
        "no root": ({"source": "torchvision/cifar10", "root": folder / "no"}, where),
        "file": ({"source": "torchvision/cifar10", "root": good, "download": True}, "is a file"),
        "not there": ({"source": "torchvision/cifar10", "root": folder}, "it has no folder cifar-10-batches-py"),
        "sizes": ({"source": "torchvision/gtsrb", "root": folder}, "images of many sizes"),
        "twice": ({"source": str(good), "classes": ("1", 1)}, "class '1' is asked for twice"),
        "no class": ({"source": str(good), "classes": ()}, "data.classes must be a non-empty list"),
        "one class": ({"source": str(good), "classes": ("cat",)}, r"one class only \('cat'\); at least two"),
        "class": ({"source": str(pets), "resize": 8, "classes": ("cat", "dgo")}, r"unknown class 'dgo' .*mean 'dog'"),
    }


def test_wrong_requests_are_refused_unopened_and_by_opening_alike(tmp_path):
    for name, (request, message) in wrong_sources(tmp_path).items():
        begin = time.perf_counter()
        with pytest.raises(RequestError) as checked:
            check_source(DataSettings(**request))
        assert time.perf_counter() - begin < 0.3, name
        assert re.search(message, str(checked.value)), (name, str(checked.value))
        with pytest.raises(RequestError) as opened:
            open_data(DataSettings(**request))
        assert str(opened.value) == str(checked.value)
        assert "\n" not in str(checked.value)
    check_source(DataSettings(source=str(tmp_path / "good.npz"), classes=("0", 2), augmentation="flip"))


@pytest.mark.parametrize("wrong", [None, 3, {"source": "mnist5k"}, TensorDataset(torch.zeros(2))])
def test_what_is_no_source(wrong):
    with pytest.raises(RequestError, match="open_data takes a source .* or DataSettings, got"):
        open_data(wrong)


def test_with_the_networks_normalisation(tiny_data):
    other = tiny_data.with_normalisation(Normalisation((0.1,), (0.3,)))
    assert other.normalisation.mean == other.test.normalisation.mean == (0.1,)
    with pytest.raises(RequestError, match="channels=3"):
        tiny_data.with_normalisation(COLOUR)


# real data


def test_digits(tiny_data):
    assert isinstance(tiny_data, ImageData)
    assert len(tiny_data.train) == len(tiny_data.test) == 200
    assert tiny_data.input_shape == (1, 28, 28)
    assert len(tiny_data.class_names) == 10


def test_cifar10(cifar10_path):
    data = open_data(DataSettings(source=str(cifar10_path), limit=500, augmentation="crop-flip"))
    assert data.class_names[3] == "cat"
    assert data.input_shape == (3, 32, 32)
    assert all(
        abs(m - expected) < 0.02 for m, expected in zip(data.normalisation.mean, (0.49, 0.48, 0.45), strict=True)
    )
    assert data.train.augmentation is not None
    assert data.test.augmentation is None


# reference samples


@settings(max_examples=40, deadline=None)
@given(
    labels=st.lists(st.integers(0, 4), min_size=30, max_size=60),
    per_class=st.integers(1, 3),
    seed=st.integers(0, 9),
)
def test_reference_samples_are_balanced_repeatable_and_independent(labels, per_class, seed):
    split = labelled(labels, class_names=list("abcde"))
    classes = [c for c in range(5) if labels.count(c) >= per_class]
    drawn = ReferenceSet.sample(split, per_class, seed, classes)
    again = ReferenceSet.sample(split, per_class, seed, classes)
    assert drawn.indices == again.indices
    assert torch.equal(drawn.inputs, again.inputs)
    assert drawn.targets.tolist() == [c for c in classes for _ in range(per_class)]
    assert len(set(drawn.indices)) == len(drawn)
    assert torch.equal(drawn.inputs, split.batch(drawn.indices)[0])
    assert split.labels[list(drawn.indices)].tolist() == drawn.targets.tolist()
    # a class's draw does not depend on the others asked for, nor on their order
    for c in classes:
        alone = ReferenceSet.sample(split, per_class, seed, ["abcde"[c]])
        assert alone.indices == tuple(i for i in drawn.indices if labels[i] == c)


def test_reference_samples_differ_between_seeds(tiny_data):
    first, second = (ReferenceSet.sample(tiny_data.train, 5, seed=s).indices for s in (0, 1))
    assert first != second


def test_reference_batches_and_bounds(tiny_data):
    drawn = ReferenceSet.sample(tiny_data.train, 2)
    assert drawn.bounds == tiny_data.normalisation.bounds()
    batches = list(drawn.batches(7))
    assert [len(x) for x, _ in batches] == [7, 7, 6]
    assert torch.equal(torch.cat([x for x, _ in batches]), drawn.inputs)
    assert torch.equal(torch.cat([y for _, y in batches]), drawn.targets)


def test_reference_samples_are_not_augmented():
    split = labelled([0, 1] * 5, augmentation=augmentation("photo"))
    plain = split.replace(augmentation=None)
    for kind in (split, Subset(split, range(10)), Subset(Subset(split, range(10)), range(10))):
        assert torch.equal(ReferenceSet.sample(kind, 3).inputs, ReferenceSet.sample(plain, 3).inputs)
    assert split.augmentation is not None


class Plain(Dataset):
    def __init__(self, inputs, targets):
        self.inputs, self.answers = inputs, targets

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        return self.inputs[index], self.answers[index]


def test_reference_samples_of_any_data_set():
    inputs, targets = torch.randn(12, 3), torch.arange(12) % 3
    expected = ReferenceSet.sample(TensorDataset(inputs, targets), 2)
    assert expected.bounds is None
    for kind in (
        Plain(inputs, targets.tolist()),
        Plain(inputs, targets),
        Subset(Plain(inputs, targets), range(12)),
    ):
        drawn = ReferenceSet.sample(kind, 2)
        assert torch.equal(drawn.inputs, expected.inputs)
        assert drawn.targets.tolist() == [0, 0, 1, 1, 2, 2]
    assert ReferenceSet.sample(Plain(inputs, targets), 1, classes=np.array([2, 0])).targets.tolist() == [2, 0]


def test_reference_requests_that_cannot_be_met():
    split = labelled([0, 0, 0, 1, 2, 2], class_names=["cat", "dog", "fish", "none"])

    def refused(message, **arguments):
        with pytest.raises(RequestError, match=message) as caught:
            ReferenceSet.sample(**({"dataset": split, "per_class": 1} | arguments))
        assert "\n" not in str(caught.value)

    refused(r"class 1 \('dog'\) has 1 sample\(s\), fewer than the 2 per class", per_class=2)
    refused("'none'.* has 0 sample", classes=["none"])
    refused("at least 1", per_class=0)
    refused("unknown class 'cow'; known: cat, dog, fish, none", classes=["cow"])
    refused("unknown class 7", classes=[7])
    refused("without repeats", classes=["cat", 0])
    refused("non-empty", classes=[])
    refused("empty data set", dataset=split.subset([]))
    refused("do not make a batch", dataset=Plain([torch.zeros(2), torch.zeros(3)], [0, 0]), per_class=2)
    with pytest.raises(RequestError, match="2 reference inputs but 1 targets"):
        ReferenceSet(torch.zeros(2, 3), torch.zeros(1), (0, 1))


class NoLength(Dataset):
    def __getitem__(self, index):
        return torch.zeros(3), 0


class Endless(IterableDataset):
    def __iter__(self):
        return iter([])


class Each(Dataset):
    """Whatever ``make`` gives for a number."""

    def __init__(self, make):
        self.make = make

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return self.make(index)


X, Y = torch.randn(6, 3, 8, 8), torch.arange(6) % 3
WRONG_SETS = {
    "a tensor": (X, r"got one Tensor; add the labels: torch.utils.data.TensorDataset"),
    "an array": (X.numpy(), "got one ndarray"),
    "tensors": ((X, Y), "got a tuple of 2 arrays; make it torch.utils.data.TensorDataset"),
    "a loader": (DataLoader(TensorDataset(X, Y)), "got a DataLoader; give its .dataset"),
    "a name": ("mnist5k", "got the name 'mnist5k'; open it first"),
    "a dict": ({"train": X}, r"got a dict \(train\)"),
    "None": (None, "got None"),
    "no length": (NoLength(), "NoLength, which has no length; add __len__"),
    "a stream": (Endless(), "Endless, which only goes through its samples"),
    "a generator": (iter([(X[0], 0)]), "which only goes through its samples"),
    "a bad subset": (Subset(TensorDataset(X, Y), [9]), "the subset asks for sample 9 of 6"),
    "no labels": (TensorDataset(X), "is a tuple of 1: it has no label"),
    "bare inputs": (Each(lambda i: X[i]), "is one Tensor without a label"),
    "None as label": (Each(lambda i: (X[i], None)), r"has no label \(None\)"),
    "triples": (TensorDataset(X, Y, Y), "is a tuple of 3: it is not clear which of them is the label"),
    "one-hot": (TensorDataset(X, torch.eye(3)[Y]), "one-hot vectors .*argmax them"),
    "several": (TensorDataset(X, torch.ones(6, 3)), "one class index per sample is needed"),
    "ragged": (Each(lambda i: (X[i], [0, [1, 2]])), "make no array"),
    "floats": (TensorDataset(X, Y.float()), r"float32; class indices are needed, make them integers"),
    "fractions": (TensorDataset(X, Y + 0.5), "there is no regression here"),
    "text labels": (Each(lambda i: (X[i], "cat")), "are text; number the classes"),
    "negative": (TensorDataset(X, Y - 1), "run from -1; class indices begin at 0"),
    "dicts": (Each(lambda i: {"input_ids": X[i], "mask": 1}), r"a dict \(input_ids, mask\); give .*inputs_embeds"),
    "dict inputs": (Each(lambda i: ({"input_ids": X[i]}, 0)), "not one tensor; wrap the network .*padding masks"),
    "tuple inputs": (Each(lambda i: ((X[i], X[i]), 0)), "is a tuple of 2, not one tensor; wrap the network"),
    "text": (Each(lambda i: ("hello", 0)), "is text; turn it into token ids of one length or into embeddings"),
    "pictures": (Each(lambda i: (Image.new("RGB", (8, 8)), 0)), "is a PIL image .*give the data set a transform"),
}


@pytest.mark.parametrize("name", WRONG_SETS)
def test_data_sets_that_are_none_are_refused_in_one_line(name):
    wrong, message = WRONG_SETS[name]
    for use in (lambda: ReferenceSet.sample(wrong, 1), lambda: list(loader(wrong, 2))):
        with pytest.raises(RequestError, match=message) as caught:
            use()
        assert "\n" not in str(caught.value)


def test_what_counts_are_the_samples():
    odd = Each(lambda i: (X[i], int(Y[i])))
    odd.labels = ["a name"] * 6  # something else that happens to be called so
    assert ReferenceSet.sample(odd, 2).targets.tolist() == [0, 0, 1, 1, 2, 2]
    column = TensorDataset(X, Y[:, None])
    assert ReferenceSet.sample(column, 2).targets.tolist() == [0, 0, 1, 1, 2, 2]
    assert [y.shape for _, y in loader(column, 4)] == [(4,), (2,)]
    assert len(list(loader([(X[0], 0), (X[1], 1)]))) == 1


@pytest.mark.parametrize(
    ("inputs", "targets", "message"),
    [
        (X.numpy(), Y, r"got ndarray; torch.as_tensor\(inputs\)"),
        ({"input_ids": X}, Y, "got dict; wrap the network .*inputs_embeds"),
        ((X, X), Y, "got tuple; wrap the network"),
        ("cifar10", Y, "got str; ReferenceSet.sample draws"),
        ((X * 9).to(torch.uint8), Y, r"torch.uint8 of shape \[6, 3, 8, 8\]; give what the network takes"),
        (X, None, "targets must be one tensor, samples first, got NoneType"),
        (X, torch.eye(3)[Y], r"of shape \[6, 3\]; argmax them"),
        (X, Y.float(), "one class index per sample"),
        (X, Y - 1, "run from -1"),
        (torch.tensor(1.0), Y, "no dimensions"),
    ],
)
def test_reference_sets_that_are_none(inputs, targets, message):
    with pytest.raises(RequestError, match=message) as caught:
        ReferenceSet(inputs, targets, tuple(range(6)))
    assert "\n" not in str(caught.value)


# how they look


def test_data_are_one_line():
    split = labelled([0, 1, 2, 2])
    assert repr(split) == "LabelledImages(4 images of [3, 8, 8], 3 classes with 1 to 2)"
    assert repr(split.replace(resize=Resize(size=4))) == "LabelledImages(4 images of [3, 4, 4], 3 classes with 1 to 2)"
    data = ImageData("pets", split, split.subset([]), split, ("a.png is empty",))
    assert repr(data) == "ImageData('pets': 4 train, 0 val, 4 test images of [3, 8, 8], 3 classes, 1 skipped)"
    assert repr(split.subset([])) == "LabelledImages(0 images of [3, 8, 8], no classes)"
    assert repr(ReferenceSet.sample(split, 1)) == "ReferenceSet(3 samples of [3, 8, 8], 3 classes × 1)"
    assert repr(GREY) == "Normalisation(mean=(0.5,), std=(0.25,))"
    assert len(repr(Normalisation((0.1,) * 64, (1.0,) * 64))) < 80


def test_notebooks_see_classes_and_images(tmp_path):
    split = labelled([0, 1, 2, 2], class_names=["cat", "a<b", "cow"])
    page = split._repr_html_()
    assert "data:image/png" in page
    assert "a&lt;b" in page
    assert "LabelledImages(4 images" in page
    assert "data:image/png" in ReferenceSet.sample(split, 1)._repr_html_()
    assert "data:image/png" in ReferenceSet(torch.rand(2, 1, 8, 8), torch.arange(2), (0, 1))._repr_html_()
    # vectors, values of an unknown range, files that cannot be read, nothing at all
    plain = [ReferenceSet(torch.rand(2, 9), torch.arange(2), (0, 1)), ReferenceSet(X * 9, Y, tuple(range(6)))]
    plain += [labelled([0, 1], images=[tmp_path / "absent.png"] * 2), split.subset([])]
    for shown in plain:
        assert "<img" not in shown._repr_html_()
        assert "<table" in shown._repr_html_()
    files = [save_image(tmp_path / f"{i}.png", seed=i, height=10 + i) for i in range(20)]
    assert "data:image/png" in labelled([0, 1] * 10, images=list(map(str, files)))._repr_html_()


def test_nothing_here_warns(tiny_data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in loader(tiny_data.train, 64, shuffle=True):
            pass


def listed(tmp_path, samples):
    path = tmp_path / "list.json"
    path.write_text(json.dumps(samples))
    return path


def twelve():
    return TensorDataset(torch.arange(36.0).reshape(12, 3), torch.arange(12) % 3)


def test_reference_samples_are_shared_as_a_list(tmp_path):
    reference = ReferenceSet.sample(twelve(), per_class=2, seed=5)
    found = ReferenceSet.read(reference.save(tmp_path / "reference.json"), twelve())
    assert found.indices == reference.indices
    assert torch.equal(found.inputs, reference.inputs)
    assert torch.equal(found.targets, reference.targets)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"samples": [[0, 1]]}, "sample 0 here is of class 0, not 1; give the data that it was drawn from"),
        ({"samples": [[99, 0]]}, "sample 99 here does not exist"),
        ({"samples": []}, "is no list of reference samples"),
        ({"samples": [[0]]}, "is no list of reference samples"),
        ({"samples": [[True, 0]]}, "is no list of reference samples"),
        ({"samples": [[-1, 2]]}, "is no list of reference samples"),
        ([0, 1], "is no list of reference samples"),
    ],
)
def test_lists_of_other_data_are_refused(tmp_path, value, message):
    with pytest.raises(RequestError, match=message):
        ReferenceSet.read(listed(tmp_path, value), twelve())
