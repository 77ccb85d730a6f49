"""The example of the page "A study of your own" runs as the page says."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

from secateur.cli.main import run
from secateur.core.errors import SecateurError
from secateur.experiments import check_study, forget_study, known_studies
from secateur.reports import load_report
from secateur.reports.registry import forget_section

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"


@pytest.fixture
def ring(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The example, imported; the other tests do not see it."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    module = importlib.import_module("ring")
    yield module
    forget_study("ring")
    forget_section(module.Kept)
    del sys.modules["ring"]


def test_the_example_has_fewer_than_60_lines() -> None:
    lines = (EXAMPLES / "ring.py").read_text(encoding="utf-8").splitlines()
    assert sum(bool(line.strip()) for line in lines) < 60


def test_the_example_runs_resumes_and_writes_a_page(
    ring: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, few = tmp_path / "ring", ["--set", "grid.criteria=[lrp, weight]", "--set", "grid.seeds=[0, 1]"]
    assert "ring" in known_studies()

    assert run(["study", "run", "ring", *few, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "4 cells worked on, 0 found" in printed
    assert "holds: LRP beats the weight norm" in printed
    first = pd.read_csv(out / "kept.csv")
    assert list(first.columns) == ["criterion", "seed", "accuracy"]
    assert list(zip(first["criterion"], first["seed"], strict=True)) == [
        ("lrp", 0), ("weight", 0), ("lrp", 1), ("weight", 1),
    ]  # fmt: skip
    assert first["accuracy"].between(50, 100).all()

    more = ["--set", "grid.criteria=[lrp, weight, random]", "--set", "grid.seeds=[0, 1]"]
    assert run(["study", "run", "ring", *more, "--out", str(out)]) == 0
    assert "2 cells worked on, 4 found" in capsys.readouterr().out
    both = pd.read_csv(out / "kept.csv")
    pd.testing.assert_frame_equal(both[both["criterion"] != "random"].reset_index(drop=True), first)

    assert run(["study", "status", "--out", str(out)]) == 0
    assert "6 finished" in capsys.readouterr().out
    section = load_report(out / "report.json").section(ring.Kept)
    assert section == ring.Kept(both.groupby("criterion")["accuracy"].mean().to_dict())
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<h2>Accuracy that is kept</h2>" in page
    assert f"<td>{section.accuracy['lrp']:.1f}</td>" in page


def test_a_cell_that_fails_does_not_stop_the_others(
    ring: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make = ring.Trained.make

    def failing(trained: Any, resources: Any) -> Any:
        if trained.seed == 1:
            raise SecateurError("training diverged; use a smaller learning rate")
        return make(trained, resources)

    monkeypatch.setattr(ring.Trained, "make", failing)
    asked = ["--set", "grid.criteria=[weight]", "--set", "grid.seeds=[1, 0]", "--out", str(tmp_path)]
    assert run(["study", "run", "ring", *asked]) == 1
    error = capsys.readouterr().err
    assert "1 of 2 cells failed, the first (criterion=weight seed=1): training diverged" in error
    assert list(pd.read_csv(tmp_path / "kept.csv")["seed"]) == [0]

    monkeypatch.undo()
    assert run(["study", "retry", "--out", str(tmp_path)]) == 0
    assert "1 cells worked on, 1 found" in capsys.readouterr().out
    assert list(pd.read_csv(tmp_path / "kept.csv")["seed"]) == [1, 0]


@pytest.mark.slow
def test_the_example_keeps_the_contract_of_studies(ring: ModuleType, tmp_path: Path) -> None:
    few = ring.RingSettings(grid=ring.Grid(criteria=("lrp", "weight"), seeds=(0, 1)))
    check_study(ring.RingStudy(few), tmp_path, processes=1, wrong={"grid.criteria": ["lpr"]})
