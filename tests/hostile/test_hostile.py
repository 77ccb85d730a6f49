"""Pruned networks give what masked ones give in every call, or refuse: on networks written to break that."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import hostile_networks_attention
import hostile_networks_code
import hostile_networks_convolution
import hostile_networks_sizes
import hostile_networks_states
import hostile_networks_torch_attention
import hostile_networks_transformers
import numpy as np
import pytest
import torch
from hostile_cases import NETWORKS, Network
from hostile_check import Check, answer, check, difference, leaves

import secateur as sc

FILES = (
    hostile_networks_attention, hostile_networks_code, hostile_networks_convolution, hostile_networks_sizes,
    hostile_networks_states, hostile_networks_torch_attention, hostile_networks_transformers,
)  # fmt: skip
FILE_LIMIT = 600  # seconds that the child process may take


VARIANTS = ("MultiheadAttention: ", "TransformerDecoder: ", "TransformerEncoder: ", "Transformer: ", "transformers: ")
"""Networks of many layers, whose parts others have as well; the default run has one of each kind."""

IN_DEFAULT_RUN = ("MultiheadAttention: every argument, batch first", "TransformerDecoder: norm first",
                  "TransformerEncoder: every argument", "transformers: BERT classifier")  # fmt: skip


def is_slow(number: int, case: Network) -> bool:
    """Whether a network is left out of the default run, which has every second one that is pruned exactly."""
    if case.name.startswith(VARIANTS):
        return case.name not in IN_DEFAULT_RUN
    return case.slow or (case.expected == "exact" and number % 2 == 1)


def parameters(*, slow: bool = True, exports: bool = False):
    return [
        pytest.param(case, id=case.name, marks=[pytest.mark.slow] if slow and is_slow(number, case) else [])
        for number, case in enumerate(NETWORKS.values())
        if not exports or case.exports
    ]


@pytest.mark.parametrize("case", parameters())
def test_pruned_is_masked_in_every_use(case, tmp_path, record_property):
    record_property("hostile", case.expected)
    problems = check(case, tmp_path)
    assert not problems, "\n".join(map(str, problems))


def test_there_are_many_and_of_every_kind():
    counts = Counter(case.expected for case in NETWORKS.values())
    assert len(NETWORKS) >= 200
    assert counts["exact"] >= 150
    assert min(counts["locked"], counts["refused"]) >= 10


def pruned(case: Network, folder: Path) -> tuple[torch.nn.Module, sc.Plan] | None:
    """The network after pruning; None where that fails, which the test of every use looks at."""
    made = Check(case, folder).made(case.built())
    return None if made is None else (made[2], made[1])


@pytest.mark.slow
def test_bundles_are_the_same_networks_in_another_process(tmp_path):
    """One process loads them all; it gets the tensors that they gave here, and nothing else."""
    known = {}
    for number, case in enumerate(NETWORKS.values()):
        made = pruned(case, tmp_path)
        if made is None:
            continue
        try:
            sc.save(made[0], tmp_path / str(number), plan=made[1])
        except sc.RequestError:
            continue  # noted by the test of every use
        given = answer(sc.load(tmp_path / str(number), model=case.built(seed=7)), case.example, 2, 50, case.stateful)
        torch.save([item for _, item in leaves(given) if isinstance(item, torch.Tensor)], tmp_path / f"{number}.pt")
        known[case.name] = str(number)
    (tmp_path / "known.json").write_text(json.dumps(known))
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here), str(here.parent), *filter(None, sys.path)])
    child = subprocess.run(
        [sys.executable, str(here / "hostile_reload.py"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=FILE_LIMIT, check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr[-3000:]
    assert json.loads((tmp_path / "different.json").read_text()) == {}
    assert len(known) >= 150


@pytest.mark.slow
@pytest.mark.parametrize("case", parameters(slow=False, exports=True))
def test_exported_programs_give_the_same(case, tmp_path):
    made = pruned(case, tmp_path)
    assert made is not None
    slim, (args, kwargs) = made[0], case.example.draw(3, 5)
    program = torch.export.export(copy.deepcopy(slim), args, kwargs)
    with torch.no_grad():
        assert difference(program.module()(*args, **kwargs), slim(*args, **kwargs), 1e-9) is None


@pytest.mark.slow
@pytest.mark.parametrize("case", parameters(slow=False, exports=True))
def test_onnx_files_give_the_same_at_other_batch_sizes(case, tmp_path):
    pytest.importorskip("onnxruntime")
    made = pruned(case, tmp_path)
    assert made is not None
    model = made[0].float()
    args, _ = case.example.draw(3, 5)
    found = sc.export(model, tmp_path / "net.onnx", tuple(a.float() for a in args))
    assert np.isfinite(found.difference)
