"""Pruned networks give what masked ones give in every call, or refuse in one line; on networks written to break that."""

from __future__ import annotations

from collections import Counter

import pytest

import hostile_networks_attention
from hostile_cases import NETWORKS
from hostile_check import check

FILES = (hostile_networks_attention,)
EXPECTED = ("exact", "locked", "refused")


def parameters():
    return [pytest.param(case, id=case.name, marks=[pytest.mark.slow] if case.slow else [])
            for case in NETWORKS.values()]  # fmt: skip


@pytest.mark.parametrize("case", parameters())
def test_pruned_is_masked_in_every_use(case, tmp_path):
    problems = check(case, tmp_path)
    assert not problems, "\n".join(map(str, problems))


def test_there_are_many_and_of_every_kind(record_property):
    counts = Counter(case.expected for case in NETWORKS.values())
    for expected in EXPECTED:
        record_property(expected, counts[expected])
        assert counts[expected]
    assert len(NETWORKS) >= 150
