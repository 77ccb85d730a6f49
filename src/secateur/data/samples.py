"""Checks that samples are pairs of one input tensor and one class index; others are refused with a remedy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, default_collate

from secateur.core.errors import RequestError
from secateur.data.labels import class_labels

ONE_TENSOR = (
    "wrap the network in a module whose forward takes one tensor (images, vectors, token ids of one length, or "
    "inputs_embeds) and makes the rest of it; padding masks are not taken"
)
"""Remedy for inputs that are more than one tensor."""

_PAIRS = "give a data set whose samples are pairs (input tensor, class index)"


def check_dataset(dataset: object, call: str) -> None:
    """Refuse what cannot be asked for its length and for samples by number.

    Args:
        dataset: given by the user.
        call: the function that needs it, for the message.

    Raises:
        RequestError: saying what it is and what to give.
    """
    reason = _not_a_dataset(dataset)
    if reason is not None:
        raise RequestError(f"{call} takes a data set with a length and samples by number, got {reason}")
    if isinstance(dataset, Subset):
        check_dataset(dataset.dataset, call)
        count = len(dataset.dataset)  # type: ignore[arg-type]
        wrong = next((i for i in dataset.indices if not -count <= i < count), None)
        if wrong is not None:
            raise RequestError(f"the subset asks for sample {wrong} of {count}; give it indices that exist")


def _not_a_dataset(dataset: object) -> str | None:
    kind = type(dataset).__name__
    if dataset is None:
        return "None"
    reason: str | None = None
    if isinstance(dataset, DataLoader):
        reason = "a DataLoader; give its .dataset"
    elif isinstance(dataset, torch.Tensor | np.ndarray):
        reason = f"one {kind}; add the labels: torch.utils.data.TensorDataset(inputs, labels)"
    elif isinstance(dataset, str | Path):
        reason = f"the name '{dataset}'; open it first: secateur.open_data(...).train"
    elif isinstance(getattr(dataset, "train", None), Dataset):
        reason = f"all splits of {kind}; give one of them, e.g. data.train"
    elif isinstance(dataset, Mapping):
        reason = f"a {kind} ({_keys(dataset)}); give one data set, e.g. torch.utils.data.TensorDataset(inputs, labels)"
    elif isinstance(dataset, list | tuple) and dataset and isinstance(dataset[0], torch.Tensor | np.ndarray):
        reason = f"a {kind} of {len(dataset)} arrays; make it torch.utils.data.TensorDataset(inputs, labels)"
    elif isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        reason = f"{kind}, which only goes through its samples; collect some of them in a list of pairs"
    else:
        try:
            len(dataset)  # type: ignore[arg-type]
        except (TypeError, NotImplementedError):
            reason = f"{kind}, which has no length; add __len__, or collect some samples in a list of pairs"
    return reason


def checked_pair(sample: Any, where: str) -> tuple[Any, int]:
    """Input and class index of one sample.

    Args:
        sample: what a data set gives for a number.
        where: what messages call it.

    Raises:
        RequestError: for a sample that is no pair, an input that is no tensor, or a label that is no class index.
    """
    if isinstance(sample, Mapping):
        raise RequestError(f"{where} is a {type(sample).__name__} ({_keys(sample)}); {_PAIRS}, and {ONE_TENSOR}")
    if not isinstance(sample, tuple | list):
        raise RequestError(f"{where} is one {type(sample).__name__} without a label; {_PAIRS}")
    if len(sample) != 2:
        reason = "it has no label" if len(sample) == 1 else "it is not clear which of them is the label"
        raise RequestError(f"{where} is a {type(sample).__name__} of {len(sample)}: {reason}; {_PAIRS}")
    values, label = sample
    check_input(values, f"the input of {where}")
    if label is None:
        raise RequestError(f"{where} has no label (None); {_PAIRS}")
    index = class_labels(_flat(label), f"labels (see {where})")
    return values, int(index[0])


def check_input(values: object, where: str) -> None:
    """Refuse an input that is not one tensor or array of numbers.

    Args:
        values: of one sample.
        where: what messages call it.

    Raises:
        RequestError: as said.
    """
    kind = type(values).__name__
    if isinstance(values, Mapping):
        raise RequestError(f"{where} is a {kind} ({_keys(values)}), not one tensor; {ONE_TENSOR}")
    if isinstance(values, tuple | list):
        raise RequestError(f"{where} is a {kind} of {len(values)}, not one tensor; {ONE_TENSOR}")
    if isinstance(values, str | bytes):
        raise RequestError(f"{where} is text; turn it into token ids of one length or into embeddings first")
    if type(values).__module__.partition(".")[0] == "PIL":
        raise RequestError(
            f"{where} is a PIL image ({kind}); give the data set a transform to tensors, e.g. "
            "torchvision.transforms.ToTensor()"
        )
    if values is None:
        raise RequestError(f"{where} is None; {_PAIRS}")


def collated(samples: Sequence[Any]) -> Any:
    """A batch of pairs, as `torch.utils.data.default_collate` makes it.

    Raises:
        RequestError: for samples that are no pairs of tensor and class index, or make no batch.
    """
    checked_pair(samples[0], "the first sample of a batch")
    try:
        inputs, labels = default_collate(list(samples))
        # [N, 1] would be compared with [N] as a table of N x N
        return [inputs, torch.as_tensor(labels).reshape(len(samples))]
    except (TypeError, RuntimeError) as error:
        reason = str(error).split("\n", maxsplit=1)[0]
        raise RequestError(
            f"samples do not make a batch ({reason}); give the data set a transform to tensors of one shape"
        ) from error


def _flat(label: Any) -> Any:
    """One label as a row, so that several values in it are seen."""
    if hasattr(label, "detach"):
        label = label.detach().cpu()
    try:
        return np.asarray(label).reshape(1, -1)
    except (ValueError, TypeError, RuntimeError):
        return label


def _keys(mapping: Mapping[Any, Any]) -> str:
    return ", ".join(map(str, list(mapping)[:5]))
