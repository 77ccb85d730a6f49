"""Training points from files, in place of drawn ones."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.core.errors import RequestError
from secateur.core.names import did_you_mean_file
from secateur.studies.toy.data import Points, classes_of

if TYPE_CHECKING:
    import numpy as np


def training_points(source: str | Path, dataset: str) -> Points:
    """Training points of a data set as a file has them.

    A file is an ``.npz`` with the arrays ``x`` [N, 2] and ``labels`` [N], or a ``.csv`` with the columns x, y, label. A
    folder holds files of several data sets, by name: ``NAME.npz``, ``NAME.csv``, or the arrays ``NAME_train_X.npy`` and
    ``NAME_train_y.npy``.

    Args:
        source: file or folder.
        dataset: see `secateur.studies.toy.data.classes_of`; its K classes have the labels 0 to K - 1.

    Raises:
        RequestError: for what is missing, cannot be read, or holds no labelled points of each class.

    Example:
        >>> import os, tempfile
        >>> path = Path(tempfile.mkdtemp()) / "points.csv"
        >>> _ = path.write_text(os.linesep.join(["x,y,label", "0.5,1.0,0", "-0.5,0.0,1"]))
        >>> training_points(path, "moon").labels.tolist()
        [0, 1]
    """
    path = Path(source).expanduser()
    if not path.exists():
        raise RequestError(f"training data '{path}' does not exist{did_you_mean_file(path)}")
    if path.is_dir():
        path = _of_folder(path, dataset)
    try:
        x, labels = _read(path)
    except (OSError, ValueError, EOFError, UnicodeDecodeError, zipfile.BadZipFile) as error:
        reason = str(error).split("\n", maxsplit=1)[0]
        raise RequestError(f"training data '{path}' cannot be read ({reason})") from error
    return _checked(path, x, labels, classes_of(dataset))


def _of_folder(folder: Path, dataset: str) -> Path:
    names = [f"{dataset}.npz", f"{dataset}.csv", f"{dataset}_train_X.npy"]
    there = [name for name in names if (folder / name).is_file()]
    if len(there) != 1:
        held = f"several files of '{dataset}' ({', '.join(there)}); keep one" if there else f"no points of '{dataset}'"
        wanted = "" if there else f"; give {', '.join(names[:2])}, or {names[2]} with {dataset}_train_y.npy"
        raise RequestError(f"folder '{folder}' holds {held}{wanted}")
    return folder / there[0]


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np

    if path.suffix == ".npz":
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            _need(path, "arrays", ("x", "labels"), list(arrays))
            return arrays["x"], arrays["labels"]
    if path.suffix == ".csv":
        import pandas as pd

        frame = pd.read_csv(path, skipinitialspace=True)
        _need(path, "columns", ("x", "y", "label"), list(frame))
        return frame[["x", "y"]].to_numpy(), frame["label"].to_numpy()
    if path.name.endswith("_train_X.npy"):
        second = path.with_name(path.name.removesuffix("X.npy") + "y.npy")
        if not second.is_file():
            raise RequestError(f"training data '{path}' has no labels; '{second}' is missing")
        return np.load(path, allow_pickle=False), np.load(second, allow_pickle=False)
    raise RequestError(f"training data '{path}' is neither .npz nor .csv")


def _need(path: Path, what: str, wanted: tuple[str, ...], names: list[Any]) -> None:
    missing = [name for name in wanted if name not in names]
    if missing:
        raise RequestError(f"training data '{path}' lacks the {what} {', '.join(missing)}; it has {names or 'none'}")


def _checked(path: Path, x: np.ndarray, labels: np.ndarray, classes: int) -> Points:
    import numpy as np

    if x.ndim != 2 or x.shape[1] != 2 or labels.shape != x.shape[:1]:
        raise RequestError(
            f"training data '{path}' has points of shape {list(x.shape)} and labels of shape {list(labels.shape)}; "
            "wanted are [n, 2] and [n]"
        )
    if x.dtype.kind not in "fiu" or not np.isfinite(x.astype(np.float32)).all():
        raise RequestError(f"training data '{path}' has coordinates that are no finite numbers")
    wrong = None if labels.dtype.kind in "iu" else f"of type {labels.dtype}"
    if wrong is None:
        beyond = labels[(labels < 0) | (labels >= classes)]
        wrong = f"such as {beyond[0]}" if len(beyond) else None
    if wrong is not None:
        raise RequestError(f"training data '{path}' has labels {wrong}; wanted are whole numbers 0 to {classes - 1}")
    absent = sorted(set(range(classes)) - set(labels.tolist()))
    if absent:
        raise RequestError(
            f"training data '{path}' has no point of class {absent[0]}; each of the {classes} classes needs one"
        )
    return Points(np.ascontiguousarray(x, np.float32), labels.astype(np.int64))
