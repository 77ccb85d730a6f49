"""The file that an interrupted training goes on from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from secateur.core.errors import RequestError
from secateur.core.files import atomic_path
from secateur.training.history import TrainingHistory
from secateur.training.settings import WHERE, TrainSettings


@dataclass(frozen=True, eq=False)
class TrainingState:
    """A training after some epochs, with whole tensors.

    Attributes:
        request: what was asked for: settings as JSON, and what tells data, teacher, mask and loss apart.
        epoch: how many are done.
        model: weights of that epoch.
        best: weights that are kept so far.
        optimiser: its state.
        scaler: likewise.
        history: of the epochs that are done.
    """

    request: Mapping[str, Any]
    epoch: int
    model: dict[str, torch.Tensor]
    best: dict[str, torch.Tensor]
    optimiser: dict[str, Any]
    scaler: dict[str, Any]
    history: TrainingHistory

    def write(self, path: Path) -> None:
        """Without pickled code; tensors that are model's and best's alike take their place once.

        Raises:
            OSError: when the disk is full, for example.
        """
        state = {**vars(self), **self.request, "history": self.history.to_json()}
        state.pop("request")
        with atomic_path(path) as temporary:
            try:
                torch.save(state, temporary)
            except RuntimeError as error:
                # PyTorch's way to say that the disk is full
                raise OSError(_line(error)) from error

    @classmethod
    def of(cls, found: Any, request: Mapping[str, Any], path: Path) -> TrainingState:
        """What a file holds that belongs to a request.

        Args:
            found: by `read_state`.
            request: that is to go on. Where its work runs may differ from the file's.
            path: for messages.

        Raises:
            RequestError: for a file of another request or version.
        """
        try:
            where = {"settings": _elsewhere(found["settings"], request["settings"])}
            state = cls(
                {**{key: found.get(key) for key in request}, **where},
                epoch=int(found["epoch"]),
                history=TrainingHistory(**found["history"]),
                **{key: found[key] for key in ("model", "best", "optimiser", "scaler")},
            )
        except Exception as error:  # whatever a foreign file raises, the remedy is the same
            raise _foreign(path, error) from error
        if state.request != dict(request):
            raise RequestError(
                f"'{path}' belongs to a training with other settings or data, or another teacher, mask or loss; "
                "delete it or choose another --out"
            )
        return state


def read_state(path: Path) -> Any:
    """What a state file holds, on the CPU.

    Raises:
        RequestError: for a file of another kind.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # likewise
        raise _foreign(path, error) from error


def _elsewhere(settings: str, other: str) -> str:
    """Settings as JSON, with another one's of where the work runs."""
    asked = TrainSettings.model_validate_json(other)
    where = {name: getattr(asked, name) for name in WHERE}
    return TrainSettings.model_validate_json(settings).model_copy(update=where).model_dump_json()


def _foreign(path: Path, error: Exception) -> RequestError:
    return RequestError(f"'{path}' is not a training state of this version ({_line(error)}); delete it to start anew")


def _line(error: Exception) -> str:
    return str(error).split("\n", maxsplit=1)[0]
