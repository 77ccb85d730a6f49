"""Counts of the hostile suite at the end of the run."""

from __future__ import annotations

import os
from collections import Counter

import pytest


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of bundles are written here; that they survive a power cut is tested elsewhere."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many networks of each expectation passed."""
    counts: Counter[tuple[str, str]] = Counter()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for name, value in getattr(report, "user_properties", ()):
                if name == "hostile" and report.when == "call":
                    counts[value, outcome] += 1
    for expected in sorted({expected for expected, _ in counts}):
        passed, failed = counts[expected, "passed"], counts[expected, "failed"]
        terminalreporter.write_line(f"hostile networks, expected {expected}: {passed} of {passed + failed} hold")
