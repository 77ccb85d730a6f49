"""Bundles: folders with a pruned network and everything that is needed to load it, without pickle.

``manifest.json`` holds the SHA-256 of every other file and is written last; a bundle is written whole or not at all.
"""

from __future__ import annotations

import glob
import json
import platform
import re
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

from secateur.core.errors import RequestError, SecateurError
from secateur.core.files import atomic_folder, read_json, sha256, write_json, write_text
from secateur.core.progress import ProgressOption, reported
from secateur.models.building import rebuild
from secateur.selection import Plan
from secateur.selection.plan import Edits
from secateur.surgery.card import config, model_card
from secateur.surgery.computed import check_computed
from secateur.surgery.origin import added_biases, give_biases, origin_for, original_class
from secateur.surgery.pruning import apply_edits, edits_of
from secateur.surgery.readback import difference_to_file, difference_to_loaded
from secateur.surgery.state import StateRecord, check_loadable, check_savable, read_state, write_state

BUNDLE_VERSION = 3
READABLE = (2, 3)
"""Versions that `load` accepts; what an older version does not record is left as the network is built."""
MANIFEST = "manifest.json"
MEMBERS = (
    "model.safetensors", "architecture.json", "plan.json", "recipe.yaml", "metrics.json", "config.json", "README.md",
)  # fmt: skip
_WEIGHTS, _ARCHITECTURE = MEMBERS[:2]
_MEBIBYTE = 2**20
_LARGEST = {MANIFEST: _MEBIBYTE, _ARCHITECTURE: 512 * _MEBIBYTE}  # bytes; files are parsed after they were checked
_LEFTOVER = re.compile(r"\..+\.part")


class _Origin(BaseModel):
    """How the original network is built by name."""

    model_config = ConfigDict(strict=True)

    name: str
    arguments: dict[str, Any]


