"""What starting costs: times and imported modules of commands that do no work, and of the import.

    python benchmarks/startup.py [--rounds 5] [--against SRC]

All commands run in turn, each in a process of its own, and the medians are compared with `import torch` in the same
run. ``--against`` names the ``src`` folder of another checkout, which runs in turn with this one: before and after.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

HEAVY = "torch torchvision torch._dynamo numpy pandas pyarrow altair pydantic rich".split()
COMMANDS = {
    "--version": ["--version"],
    "--help": ["--help"],
    "prune --help": ["prune", "--help"],
    "wrong option": ["prune", "--mac", "0.5"],
    "wrong criterion": ["prune", "--model", "resnet20-cifar10", "--data", "mnist5k", "--criterion", "lpr"],
    "wrong budget": ["prune", "--model", "resnet20-cifar10", "--data", "mnist5k", "--macs", "1.5"],
}
REPORT = f"""
import atexit, sys
atexit.register(lambda: print(len(sys.modules), *[m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr))
"""
CLI = REPORT + "from secateur.cli.main import main\nmain(sys.argv[1:])"
OURS = Path(__file__).parents[1] / "src"


def once(code: str, arguments: list[str], source: Path) -> tuple[float, str]:
    """Seconds of a process, and what it had imported at its end."""
    environment = {**os.environ, "PYTHONPATH": str(source)}
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    return time.perf_counter() - begin, done.stderr.strip().splitlines()[-1]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--against", type=Path, help="src folder of another checkout")
    asked = parser.parse_args()
    sources = {"after": OURS} if asked.against is None else {"before": asked.against, "after": OURS}
    runs: dict[tuple[str, str], tuple[str, list[str], Path]] = {
        ("import torch", ""): (REPORT + "import torch", [], OURS),
        ("(Python alone)", ""): (REPORT, [], OURS),
    }
    for name, source in sources.items():
        runs["import secateur", name] = (REPORT + "import secateur", [], source)
        runs["import secateur, use sc.trace", name] = (REPORT + "import secateur as sc; sc.trace", [], source)
        for command, arguments in COMMANDS.items():
            runs[f"secateur {command}", name] = (CLI, arguments, source)
    times: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
    modules: dict[tuple[str, str], str] = {}
    for turn in range(asked.rounds):
        keys = list(runs) if turn % 2 == 0 else list(reversed(runs))
        for key in keys:
            seconds, modules[key] = once(*runs[key])
            times[key].append(seconds)
    torch = statistics.median(times["import torch", ""])
    print(f"{asked.rounds} rounds in turn, {os.cpu_count()} cores, Python {sys.version.split()[0]}")  # noqa: T201
    print(f"{'':32} {'':7} {'seconds':>8} {'of torch':>9}  modules at the end")  # noqa: T201
    for (what, name), found in times.items():
        median = statistics.median(found)
        print(f"{what:32} {name:7} {median:8.2f} {median / torch:9.2f}  {modules[what, name]}")  # noqa: T201


if __name__ == "__main__":
    main()
