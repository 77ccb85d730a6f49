"""A separate program that measures the memory of its process for one ONNX file.

The process does nothing else, so that its growth is due to the network. PyTorch is not imported. The program prints one
JSON object: the bytes of the network before its first batch, and the peak while it runs.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
from pathlib import Path
from typing import Any

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RUNS = 3
"""Number of batches; from the second on ONNX Runtime plans its buffers, and also keeps those of the first."""


def _bytes(name: str) -> int:
    """A figure of this process in bytes, which Linux reports in kB."""
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"{_STATUS} has no {name}")


def _settled() -> int:
    """Resident bytes after free memory was returned to the system."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of the GNU C library
    if trim is not None:
        trim(0)
    return _bytes("VmRSS")


def _session(path: str, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors only
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _grown(path: str, arrays: list[Any], threads: int) -> dict[str, int]:
    before = _settled()
    session = _session(path, threads)
    inputs = dict(zip((item.name for item in session.get_inputs()), arrays, strict=True))
    loaded = _settled()
    _RESET.write_text("5", encoding="ascii")  # the peak counts from here
    for _ in range(RUNS):
        outputs = session.run(None, inputs)
        del outputs
    return {"network_bytes": loaded - before, "peak_bytes": _bytes("VmHWM") - before}


def main(path: str, arrays: str, threads: str) -> None:
    """Measure, and print the result.

    Args:
        path: the ONNX file.
        arrays: a NumPy archive with its inputs in order.
        threads: number of threads of the runtime.
    """
    import numpy as np

    with np.load(arrays) as archive:
        inputs = [archive[name] for name in archive.files]
    _grown(path, inputs, int(threads))  # from here on, the runtime's own code and tables are in memory
    grown = _grown(path, inputs, int(threads))
    grown["peak_bytes"] += sum(value.nbytes for value in inputs)
    sys.stdout.write(json.dumps(grown))


if __name__ == "__main__":
    main(*sys.argv[1:])