class _Architecture(BaseModel):
    """The part of ``architecture.json`` that loading reads."""

    model_config = ConfigDict(strict=True)

    origin: _Origin | None
    why_no_origin: str = ""
    kind: str = Field("?", alias="class")
    edits: dict[str, Any]
    added_biases: list[str]
    state: StateRecord
    data: dict[str, Any]


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle.

    Attributes:
        model: the network, in eval mode.
        architecture: how it was built, its edits, normalisation and class names.
        plan: the last plan, as JSON values; None when it was never pruned.
        metrics: measured figures.
    """

    model: nn.Module
    architecture: dict[str, Any]
    plan: dict[str, Any] | None
    metrics: dict[str, Any]


@reported("writing a bundle")
def save(
    model: nn.Module,
    path: str | Path,
    *,
    plan: Plan | None = None,
    recipe: dict[str, Any] | None = None,
    metrics: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    verify: bool = True,
    progress: ProgressOption = True,
) -> Path:
    """Write a bundle; an existing one is replaced only when the new one is complete.

    A network that can be built by name loads by itself: those of `secateur.build`, and unchanged classes of
    torchvision, timm and transformers, which are recognised by building them again and comparing.

    Args:
        model: the network, pruned or not.
        path: the folder.
        plan: the plan with which it was pruned (all cuts are recorded in any case).
        recipe: settings of the run.
        metrics: measured figures.
        data: what the network expects of its inputs: ``{"normalisation": {"mean", "std"}, "class_names": [...]}``.
        verify: read the bundle back before it is put in place. A network that can be built by name is loaded: all
            tensors must be the same to the bit, and so must the recorded surgery; with ``plan``, one forward pass on
            random inputs of the traced shapes must give the same result (unless the network has hooks, which bundles
            do not hold). For other networks, the files are compared with the network in memory.
        progress: how progress is reported, see `secateur.core.progress.ProgressOption`.

    Returns:
        The folder.

    Raises:
        RequestError: for a folder that is not a bundle, values that are not plain, NaN or infinite parameters,
            tensors without values (on the meta device), and TorchScript.
        SecateurError: when the disk is full, or loading the bundle does not restore the network; nothing is left then.

    Example:
        >>> import tempfile
        >>> from secateur.models import build
        >>> folder = save(build("resnet20"), Path(tempfile.mkdtemp()) / "bundle")
        >>> load(folder).fc.out_features
        10
    """
    target = Path(path)
    _refuse_foreign(target)
    try:
        json.dumps([metrics, recipe, data])
    except TypeError as error:
        raise RequestError(f"metrics, recipe and data of a bundle must be plain values ({error})") from error
    check_savable(model)
    origin, why_not = origin_for(model)
    edits = edits_of(model)
    check_computed(edits)
    architecture = {
        "version": BUNDLE_VERSION,
        "origin": origin,
        "why_no_origin": why_not,
        "class": original_class(model),
        "edits": edits.to_json(),
        "modules": _module_sizes(model),
        "added_biases": added_biases(model),
        "data": data or {},
        "versions": {name: version(name) for name in ("secateur", "torch", "torchvision")}
        | {"python": platform.python_version()},
    }
    with atomic_folder(target) as folder:
        record = write_state(model, folder / _WEIGHTS)
        write_json(folder / _ARCHITECTURE, {**architecture, "state": record.model_dump()})
        write_json(folder / "plan.json", None if plan is None else plan.to_json())
        write_text(folder / "recipe.yaml", yaml.safe_dump(recipe or {}, sort_keys=False))
        write_json(folder / "metrics.json", metrics or {})
        about = config(model, architecture, None if plan is None else plan.achieved)
        write_json(folder / "config.json", about)
        write_text(folder / "README.md", model_card(model, about, metrics or {}))
        sums = {name: sha256(folder / name) for name in MEMBERS}
        write_json(folder / MANIFEST, {"version": BUNDLE_VERSION, "sha256": sums})
        if verify:
            _verify(model, folder, target, plan)
    return target


def _verify(model: nn.Module, folder: Path, target: Path, plan: Plan | None) -> None:
    """Raise `SecateurError` when loading a bundle that was just written does not restore the network."""
    try:
        _check_files(folder)
        read, _ = _architecture(folder)
        if read.origin is None:
            different = difference_to_file(model, folder / _WEIGHTS, read.state, read.edits)
        else:
            with torch.random.fork_rng(devices=[]):  # constructors draw initial weights
                loaded = _read(folder, None).model
            different = difference_to_loaded(model, loaded, None if plan is None else plan.inputs)
    except RequestError as error:
        different = str(error).replace(str(folder), str(target))
    if different:
        raise SecateurError(
            f"'{target}' was not written, since the bundle does not give the network back: {different}; "
            "report this, or save with verify=False and load with sc.load(path, model=...)"
        )


@reported("loading a bundle")
def load(path: str | Path, model: nn.Module | None = None, *, progress: ProgressOption = True) -> nn.Module:
    """The network of a bundle, in eval mode.

    Args:
        path: bundle folder.
        model: an instance of the original, unpruned network, for networks that cannot be built by name; it is cut to
            size and returned.
        progress: how progress is reported, see `secateur.core.progress.ProgressOption`.

    Raises:
        RequestError: for a missing or changed file, a foreign version, or a network that does not fit.
    """
    return read_bundle(path, model).model


def read_bundle(path: str | Path, model: nn.Module | None = None, *, within: Path | None = None) -> Bundle:
    """The network of a bundle with its records; see `load`.

    Args:
        path: bundle folder.
        model: see `load`.
        within: folder in which targets of links must lie; by default the bundle's own.

    Raises:
        RequestError: see `load`.
    """
    folder = Path(path)
    check_folder(folder, within)
    return _read(folder, model)


def _architecture(folder: Path) -> tuple[_Architecture, Edits]:
    values = read_json(folder / _ARCHITECTURE)
    try:
        read = _Architecture.model_validate(values)
        return read, Edits.from_json(read.edits)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise RequestError(f"bundle '{folder}' has an unreadable {_ARCHITECTURE} ({_line(error)})") from error


def _read(folder: Path, model: nn.Module | None) -> Bundle:
    """Read a folder whose files were checked."""
    architecture, plan, metrics = (read_json(folder / name) for name in (_ARCHITECTURE, "plan.json", "metrics.json"))
    read, edits = _architecture(folder)
    if not isinstance(plan, dict | None) or not isinstance(metrics, dict):
        raise RequestError(f"bundle '{folder}' has an unreadable plan.json or metrics.json")
    try:
        with torch.inference_mode(False):  # tensors that are created in inference mode could not be trained
            if model is None:
                if read.origin is None:
                    raise RequestError(
                        f"it holds a network of the user's own ({read.kind}{read.why_no_origin and '; '}"
                        f"{read.why_no_origin}); load it with sc.load(path, model=...), giving an instance of the "
                        "unpruned network; on the command line: --architecture NAME, for code of your own with "
                        "--trust-code"
                    )
                model = rebuild(read.origin.model_dump())
            check_loadable(model)
            check_computed(edits)
            apply_edits(model, edits)
            give_biases(model, read.added_biases)
            read_state(model, folder / _WEIGHTS, read.state)
    except SecateurError as error:
        raise RequestError(f"bundle '{folder}' cannot be loaded: {error}") from error
    except Exception as error:  # edits of another network can fail with any error
        raise RequestError(f"bundle '{folder}' does not fit the network ({_line(error)})") from error
    return Bundle(model.eval(), architecture, plan, metrics)


def check_folder(folder: Path, within: Path | None = None) -> None:
    """Check that a folder is a whole bundle of a known version without a changed file, before it is read.

    Raises:
        RequestError: when it is not.
    """
    if _LEFTOVER.fullmatch(folder.name):
        raise RequestError(f"'{folder}' is what an interrupted save left; delete it, or save in the same place again")
    _check_files(folder, within)


def _check_files(folder: Path, within: Path | None = None) -> None:
    if not (folder / MANIFEST).is_file():
        raise RequestError(f"'{folder}' is not a bundle: {MANIFEST} is missing{_set_aside(folder)}")
    root = (within or folder).resolve()
    _inside(folder, MANIFEST, root)
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("version") not in READABLE:
        raise _foreign_version(folder, manifest)
    sums = manifest.get("sha256")
    if not isinstance(sums, dict) or not set(MEMBERS) <= set(sums):
        raise RequestError(f"bundle '{folder}' has an incomplete {MANIFEST}")
    for name in sums:
        if name not in MEMBERS:
            # also paths outside: '../secret', '/etc/passwd', 'C:\\secret'
            raise RequestError(f"bundle '{folder}' lists '{_short(name)}', which is no file of a bundle")
    for name, expected in sums.items():
        _inside(folder, name, root)
        if sha256(folder / name) != expected:
            raise RequestError(f"bundle '{folder}': '{name}' was changed since it was written (checksum differs)")
    with (folder / _WEIGHTS).open("rb") as file:
        if file.read(9)[8:] != b"{":  # a length of eight bytes, and JSON
            raise RequestError(
                f"bundle '{folder}': '{_WEIGHTS}' is no safetensors file (pickles and PyTorch archives are never read)"
            )


def _inside(folder: Path, name: str, root: Path) -> None:
    file = folder / name
    if not file.is_file():
        raise RequestError(f"bundle '{folder}' lacks the file '{name}'")
    if not file.resolve().is_relative_to(root):
        raise RequestError(f"bundle '{folder}': '{name}' is a link that leads out of the bundle")
    if file.stat().st_size > _LARGEST.get(name, 2**63):
        raise RequestError(f"bundle '{folder}': '{name}' is larger than {_LARGEST[name] // _MEBIBYTE} MiB")


def _set_aside(folder: Path) -> str:
    """A hint where the old bundle is, when the program was stopped between moving it and renaming the new one."""
    name = folder.resolve().name
    olds = sorted(folder.resolve().parent.glob(f".{glob.escape(name)}.*.old/was*")) if name else []
    set_aside = [old for old in olds if (old / MANIFEST).is_file()]
    return f"; an interrupted save left the one before at '{set_aside[0]}', rename it" if set_aside else ""


def _foreign_version(folder: Path, manifest: Any) -> RequestError:
    written = manifest.get("version") if isinstance(manifest, dict) else None
    if type(written) is not int:
        return RequestError(f"bundle '{folder}' has another version than {BUNDLE_VERSION} ('{_short(written)}')")
    try:
        by = re.fullmatch(r"\d+(\.\w+)*", read_json(folder / _ARCHITECTURE)["versions"]["secateur"])
    except (RequestError, KeyError, TypeError):
        by = None
    wrote = f"secateur {by[0]}" if by else "the secateur that wrote it"
    remedy = (
        f"it was written by {wrote}, load and save it again with that version"
        if written < BUNDLE_VERSION
        else "pip install --upgrade secateur"
    )
    return RequestError(f"bundle '{folder}' has version {written}, another version than {BUNDLE_VERSION}; {remedy}")


def _refuse_foreign(target: Path) -> None:
    """Refuse to replace a folder that holds anything but a bundle, because all its files are removed."""
    if not target.exists():
        return
    names = {entry.name for entry in target.iterdir()} if target.is_dir() else {""}
    if names and (MANIFEST not in names or not names <= {MANIFEST, *MEMBERS}):
        other = "".join(sorted(names - {MANIFEST, *MEMBERS})[:1])
        raise RequestError(
            f"'{target}' exists and is not a bundle{other and f' (it holds {other!r})'}; choose another folder"
        )


def _module_sizes(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Sizes of the layers that were cut, for people who read the file; loading uses the cuts."""
    touched = {cut.tensor.rpartition(".")[0] for cut in edits_of(model).cuts}
    names = ("in_channels", "out_channels", "groups", "in_features", "out_features", "num_features")
    return {
        name: {"type": original_class(module), **{k: int(getattr(module, k)) for k in names if hasattr(module, k)}}
        for name, module in model.named_modules()
        if name in touched
    }


def _line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return _short(f"{type(error).__name__}: {error}".splitlines()[0], 200)


def _short(value: Any, length: int = 60) -> str:
    text = str(value)
    return text if len(text) <= length else f"{text[:length]}..."
