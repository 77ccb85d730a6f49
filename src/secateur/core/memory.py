"""Peak memory of networks as a value, without PyTorch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from secateur.core.figures import size


@dataclass(frozen=True)
class Memory:
    """The most memory that a network takes while it answers one batch.

    How it was measured says what it counts: see `secateur.measure_memory` (PyTorch) and
    `secateur.exporting.measure_onnx_memory`. Figures of one of them are comparable with each other.

    Attributes:
        peak_bytes: at the highest: the network, the batch, and what is computed from it.
        network_bytes: of these, what the network takes before it is given a batch.
        batch_size: samples per batch.

    Example:
        >>> found = Memory(12_500_000, 4_500_000, 64)
        >>> print(found), found.working_bytes
        12.5 MB for a batch of 64
        (None, 8000000)
    """

    peak_bytes: int
    network_bytes: int
    batch_size: int

    @property
    def working_bytes(self) -> int:
        """What comes on top of the network: the batch, activations, and the buffers of operations."""
        return self.peak_bytes - self.network_bytes

    def columns(self, prefix: str = "memory") -> dict[str, int]:
        """The peak as a column of a table.

        Example:
            >>> Memory(2_000, 1_000, 8).columns("onnx_memory")
            {'onnx_memory_bytes': 2000}
        """
        return {f"{prefix}_bytes": self.peak_bytes}

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{size(self.peak_bytes)} for a batch of {self.batch_size}"
