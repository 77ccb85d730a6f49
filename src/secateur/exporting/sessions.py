"""Sessions of other runtimes with one interface: tensors in, tensors out, on the CPU."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from secateur.core.errors import RequestError
from secateur.exporting.capture import need, one_line, quiet

Outputs = torch.Tensor | tuple[torch.Tensor, ...]


def _threads(count: int | None) -> int:
    if count is not None and count < 1:
        raise RequestError(f"a session needs at least one thread, got {count}")
    return torch.get_num_threads() if count is None else count


def _file(path: str | Path) -> Path:
    if not Path(path).is_file():
        raise RequestError(f"'{path}' does not exist")
    return Path(path)


def _arrays(names: list[str], inputs: tuple[torch.Tensor, ...], named: dict[str, torch.Tensor]) -> list[Any]:
    """Numpy arrays in the order of ``names``."""
    given = dict(zip(names, inputs, strict=False)) | named
    if len(inputs) + len(named) != len(names) or set(given) != set(names):
        raise RequestError(f"the exported network takes {', '.join(names)}; got {len(inputs)} and {sorted(named)}")
    return [given[name].detach().cpu().contiguous().numpy() for name in names]


def _tensors(arrays: list[Any]) -> Outputs:
    tensors = tuple(torch.from_numpy(array) for array in arrays)
    return tensors[0] if len(tensors) == 1 else tensors


class OnnxSession:
    """An ONNX file in ONNX Runtime, on the CPU.

    Args:
        path: path of the ``.onnx`` file.
        threads: threads within operators; None: as many as PyTorch uses now.

    Attributes:
        path: path of the file.
        threads: number of threads.
        metadata: metadata of the file.

    Raises:
        RequestError: for a missing or unreadable file, or without the ``onnx`` extra.
    """

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        self.threads = _threads(threads)
        self.path = Path(path)
        ort = need("onnxruntime", "onnx")
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.log_severity_level = 3  # errors only
        # threads that keep spinning would slow down the next measurement
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            self._session = ort.InferenceSession(str(_file(path)), options, providers=["CPUExecutionProvider"])
        except RequestError:
            raise
        except Exception as error:  # the runtime has many error classes
            raise RequestError(f"ONNX Runtime cannot load '{path}' ({one_line(error)})") from error
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        self._names = [item.name for item in self._session.get_inputs()]

    def __call__(self, *inputs: torch.Tensor, **named: torch.Tensor) -> Outputs:
        """Outputs for a batch: one tensor, or a tuple of them.

        Raises:
            RequestError: for inputs that the network does not accept.
        """
        arrays = self.arrays(*inputs, **named)
        try:
            return _tensors(self._session.run(None, arrays))
        except Exception as error:  # as above
            raise RequestError(f"ONNX Runtime fails on these inputs ({one_line(error)})") from error

    def arrays(self, *inputs: torch.Tensor, **named: torch.Tensor) -> dict[str, Any]:
        """Inputs for the runtime: NumPy arrays by name.

        Raises:
            RequestError: for another number of inputs, or other names.
        """
        return dict(zip(self._names, _arrays(self._names, inputs, named), strict=True))


class OpenVinoSession:
    """An OpenVINO file (``.xml`` with ``.bin`` next to it) on the CPU, in single precision.

    Args:
        path: path of the ``.xml`` file; ``.onnx`` files are read as well.
        threads: number of threads; None: as many as PyTorch uses now.

    Attributes:
        threads: number of threads.
        metadata: metadata of the file.

    Raises:
        RequestError: for a missing or unreadable file, or without the ``openvino`` extra.
    """

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        self.threads = _threads(threads)
        core = import_openvino().Core()
        # on some processors the default is bfloat16, which gives other results
        settings = {
            "INFERENCE_NUM_THREADS": self.threads,
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        try:
            model = core.read_model(str(_file(path)))
            self._model = core.compile_model(model, "CPU", settings)
        except RequestError:
            raise
        except Exception as error:  # the runtime raises both RuntimeError and its own classes
            raise RequestError(f"OpenVINO cannot load '{path}' ({one_line(error)})") from error
        self.metadata: dict[str, str] = {}
        if model.has_rt_info(["secateur"]):
            self.metadata = {k: str(getattr(v, "value", v)) for k, v in model.get_rt_info(["secateur"]).value.items()}
        self._names = [port.get_any_name() for port in self._model.inputs]

    def __call__(self, *inputs: torch.Tensor, **named: torch.Tensor) -> Outputs:
        """Outputs for a batch: one tensor, or a tuple of them.

        Raises:
            RequestError: for inputs that the network does not accept.
        """
        arrays = _arrays(self._names, inputs, named)
        try:
            results = self._model(arrays)
            return _tensors([results[port] for port in self._model.outputs])
        except Exception as error:  # as above
            raise RequestError(f"OpenVINO fails on these inputs ({one_line(error)})") from error


def import_openvino() -> ModuleType:
    """The ``openvino`` package, imported without its telemetry.

    Importing it writes an identifier into the home folder and reports the use over the network without asking. Without
    the package ``openvino_telemetry`` it does neither; therefore that package is hidden during the import.
    """
    name = "openvino_telemetry"
    if "openvino" in sys.modules or name in sys.modules:
        module: ModuleType = need("openvino", "openvino")
        return module
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        module = need("openvino", "openvino")
        with quiet():
            module.Core()  # then its submodules are complete
        return module
    finally:
        del sys.modules[name]
