import hashlib
import json
import os
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.core.devices import choose_device
from secateur.core.errors import RequestError, SecateurError
from secateur.core.files import atomic_folder, atomic_path, read_json, sha256, write_json, write_text
from secateur.core.randomness import derive_seed, numpy_generator, torch_generator
from secateur.core.registry import Registry


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def refuse_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)


# errors


def test_exit_codes_and_kinds():
    assert (SecateurError.exit_code, RequestError.exit_code) == (1, 2)
    assert issubclass(RequestError, SecateurError)
    assert issubclass(RequestError, ValueError)


# files


@settings(max_examples=30, deadline=None)
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=50), min_size=1, max_size=4))
def test_a_text_file_holds_the_last_whole_text_and_nothing_else_lies_there(tmp_path_factory, texts):
    target = tmp_path_factory.mktemp("atomic") / "deep" / "file.txt"
    for text in texts:
        write_text(target, text)
        assert target.read_bytes() == text.replace("\n", os.linesep).encode()
    assert names(target.parent) == ["file.txt"]


@pytest.mark.parametrize("interruption", [RuntimeError, KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_write_leaves_the_old_file(tmp_path, interruption):
    target = write_text(tmp_path / "file.txt", "old")

    def interrupted() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half of the ne")
            raise interruption

    with pytest.raises((RuntimeError, KeyboardInterrupt, SecateurError)):
        interrupted()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_a_full_disk_is_one_clear_line(tmp_path, monkeypatch):
    refuse_fsync(monkeypatch)
    with pytest.raises(SecateurError, match=r"cannot write '.*file\.txt' \(No space left on device\)") as caught:
        write_text(tmp_path / "file.txt", "text")
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, RequestError)
    assert names(tmp_path) == []


def test_a_file_size_limit_is_reported(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(SecateurError, match="cannot write"):
            write_text(tmp_path / "file.txt", "x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert names(tmp_path) == []


def test_a_folder_that_is_a_file_is_reported(tmp_path):
    (tmp_path / "occupied").write_text("a file")
    with pytest.raises(SecateurError, match="cannot write"):
        write_text(tmp_path / "occupied" / "file.txt", "text")
    with pytest.raises(RequestError, match="is a file where a folder"), atomic_folder(tmp_path / "occupied"):
        pass
    assert (tmp_path / "occupied").read_text() == "a file"


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    target = tmp_path / "bundle"
    for name in ("first", "second"):
        with atomic_folder(target) as temporary:
            (temporary / name).write_text(name)
            (temporary / "inner").mkdir()
            (temporary / "inner" / "leaf").write_text("leaf")
    assert sorted(p.name for p in target.iterdir()) == ["inner", "second"]
    assert names(tmp_path) == ["bundle"]


def test_an_interrupted_folder_leaves_the_old_one(tmp_path):
    target = tmp_path / "bundle"
    with atomic_folder(target) as temporary:
        (temporary / "file").write_text("old")

    def interrupted() -> None:
        with atomic_folder(target) as temporary:
            (temporary / "file").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (target / "file").read_text() == "old"
    assert names(tmp_path) == ["bundle"]


def test_a_failed_exchange_of_folders_puts_the_old_one_back(tmp_path, monkeypatch):
    target = tmp_path / "bundle"
    with atomic_folder(target) as temporary:
        (temporary / "file").write_text("old")
    rename = Path.replace

    def fails_for_the_new(self, destination):
        if self.suffix == ".part":
            raise OSError(5, "Input/output error")
        return rename(self, destination)

    monkeypatch.setattr(Path, "replace", fails_for_the_new)
    with pytest.raises(SecateurError, match="Input/output error"), atomic_folder(target) as temporary:
        (temporary / "file").write_text("new")
    assert (target / "file").read_text() == "old"
    assert names(tmp_path) == ["bundle"]


def test_a_full_disk_leaves_no_folder(tmp_path, monkeypatch):
    refuse_fsync(monkeypatch)
    with pytest.raises(SecateurError, match="No space left"), atomic_folder(tmp_path / "bundle") as temporary:
        (temporary / "file").write_text("text")
    assert names(tmp_path) == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=30, deadline=None)
@given(value=json_values)
def test_json_round_trip(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("json") / "value.json"
    # lone surrogates are no text
    text = json.dumps(value)
    if "\\ud" not in text:
        assert read_json(write_json(path, value)) == value


def test_json_refuses_what_other_readers_refuse(tmp_path):
    with pytest.raises(SecateurError, match="NaN or infinity"):
        write_json(tmp_path / "value.json", {"loss": float("nan")})
    assert names(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_broken_json_is_named(tmp_path, content):
    path = tmp_path / "value.json"
    path.write_bytes(content)
    with pytest.raises(RequestError, match=r"value\.json"):
        read_json(path)
    with pytest.raises(RequestError, match="does not exist"):
        read_json(tmp_path / "absent.json")


def test_sha256(tmp_path):
    path = write_text(tmp_path / "file.txt", "text")
    assert sha256(path) == hashlib.sha256(b"text").hexdigest()


# random numbers


@given(seed=st.integers(0, 2**70), purpose=st.lists(st.text(max_size=5) | st.integers(), max_size=3))
def test_seeds_are_stable_and_in_range(seed, purpose):
    value = derive_seed(seed, *purpose)
    assert value == derive_seed(seed, *purpose)
    assert 0 <= value < 2**63
    assert value != derive_seed(seed + 1, *purpose)


def test_seeds_are_the_same_on_every_machine():
    assert derive_seed(0, "augment", 3) == 604450161917222388
    assert numpy_generator(0, "x").integers(1000) == numpy_generator(0, "x").integers(1000)
    assert torch.equal(
        torch.rand(3, generator=torch_generator(0, "x")), torch.rand(3, generator=torch_generator(0, "x"))
    )


def test_generators_leave_the_global_ones_alone():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    torch_generator(0, "x")
    numpy_generator(0, "x").random(3)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002


# registry


def test_registry_answers_unknown_names_with_the_known():
    table: Registry[int] = Registry("number")
    table.register("one")(lambda: 1)
    table.register("two")(lambda step=2: step)
    assert list(table) == ["one", "two"]
    assert "one" in table
    assert table.create("two", step=5) == 5
    with pytest.raises(RequestError, match=r"unknown number 'tow' \(did you mean 'two'\?\); known: one, two"):
        table.create("tow")
    with pytest.raises(RequestError, match=r"number 'one' cannot be built with \{'step': 3\}"):
        table.create("one", step=3)
    with pytest.raises(RequestError, match="already registered"):
        table.register("one")(lambda: 2)


# devices


def test_devices():
    assert choose_device("cpu").type == "cpu"
    assert choose_device().type in ("cpu", "cuda", "mps")


@pytest.mark.parametrize("request_", ["nonsense", "meta", "vulkan", "hpu", "cuda:99", ""])
def test_devices_that_cannot_compute_here_are_refused(request_):
    with pytest.raises(RequestError, match="cannot be used here") as caught:
        choose_device(request_)
    assert "\n" not in str(caught.value)
