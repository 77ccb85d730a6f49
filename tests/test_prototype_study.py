"""The study of prototype networks: equal MACs, order of cuts, findings, page."""

from __future__ import annotations

import pandas as pd
import pytest
from safetensors.torch import load

from secateur import reports as rp
from secateur.core.errors import RequestError
from secateur.experiments import Resources, run
from secateur.experiments.opening import opened_store
from secateur.studies.prototypes import PrototypeStudy, PrototypeStudySettings
from secateur.studies.prototypes.cells import PrototypeCell
from secateur.studies.prototypes.findings import lines, prototype_findings
from secateur.studies.prototypes.work import WEIGHTS
from test_studies import prototype_study


def settings_with(**variants):
    raw = prototype_study().model_dump()
    raw["variants"] |= variants
    raw["prototypes"] |= {"criterion": "usage", "budget": 0.6}
    raw["network"] |= {"per_class": 2}
    return PrototypeStudySettings.model_validate(raw)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prototype-study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECATEUR_CACHE", str(folder / "cache"))
        study = PrototypeStudy(settings_with())
        with opened_store(folder / "cells.sqlite", study) as store:
            assert not run(study, store).failures
            tables = store.frames()
    return study, tables, folder


def test_ways_are_compared_at_the_same_share_of_the_unpruned_network(outcome):
    _, tables, _ = outcome
    frame = tables["measured"]
    assert list(frame.groupby("way", sort=False).size()) == [1, 3, 3, 3]
    by_way = frame[frame["stage"] == "trained"].set_index("way")
    whole = frame[frame["way"] == "none"].iloc[0]
    assert whole["macs"] == whole["params"] == 1
    for way in ("weight", "both"):
        assert by_way.loc[way, "macs"] <= 0.7 + 1e-9
        assert by_way.loc[way, "macs"] == by_way.loc[way, "macs_count"] / whole["macs_count"]
    # as many MACs stay where prototypes went before: at most one unit's worth apart
    assert abs(by_way.loc["weight", "macs"] - by_way.loc["both", "macs"]) < 0.05
    assert by_way.loc["prototypes", "macs"] > 0.95
    kept = by_way["prototypes"]
    assert kept["weight"] == whole["prototypes"] == 14
    assert kept["both"] == kept["prototypes"] < 14


def test_the_backbone_is_not_pruned_of_prototypes_and_rows_are_of_all_stages(outcome):
    _, tables, _ = outcome
    frame = tables["measured"]
    pruned = frame[frame["way"] != "none"]
    assert set(pruned["stage"]) == {"pruned", "last layer", "trained"}
    assert pruned[pruned["stage"] == "trained"]["purity"].between(0, 1).all()
    assert pruned[pruned["stage"] != "trained"]["purity"].isna().all()
    for _, stages in pruned.groupby("way"):
        assert stages["macs"].nunique() == stages["prototypes"].nunique() == 1


def test_what_is_trained_is_kept_with_the_cells_and_used(outcome, monkeypatch):
    study, tables, folder = outcome
    monkeypatch.setenv("SECATEUR_CACHE", str(folder / "cache"))
    (path,) = (folder / "cells.files").rglob(WEIGHTS)
    bench = Resources().get(study.benches[0])
    bench.network.load_state_dict(load(path.read_bytes()))
    again = bench.row(bench.network, bench.network, PrototypeCell(seed=0), "unpruned", 0.0)
    row = tables["measured"].iloc[0]
    assert (again["accuracy"], again["purity"]) == (row["accuracy"], row["purity"])
    assert not list((folder / "cache").rglob("*.state"))


def test_findings_and_page_say_what_one_seed_can(outcome, tmp_path):
    study, tables, _ = outcome
    found = prototype_findings(tables)
    assert [finding.holds for finding in found] == [None, None]
    assert "70% of the MACs" in found[0].text
    assert found[1].text == "prototypes: the unpruned network is ahead"
    assert [line.interval for line in lines(tables)] == [None] * 3
    written = study.write(tables, tmp_path)
    assert pd.read_csv(written["measured"]).shape[0] == 10
    assert "weight" in written["figure"].read_text()
    html = rp.render(study.page(tables))
    assert "Backbone and prototypes" in html
    assert "14 of 14" in html


def test_differences_over_seeds_have_intervals():
    columns = {
        **{"backbone": "lrp", "prunes_prototypes": False, "prototypes": 4, "macs": 0.5, "params": 0.5},
        **{"macs_count": 1, "params_count": 1, "balanced_accuracy": 0.5, "samples": 10, "purity": 0.5, "seconds": 0},
    }
    rows = []
    for seed in range(3):
        rows.append({"way": "none", "budget": 1.0, "seed": seed, "stage": "unpruned", "accuracy": 0.9} | columns)
        for way, accuracy in (("good", 0.8), ("bad", 0.6)):
            for stage in ("pruned", "last layer", "trained"):
                noise = (0.005 if way == "good" else 0.0) * (seed - 1)
                own = {"way": way, "budget": 0.5, "seed": seed, "stage": stage, "accuracy": accuracy + noise}
                rows.append(own | columns)
    found = prototype_findings({"measured": pd.DataFrame(rows)})
    assert [str(finding) for finding in found] == [
        "holds: 50% of the MACs, all trained: good is ahead of bad (+20.0 points [+18.8, +21.2], 3 seeds)"
    ]
    line = lines({"measured": pd.DataFrame(rows)})[0]
    assert (line.way, line.runs) == ("good", 3)
    assert line.change == pytest.approx(-0.1)
    assert line.interval == pytest.approx((-0.1124, -0.0876), abs=1e-4)


def test_wrong_requests_are_refused_before_any_training(tmp_path):
    with pytest.raises(RequestError, match=r"needs data\.source"):
        PrototypeStudy(PrototypeStudySettings()).check()
    with pytest.raises(RequestError, match="'0' stands there twice"):
        PrototypeStudy(settings_with(seeds=(0, 0))).check()
    with pytest.raises(ValueError, match="prunes nothing"):
        settings_with(ways=({"name": "none"},))
    study = PrototypeStudy(settings_with(macs=(0.001,)))
    with (
        opened_store(tmp_path / "cells.sqlite", study) as store,
        pytest.raises(RequestError, match="cannot be reached"),
    ):
        run(study, store)
