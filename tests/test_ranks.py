"""Several processes against one: the same scores, plans, weights, losses and figures. Processes are real ones."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import secateur as sc
import several_ranks
from secateur.core.ranks import Ranks, asked_for, launched, ranks
from secateur.training.synchronised import synchronised_norms

HERE = Path(__file__).parent
LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def started(*command: str, **options) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SECATEUR_PROGRESS": "off"}
    return subprocess.Popen(
        [*LAUNCHER, *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def launch(*command: str) -> tuple[int, str, str]:
    process = started(*command)
    out, error = process.communicate(timeout=400)
    return process.returncode, out, error


def two(work: str, folder: Path) -> list[dict]:
    """What both ranks found."""
    code, _, error = launch(str(HERE / "several_ranks.py"), work, str(folder / "found"))
    assert code == 0, error
    return [torch.load(folder / f"found.{rank}", weights_only=False) for rank in (0, 1)]


def secateur(*command: str) -> tuple[int, str, str]:
    return launch("-m", "secateur", *command)


def apart(found: dict, expected: dict) -> float:
    """Largest difference of any tensor, as a share of its norm."""
    assert found.keys() == expected.keys()
    sizes = {key: float(expected[key].double().norm()) or 1.0 for key in expected}
    return max(float((found[key].double() - expected[key].double()).norm()) / sizes[key] for key in expected)


def equal(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def losses(found: dict) -> list[float]:
    return [row[key] for row in found["rows"] for key in ("train_loss", "val_loss")]


@pytest.fixture(scope="module")
def brief(tmp_path_factory):
    return several_ranks.brief(), two("brief", tmp_path_factory.mktemp("ranks"))


def test_scores_plans_repairs_losses_and_figures_are_those_of_one_process(brief):
    one, both = brief
    for found in both:
        for key, values in one["scores"].items():
            difference = (found["scores"][key] - values).abs()
            assert (difference <= 1e-6 * values.abs().max()).all(), key
        for name, expected in one["repaired"].items():
            repaired = found["repaired"][name]
            assert repaired["plan"] == expected["plan"]
            assert repaired["strengths"] == expected["strengths"]
            assert any(strength is not None for strength in expected["strengths"])
            assert apart(repaired["weights"], expected["weights"]) <= 1e-5
        for name in ("plain", "norms"):
            assert losses(found[name]) == pytest.approx(losses(one[name]), abs=1e-4)
            assert apart(found[name]["weights"], one[name]["weights"]) <= 1e-3
        assert found["evaluated"] == one["evaluated"]
    first, second = both
    assert all(torch.equal(first["scores"][key], second["scores"][key]) for key in first["scores"])
    for name in one["repaired"]:
        assert equal(first["repaired"][name]["weights"], second["repaired"][name]["weights"])
    for name in ("plain", "norms"):
        assert equal(first[name]["weights"], second[name]["weights"])
