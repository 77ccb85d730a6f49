"""What a rank keeps of a network in training, whole (DDP) and in parts (FSDP2), and how long a step takes.

    torchrun --standalone --nproc-per-node 2 benchmarks/sharding.py \\
        [--model torchvision/resnet50] [--rounds 5] [--out FOLDER]

Both hold the same network and take the same steps of AdamW, in turn, in changing order. Kept is what stays between
steps: parameters and the optimiser's state, without gradients. On GPUs, the peak of a step is measured as well.
"""

from __future__ import annotations

import argparse
import copy
import csv
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur.core.devices import choose_device
from secateur.core.ranks import launched, ranks
from secateur.models import build
from secateur.training.parallel import DataParallel, data_parallel

MIB = 2**20


class Held:
    """A network with its optimiser, as this rank holds it."""

    def __init__(self, model: nn.Module, sharding: str, device: torch.device) -> None:
        self.parallel: DataParallel = data_parallel(copy.deepcopy(model), sharding, device)
        # small steps: with random weights, rounding would grow from one to the next
        self.optimiser = torch.optim.AdamW(self.parallel.network.parameters(), lr=1e-6)
        self.device = device
        self.seconds: list[float] = []
        self.peak = 0

    def step(self, inputs: torch.Tensor, targets: torch.Tensor) -> float:
        """Take one; its loss."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
        begin = time.perf_counter()
        loss = nn.functional.cross_entropy(self.parallel.called(inputs), targets)
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            self.peak = max(self.peak, torch.cuda.max_memory_allocated(self.device) - before)
        self.seconds.append(time.perf_counter() - begin)
        return float(loss.detach())

    def kept(self) -> int:
        """Bytes of this rank's parameters and optimiser state."""
        states = [each for state in self.optimiser.state.values() for each in state.values()]
        return sum(_bytes(each) for each in (*self.parallel.network.parameters(), *states))


def _bytes(tensor: torch.Tensor) -> int:
    local: Any = getattr(tensor, "to_local", lambda: tensor)()
    return int(local.numel() * local.element_size())


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="torchvision/resnet50")
    parser.add_argument("--side", type=int, default=64, help="of images, in pixels")
    parser.add_argument("--batch", type=int, default=4, help="images on each rank")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"))
    asked = parser.parse_args()
    with launched():
        torch.manual_seed(0)
        device = choose_device(asked.device)
        model = build(asked.model).eval()  # dropout and batch norms would part the ranks
        held = {sharding: Held(model, sharding, device) for sharding in ("none", "full")}
        torch.manual_seed(ranks().rank)
        for turn in range(asked.rounds + 1):
            inputs = torch.randn(asked.batch, 3, asked.side, asked.side, device=device)
            targets = torch.randint(10, (asked.batch,), device=device)
            order = list(held) if turn % 2 else list(held)[::-1]
            losses = [held[each].step(inputs, targets) for each in order]
            assert abs(losses[0] - losses[1]) <= 1e-3 * max(losses), losses
        rows = [
            {
                "model": asked.model,
                "device": device.type,
                "ranks": ranks().size,
                "rank": ranks().rank,
                "sharding": sharding,
                "kept_mib": round(each.kept() / MIB, 1),
                "step_peak_mib": round(each.peak / MIB, 1) if device.type == "cuda" else None,
                "step_seconds": round(statistics.median(each.seconds[1:]), 3),
            }
            for sharding, each in held.items()
        ]
        found = [row for of_rank in ranks().gather(rows) for row in of_rank]
        if ranks().main:
            asked.out.mkdir(parents=True, exist_ok=True)
            with (asked.out / "sharding.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(found[0]))
                writer.writeheader()
                writer.writerows(found)
            for row in found:
                sys.stdout.write(f"{row}\n")


if __name__ == "__main__":
    main()
