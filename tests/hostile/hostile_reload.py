"""Load bundles in a process of its own and compare what the networks give; run as a script with a folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch


def main(folder: Path) -> None:
    """Write the names of networks that differ, with the place."""
    import test_hostile  # noqa: F401  (it registers the networks)
    from hostile_cases import NETWORKS
    from hostile_check import answer, difference, leaves

    import secateur as sc

    torch.set_num_threads(1)
    different = {}
    for name, number in json.loads((folder / "known.json").read_text()).items():
        case = NETWORKS[name]
        given = answer(sc.load(folder / number, model=case.built(seed=11)), case.example, 2, 50, case.stateful)
        found = [item for _, item in leaves(given) if isinstance(item, torch.Tensor)]
        text = difference(found, torch.load(folder / f"{number}.pt", weights_only=True), 1e-13)
        if text:
            different[name] = text
    (folder / "different.json").write_text(json.dumps(different))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
