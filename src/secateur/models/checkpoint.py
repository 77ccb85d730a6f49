"""Reads and writes weights: safetensors, or PyTorch files that load without unpickling code."""

from __future__ import annotations

import json
import pickle
import textwrap
import warnings
from collections.abc import Container
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from secateur.core.borrowing import check_values
from secateur.core.errors import RequestError
from secateur.core.files import atomic_path
from secateur.core.names import did_you_mean_file
from secateur.models.building import origin_of, rebuild
from secateur.models.safetensors_file import read_safetensors


def save_weights(model: nn.Module, path: str | Path, metadata: dict[str, Any] | None = None) -> Path:
    """Write a network's parameters and buffers as safetensors, atomically.

    The header names the network of the weights, where it was built by name and still has its shapes, so that
    ``build(path)`` restores it.

    Args:
        model: any network; tensors that share memory are written once per name.
        path: file name that ends in ``.safetensors``.
        metadata: JSON values that are stored in the file's header (normalisation, class names, ...).

    Raises:
        RequestError: for tensors on the meta device.
        SecateurError: when the file cannot be written.
    """
    check_values(model)
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    about = {**_architecture(model), **(metadata or {})}
    header = {"format": "pt", **{key: json.dumps(value) for key, value in about.items()}}
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary, header)
        except SafetensorError as error:
            raise OSError(f"{error}") from error
    return Path(path)


def _architecture(model: nn.Module) -> dict[str, Any]:
    """The name and arguments that build a network like this one; empty where they would not, or are not known."""
    origin = origin_of(model)
    if origin is None:
        return {}
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # initialising tensors without memory raises a warning
        try:
            with torch.device("meta"):
                fresh = rebuild(origin)
        except RequestError:  # constructors may compute with values, which tensors without memory do not have
            try:
                fresh = rebuild(origin)
            except RequestError:  # arguments that are not JSON values
                return {}
    same = shapes == {name: tensor.shape for name, tensor in fresh.state_dict().items()}
    return {"architecture": origin["name"], "arguments": origin["arguments"]} if same else {}


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint.

    Raises:
        RequestError: for a missing or broken file, or one whose loading would execute code (pickle).
    """
    path = Path(path)
    if not path.is_file():
        raise RequestError(f"checkpoint '{path}' does not exist{did_you_mean_file(path)}")
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    try:
        with warnings.catch_warnings():
            # for a TorchScript archive, PyTorch warns before it is refused
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise RequestError(
            f"checkpoint '{path}' is broken, or holds objects whose unpickling may run code; "
            "save the network's state_dict() as safetensors and load that"
        ) from error
    except Exception as error:  # for a broken file torch.load may raise almost anything, even AssertionError
        reason = str(error).split("\n", maxsplit=1)[0]
        raise RequestError(f"checkpoint '{path}' cannot be read ({reason})") from error
    if isinstance(loaded, dict):
        loaded = next(
            (loaded[k] for k in ("state_dict", "model", "model_state_dict") if isinstance(loaded.get(k), dict)),
            loaded,
        )
    if not isinstance(loaded, dict) or not all(isinstance(v, torch.Tensor) for v in loaded.values()):
        raise RequestError(f"checkpoint '{path}' does not hold a state_dict (names to tensors)")
    return loaded


def load_weights(model: nn.Module, path: str | Path) -> nn.Module:
    """Load a checkpoint into a network, strictly.

    Raises:
        RequestError: for an unreadable file, names or shapes that do not match, NaN/inf values, or a network into which
            weights cannot be loaded: on the meta device, or built inside `torch.inference_mode`.
    """
    return load_tensors(model, read_tensors(path), path)


def load_tensors(model: nn.Module, tensors: dict[str, torch.Tensor], path: str | Path) -> nn.Module:
    """Load tensors of a checkpoint into a network; see `load_weights`.

    Args:
        model: the network, which is changed in place.
        tensors: tensors by name.
        path: path of the checkpoint, for messages.
    """
    check_values(model)
    if not torch.is_inference_mode_enabled():
        for name, tensor in model.state_dict(keep_vars=True).items():
            if tensor.is_inference():
                raise RequestError(
                    f"'{name}' was made inside torch.inference_mode and cannot take weights outside of it; "
                    "build the network outside"
                )
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors = _without_wrapper(tensors, before)
    for name, tensor in tensors.items():
        _check_tensor(name, tensor, f" in checkpoint '{path}'")
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        model.load_state_dict(before)  # tensors that fit were already copied
        lines = " ".join(line.strip() for line in str(error).splitlines()[1:])
        raise RequestError(f"checkpoint '{path}' does not fit the network: {textwrap.shorten(lines, 400)}") from error
    return model


def _without_wrapper(tensors: dict[str, torch.Tensor], own: Container[str]) -> dict[str, torch.Tensor]:
    """Names without the prefix that DataParallel or torch.compile adds to each."""
    for prefix in ("module.", "_orig_mod."):
        if all(name.startswith(prefix) and name not in own for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def check_finite(model: nn.Module) -> None:
    """Raise `RequestError` naming the first parameter or buffer that holds NaN, infinity, or (on meta) nothing."""
    check_values(model)
    for name, tensor in model.state_dict().items():
        _check_tensor(name, tensor)


def _check_tensor(name: str, tensor: torch.Tensor, where: str = "") -> None:
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        bad = int((~torch.isfinite(tensor)).sum())
        raise RequestError(f"'{name}'{where} holds {bad} NaN or infinite value(s); retrain or repair the network first")
