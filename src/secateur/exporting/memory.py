"""Peak memory of ONNX files in ONNX Runtime."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from secateur.core.errors import RequestError, SecateurError
from secateur.core.memory import Memory
from secateur.exporting import resident
from secateur.exporting.capture import Example
from secateur.exporting.sessions import OnnxSession

_RUNTIME_ERROR = "[ONNXRuntimeError] : "
"""Prefix of the runtime's own errors."""


def measure_onnx_memory(network: OnnxSession | str | Path, inputs: Any, *, threads: int | None = None) -> Memory:
    """Peak memory of a network in ONNX Runtime on the CPU, as the process requests it from the system.

    A separate process loads the file and runs the batch three times. The peak is the largest growth of its resident
    memory since before the file was loaded, plus the batch; the network's share is the growth before the first batch.
    Before that, everything is done once and released, so that the runtime's own code and tables do not count. Linux
    counts in pages of 4 kB and the runtime allocates in chunks: expect some 100 kB more than the tensors and the
    buffers of operations. From the second batch on, ONNX Runtime plans the buffers of a shape as one block and also
    keeps the blocks of the first batch, which about doubles the memory in addition to the network; this is included,
    because it is how the runtime works.

    Args:
        network: a session, whose file must still be there, or the path of an ``.onnx`` file.
        inputs: one batch: a tensor, a tuple, or a dict by argument name.
        threads: number of threads of the runtime; None: the session's, or as many as PyTorch uses now.

    Raises:
        RequestError: for a missing file, inputs that the network does not accept, or any system but Linux.
        SecateurError: when the process fails.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from secateur.exporting import export
        >>> net = torch.nn.Linear(1000, 1000)
        >>> path = export(net, Path(tempfile.mkdtemp()) / "net.onnx", torch.randn(2, 1000)).path
        >>> memory = measure_onnx_memory(path, torch.randn(8, 1000), threads=1)
        >>> 0.9 < memory.network_bytes / 4_004_000 < 1.2
        True
    """
    if not sys.platform.startswith("linux"):
        raise RequestError("peak memory in ONNX Runtime is read from Linux's /proc; measure it on Linux")
    # opened here as well, so that a wrong file or batch is refused with the usual message
    session = network if isinstance(network, OnnxSession) else OnnxSession(network, threads)
    example = Example.of(inputs)
    arrays = session.arrays(*example.args, **example.kwargs)
    if not session.path.is_file():
        raise RequestError(f"'{session.path}' is gone; measure memory while the session's file is there")
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "inputs.npz"
        np.savez(archive, *arrays.values())
        sizes = _in_a_process(session.path, archive, threads or session.threads)
    return Memory(sizes["peak_bytes"], sizes["network_bytes"], example.rows)


def _in_a_process(path: Path, archive: Path, threads: int) -> dict[str, int]:
    spec = importlib.util.find_spec("secateur")
    assert spec is not None
    assert spec.origin is not None
    paths = [str(Path(spec.origin).parents[1]), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-P", "-m", resident.__name__, str(path.resolve()), str(archive), str(threads)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        for line in lines:
            if _RUNTIME_ERROR in line:
                raise RequestError(f"ONNX Runtime fails on these inputs ({line.rpartition(_RUNTIME_ERROR)[2]})")
        last = lines[-1] if lines else f"exit code {done.returncode}"
        raise SecateurError(f"memory of '{path}' in ONNX Runtime cannot be measured ({last})")
    return {name: int(value) for name, value in json.loads(done.stdout).items()}
