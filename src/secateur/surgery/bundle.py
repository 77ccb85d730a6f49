"""Bundles: a folder with a pruned network and all that is needed to load it, without pickle.

``manifest.json`` holds the SHA-256 of every other file and is written last; the folder appears as a whole.
"""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from secateur.core.errors import RequestError
from secateur.core.files import atomic_folder, read_json, sha256, write_json, write_text
from secateur.models import build, load_weights, origin_of, save_weights
from secateur.selection import Cut, Plan
from secateur.selection.plan import cut_from_json
from secateur.surgery.prune import ADDED_BIAS, add_bias, apply_cuts, cuts_of

BUNDLE_VERSION = 1
_WEIGHTS, _ARCHITECTURE, _MANIFEST = "model.safetensors", "architecture.json", "manifest.json"


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle.

    Attributes:
        model: the network, in eval mode.
        architecture: how it was built, its cuts, normalisation and class names.
        plan: the last plan, as JSON values; None when it was never pruned.
        metrics: what was measured.
    """

    model: nn.Module
    architecture: dict[str, Any]
    plan: dict[str, Any] | None
    metrics: dict[str, Any]


def save(
    model: nn.Module,
    path: str | Path,
    *,
    plan: Plan | None = None,
    recipe: dict[str, Any] | None = None,
    metrics: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
) -> Path:
    """Write a bundle; an existing one is replaced only when the new one is complete.

    Args:
        model: pruned or not.
        path: folder.
        plan: that made it (all cuts are recorded in any case).
        recipe: settings of the run.
        metrics: measured figures.
        data: what the network expects: ``{"normalisation": {"mean", "std"}, "class_names": [...]}``.

    Returns:
        The folder.

    Raises:
        SecateurError: when the disk is full; nothing is left then.
    """
    target = Path(path)
    if target.exists() and (not target.is_dir() or (any(target.iterdir()) and not (target / _MANIFEST).exists())):
        raise RequestError(f"'{target}' exists and is not a bundle; choose another folder")
    architecture = {
        "version": BUNDLE_VERSION,
        "origin": origin_of(model),
        "class": f"{type(model).__module__}.{type(model).__qualname__}",
        "cuts": [asdict(cut) for cut in cuts_of(model)],
        "modules": _module_sizes(model),
        "added_biases": _added_biases(model),
        "data": data or {},
        "versions": {name: version(name) for name in ("secateur", "torch", "torchvision")}
        | {"python": platform.python_version()},
    }
    with atomic_folder(target) as folder:
        save_weights(model, folder / _WEIGHTS)
        write_json(folder / _ARCHITECTURE, architecture)
        write_json(folder / "plan.json", None if plan is None else plan.to_json())
        write_text(folder / "recipe.yaml", yaml.safe_dump(recipe or {}, sort_keys=False))
        write_json(folder / "metrics.json", metrics or {})
        sums = {file.name: sha256(file) for file in sorted(folder.iterdir())}
        write_json(folder / _MANIFEST, {"version": BUNDLE_VERSION, "sha256": sums})
    return target


def load(path: str | Path, model: nn.Module | None = None) -> nn.Module:
    """The network of a bundle, in eval mode.

    Args:
        path: bundle folder.
        model: an instance of the original, unpruned network, for networks that were not built by name.

    Raises:
        RequestError: for a missing or changed file, a foreign version, or a network that does not fit.
    """
    return read_bundle(path, model).model


def read_bundle(path: str | Path, model: nn.Module | None = None) -> Bundle:
    """The network of a bundle with its records; see `load`."""
    folder = Path(path)
    if not (folder / _MANIFEST).is_file():
        raise RequestError(f"'{folder}' is not a bundle: {_MANIFEST} is missing")
    manifest = read_json(folder / _MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("version") != BUNDLE_VERSION:
        raise RequestError(
            f"bundle '{folder}' has another version than {BUNDLE_VERSION}; load it with the version that wrote it"
        )
    sums = manifest.get("sha256")
    if not isinstance(sums, dict) or not {_WEIGHTS, _ARCHITECTURE, "plan.json", "metrics.json"} <= set(sums):
        raise RequestError(f"bundle '{folder}' has an incomplete {_MANIFEST}")
    for name, expected in sums.items():
        file = folder / name
        if Path(name).name != name or not file.is_file():
            raise RequestError(f"bundle '{folder}' lacks the file '{name}'")
        if sha256(file) != expected:
            raise RequestError(f"bundle '{folder}': '{name}' was changed since it was written (checksum differs)")
    architecture = read_json(folder / _ARCHITECTURE)
    try:
        cuts: tuple[Cut, ...] = tuple(cut_from_json(c) for c in architecture["cuts"])
        origin, added = architecture["origin"], architecture["added_biases"]
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(f"bundle '{folder}' has an unreadable {_ARCHITECTURE} ({error})") from error
    if model is None:
        if origin is None:
            raise RequestError(
                f"bundle '{folder}' holds a network of the user's own ({architecture.get('class')}); "
                "load it with sc.load(path, model=...), giving an instance of the unpruned network"
            )
        model = build(origin["name"], **origin["arguments"])
    apply_cuts(model, cuts)
    for name in added:
        module = model.get_submodule(name)
        if module._parameters.get("bias") is None:
            add_bias(module, torch.zeros(module.get_parameter("weight").shape[0]))
    load_weights(model, folder / _WEIGHTS)
    return Bundle(model.eval(), architecture, read_json(folder / "plan.json"), read_json(folder / "metrics.json"))


def _module_sizes(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Sizes of the layers that were cut, for readers of the file; loading follows the cuts."""
    touched = {cut.tensor.rpartition(".")[0] for cut in cuts_of(model)}
    names = ("in_channels", "out_channels", "groups", "in_features", "out_features", "num_features")
    return {
        name: {"type": type(module).__name__, **{k: int(getattr(module, k)) for k in names if hasattr(module, k)}}
        for name, module in model.named_modules()
        if name in touched
    }


def _added_biases(model: nn.Module) -> list[str]:
    """Layers that compensation gave a bias which their constructor had not."""
    return [name for name, module in model.named_modules() if getattr(module, ADDED_BIAS, False)]
