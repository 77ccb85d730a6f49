"""Reads exported programs (``.pt2``) without PyTorch's loader.

`torch.export.load` is not safe for untrusted files: it unpickles example inputs, constants and tensor
subclasses, evaluates expressions for sizes, and executes guards that the file holds as text. Here, the archive is read
as a zip file of JSON and raw values: nothing is unpickled, and no text of the file is evaluated.
"""

from __future__ import annotations

import json
import math
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from secateur.core.errors import RequestError
from secateur.core.names import did_you_mean_file

_SCHEMA = 8
_LARGEST_TEXT = 512 * 2**20  # bytes of JSON
_PLAIN_VALUES = re.compile(r"(weight|tensor)_\d+")
_FQN = re.compile(r"(?!__)[A-Za-z_]\w*(\.(?!__)\w+)*", re.ASCII)
# the numbers of the schema's ScalarType
DTYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16, 7: torch.float32,
    8: torch.float64, 10: torch.complex64, 11: torch.complex128, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip


class BadProgram(ValueError):
    """Why a program cannot be used, in words."""


@dataclass(frozen=True, eq=False)
class Program:
    """Content of a ``.pt2`` file.

    Attributes:
        graph: inputs, nodes and outputs, as JSON values.
        signature: what the graph's inputs and outputs are.
        ranges: allowed values of symbolic sizes.
        tensors: parameters, buffers and constants by name. Those that share all their memory are one object.
        torch_version: PyTorch version of the writer.
    """

    graph: Mapping[str, Any]
    signature: Mapping[str, Any]
    ranges: Mapping[str, Any]
    tensors: Mapping[str, torch.Tensor]
    torch_version: str


def read_program(path: str | Path) -> Program:
    """The program in a ``.pt2`` file.

    Raises:
        RequestError: for a file that is missing or broken, holds more than a graph and plain tensors, or was written
            in another version of the format (such as that of PyTorch before 2.8).
    """
    path = Path(path)
    if not path.is_file():
        raise RequestError(f"exported program '{path}' does not exist{did_you_mean_file(path)}")
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive)
    except BadProgram as error:
        raise RequestError(f"exported program '{path}': {error}") from error
    except RequestError:
        raise
    except Exception as error:  # for a broken or forged file the readers may raise almost anything
        reason = (str(error).splitlines() or [""])[0][:200]
        raise RequestError(f"exported program '{path}' cannot be read ({type(error).__name__}: {reason})") from error


def _read(archive: zipfile.ZipFile) -> Program:
    names = [entry.filename for entry in archive.infolist()]
    roots = {name.partition("/")[0] for name in names}
    if any(name.rpartition("/")[2] == "serialized_exported_program.json" for name in names):
        raise BadProgram("it was written by PyTorch before 2.8, whose format holds pickles; save it with a newer one")
    if len(roots) != 1 or len(set(names)) != len(names):
        raise BadProgram("it is no archive of torch.export.save")
    files = _Files(archive, roots.pop())
    models = [name for name in files.names if name.startswith("models/")]
    if files.text("archive_format") != "pt2" or not models:
        raise BadProgram("it is no archive of torch.export.save")
    if len(models) > 1:
        raise BadProgram(f"it holds {len(models)} programs; save one alone")
    compiled = next((name for name in files.names if name.startswith(("data/aotinductor/", "data/executorch/"))), None)
    if compiled is not None:
        raise BadProgram("it holds compiled code, which is not loaded; save the program alone, with torch.export.save")
    content = files.json(models[0])
    version = content["schema_version"]["major"]
    if version != _SCHEMA:
        raise BadProgram(f"its format has version {version}, another one than {_SCHEMA}")
    name = models[0].removeprefix("models/").removesuffix(".json")
    tensors = {
        **_tensors(files, "data/weights", f"data/weights/{name}_weights_config.json"),
        **_tensors(files, "data/constants", f"data/constants/{name}_constants_config.json"),
    }
    module = content["graph_module"]
    writer = str(content.get("torch_version", "?"))[:40]
    return Program(module["graph"], module["signature"], content["range_constraints"], tensors, writer)


class _Files:
    """Members of an archive, without its root folder."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        self.archive = archive
        self.root = root
        self.names = [entry.filename.removeprefix(f"{root}/") for entry in archive.infolist()]

    def bytes(self, name: str, largest: int | None = None) -> bytes:
        try:
            entry = self.archive.getinfo(f"{self.root}/{name}")
        except KeyError:
            raise BadProgram(f"it lacks the member '{name}'") from None
        # what is compressed could be far larger than the file
        if entry.compress_type != zipfile.ZIP_STORED or (largest is not None and entry.file_size > largest):
            raise BadProgram(f"its member '{name}' is compressed or too large")
        return self.archive.read(entry)

    def text(self, name: str) -> str:
        return self.bytes(name, _LARGEST_TEXT).decode("utf-8")

    def json(self, name: str) -> Any:
        return json.loads(self.text(name))


def _tensors(files: _Files, folder: str, table: str) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    shared: dict[str, torch.Tensor] = {}
    for name, entry in files.json(table)["config"].items():
        if not _FQN.fullmatch(name):
            raise BadProgram(f"'{name[:60]}' is no name of a parameter")
        if entry["use_pickle"] or not _PLAIN_VALUES.fullmatch(entry["path_name"]):
            raise BadProgram(
                f"'{name}' is no plain tensor but a pickled object, whose loading may run code; export the network "
                "without tensor subclasses and custom objects"
            )
        key = json.dumps([entry["path_name"], entry["tensor_meta"]], sort_keys=True)
        if key not in shared:
            tensor = _tensor(files, f"{folder}/{entry['path_name']}", entry["tensor_meta"])
            is_parameter = entry["is_param"] and (tensor.is_floating_point() or tensor.is_complex())
            shared[key] = torch.nn.Parameter(tensor) if is_parameter else tensor
        tensors[name] = shared[key]
    return tensors


def _tensor(files: _Files, name: str, meta: Mapping[str, Any]) -> torch.Tensor:
    sizes, strides = ([whole(item) for item in meta[key]] for key in ("sizes", "strides"))
    offset, dtype = whole(meta["storage_offset"]), DTYPES.get(meta["dtype"])
    if dtype is None:
        raise BadProgram(f"'{name}' has a type of numbers that is not known here")
    if min([*sizes, *strides, offset], default=0) < 0 or len(sizes) != len(strides):
        raise BadProgram(f"'{name}' has no shape")
    content = bytearray(files.bytes(name))
    if math.prod(sizes) * dtype.itemsize > len(content):
        raise BadProgram(f"'{name}' is smaller than its shape")
    if not content:
        return torch.zeros(sizes, dtype=dtype)
    if dtype is torch.bool:
        flat = torch.frombuffer(content, dtype=torch.uint8) != 0  # other bytes than 0 and 1 are no truth values
    else:
        flat = torch.frombuffer(content, dtype=dtype)
    return flat.as_strided(sizes, strides, offset).clone()  # raises outside of the data


def whole(value: Mapping[str, Any]) -> int:
    """A size that is a number, not a symbol."""
    number = value.get("as_int")
    if type(number) is not int:
        raise BadProgram("a parameter has a size that is no number")
    return number
