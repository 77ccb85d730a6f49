"""Pruning in steps with training between them: the study, its numbers, and what a kill leaves."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from lesions import lesions
from secateur.core.errors import RequestError, SecateurError
from secateur.criteria import get
from secateur.data import ImageData, LabelledImages, Normalisation, ReferenceSet
from secateur.evaluation import area_under_curve
from secateur.experiments import Resources, Store, run
from secateur.pipeline import PruneSettings
from secateur.pipeline.contents import data_digest
from secateur.pipeline.recipe import load_settings
from secateur.pipeline.stepwise import Stepwise
from secateur.reports import render, write_report
from secateur.selection import Budget
from secateur.structure import trace
from secateur.studies.skin_lesions import SkinLesionSettings, SkinLesionStudy
from secateur.studies.stepwise import ProtocolSettings, StepSettings, StepwiseStudy
from secateur.training import TrainSettings, fit
from secateur.training.repetition import repeated

TINY = {"name": "resnet20", "arguments": {"width": 4}}


def settings(folder, *, epochs=1, steps=(0.2, 0.4), seeds=(0,), criteria=("lrp", "weight"), timing=0, **more):
    """A study of seconds."""
    brief = {"batch_size": 32, "learning_rate": 0.02, "device": "cpu"}
    return SkinLesionSettings.model_validate(
        {
            "data": {"source": str(folder), "resize": 16, "cache": "never"},
            "model": TINY,
            "train": {"epochs": 1, "repeat": "balanced", **brief},
            "variants": {"protocols": [{"name": "ours", "criteria": criteria, "per_class": 2}], "seeds": seeds},
            "steps": {"step": steps[0], "total": steps[1]},
            "finetune": {"epochs": epochs, "repeat": "weighted", **brief},
            "final_epochs": 1,
            "timing": {"repeats": timing, "batch": 4},
            "pictures": {"images": 2},
            "device": "cpu",
            **more,
        }
    )


def protocol(*criteria, **more):
    return ProtocolSettings(name="a", criteria=criteria, **more)


@pytest.fixture
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The tables of a small study of skin lesions, with times."""
    before = os.environ.get("SECATEUR_CACHE")
    os.environ["SECATEUR_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    study = SkinLesionStudy(settings(lesions(), timing=6))
    try:
        with Store("sqlite://", study.name, study.version, study.tables) as store:
            run(study, store, progress=False).raise_failures(store)
            return study, study.assemble(store.frames())
    finally:
        os.environ.pop("SECATEUR_CACHE") if before is None else os.environ.update(SECATEUR_CACHE=before)


def test_rows_follow_the_steps(finished):
    study, tables = finished
    steps = tables["steps"]
    one = steps[steps["criterion"] == "lrp"]
    assert list(zip(one["step"], one["stage"], strict=True)) == [
        (1, "pruned"), (1, "fine-tuned"), (2, "pruned"), (2, "fine-tuned"), (2, "final"),
    ]  # fmt: skip
    assert one["share"].tolist() == pytest.approx([0.8, 0.8, 0.6, 0.6, 0.6])
    assert (one["units"] - one["share"]).abs().max() < 0.02  # what was asked for went
    assert one["params_count"].is_monotonic_decreasing
    assert one["macs_count"].iloc[-1] < steps["macs_count"].iloc[0]
    assert one[one["stage"] == "fine-tuned"]["train_loss"].notna().all()
    assert steps["auc"].between(0, 1).all()
    assert one[one["stage"] == "pruned"]["latency_share"].notna().all()


def test_recall_of_each_class_makes_the_balanced_accuracy(finished):
    _, tables = finished
    keys = ["protocol", "criterion", "seed", "step", "stage"]
    means = tables["classes"].groupby(keys)["recall"].mean()
    balanced = tables["steps"].groupby(keys)["balanced_accuracy"].mean()
    assert means.to_dict() == pytest.approx(balanced.to_dict())
    assert set(tables["classes"]["class"]) == {"akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"}


def test_plans_are_nested_and_networks_are_smaller_for_real(finished):
    _, tables = finished
    plans = tables["plans"][tables["plans"]["criterion"] == "lrp"].set_index("step")["removed"].map(json.loads)
    for name, units in plans[1].items():
        assert set(units) <= set(plans[2][name])
    assert sum(map(len, plans[2].values())) > sum(map(len, plans[1].values()))


def test_the_page_says_what_was_measured(finished, tmp_path):
    study, tables = finished
    page = study.page(tables)
    text = render(page)
    assert "recall of mel, %" in text
    assert "Recall of each class, by step" in text
    assert "What the network looks at" in text
    assert f"{int(tables['steps']['samples'].iloc[0]):,} test samples" in text
    write_report(page, tmp_path / "report.html")
    written = study.write(tables, tmp_path)
    assert {"steps", "classes", "plans", "figure"} <= set(written)
    assert all(path.exists() for path in written.values())
    overview = study.overview(tables)[0]
    assert [row[1] for row in overview.rows] == ["lrp", "weight"]
    assert {str(finding)[:5] for finding in study.findings(tables)} <= {"holds", "does ", "canno"}


def test_one_seed_proves_nothing(finished):
    study, tables = finished
    assert all(finding.holds is None for finding in study.findings(tables))


@pytest.mark.usefixtures("_cache")
@pytest.mark.slow
def test_a_chain_that_is_interrupted_gives_the_same_rows(tmp_path, monkeypatch):
    """Interrupted behind each thing that is done, also within training."""
    from secateur.studies.stepwise import work

    study = StepwiseStudy(settings(lesions(), epochs=2, criteria=("lrp",)))
    cell = study.cells()[1]
    resources = Resources()
    bench = resources.get(study.bench)
    chain = work.Chain(bench, cell)
    whole = chain.result()
    chain.delete()
    measured, trained = work.Chain._measure, work.fit
    stop = {"after": 0}

    def interrupted(*args, **kwargs):
        stop["after"] -= 1
        if stop["after"] < 0:
            raise KeyboardInterrupt
        return None

    def counted_measure(self, *args):
        measured(self, *args)
        interrupted()

    def counted_fit(*args, **kwargs):
        return trained(*args, **kwargs, on_epoch=interrupted)

    monkeypatch.setattr(work.Chain, "_measure", counted_measure)
    monkeypatch.setattr(work, "fit", counted_fit)
    interruptions = 0
    while True:
        stop["after"] = interruptions % 4
        try:
            found = work.Chain(bench, cell).result()
            break
        except KeyboardInterrupt:
            interruptions += 1
            assert interruptions < 40
    assert interruptions >= 5
    for name in ("classes", "plans", "pictures"):
        assert found.rows[name] == whole.rows[name]
    timeless = [[{k: v for k, v in row.items() if k != "seconds"} for row in r.rows["steps"]] for r in (found, whole)]
    assert timeless[0] == timeless[1]


def test_steps_are_kept_and_taken_up(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(),
                        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))  # fmt: skip
    net.eval()
    reference = ReferenceSet(torch.randn(6, 3, 12, 12), torch.arange(6) % 3, tuple(range(6)))
    structure = trace(net, reference.inputs[:1])
    steps = Stepwise(net, structure, PruneSettings())
    steps.cut(reference, get("lrp"), Budget(units=0.7))
    steps.save(tmp_path / "kept", {"step": 1})
    again = Stepwise(net, structure, PruneSettings())
    assert again.resume(tmp_path / "elsewhere") is None
    assert again.resume(tmp_path / "kept") == {"step": 1}
    assert again.plan == steps.plan
    for each in (steps, again):
        each.cut(reference, get("lrp"), Budget(units=0.4))
    assert again.plan.removed == steps.plan.removed
    x = torch.randn(2, 3, 12, 12)
    torch.testing.assert_close(again.network.eval()(x), steps.network.eval()(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("asked", "shares"),
    [
        ({"step": 0.15, "total": 0.6}, [0.85, 0.7, 0.55, 0.4]),
        ({"step": 0.25, "total": 0.6}, [0.75, 0.5, 0.4]),
        ({"step": 0.05, "total": 0.9}, [1 - 0.05 * i for i in range(1, 19)]),
        ({"step": 0.2, "of": "rest", "total": None, "count": 30}, [0.8**i for i in range(1, 31)]),
        ({"step": 0.5, "of": "rest", "total": 0.7}, [0.5, 0.3]),
    ],
)
def test_shares_of_published_schedules(asked, shares):
    assert StepSettings(**asked).shares() == pytest.approx(shares)


@pytest.mark.parametrize("asked", [{"total": None}, {"count": 3}, {"step": 0.5, "total": None, "count": 2}])
def test_steps_that_have_no_end_or_leave_nothing_are_refused(asked):
    with pytest.raises(ValueError, match=r"give one of total and count|leave nothing"):
        StepSettings(**asked)


@pytest.mark.usefixtures("_cache")
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": {"name": "resnet20"}, "train": {"epochs": 0}}, "random weights"),
        ({"data": {"source": "nowhere"}}, "unknown data source 'nowhere'"),
        ({"variants": {"protocols": [protocol("lpr")]}}, "did you mean 'lrp'"),
        ({"variants": {"protocols": [protocol("lrp")] * 2}}, "'a' stands there twice"),
        ({"tracking": {"trackers": ("wandbb",)}}, "unknown tracker"),
        ({"variants": {"seeds": (0, 0)}}, "'0' stands there twice"),
        (
            {"variants": {"protocols": [ProtocolSettings(name="a", criteria=("lrp", "lrp"))]}},
            "'lrp' stands there twice",
        ),
        ({"finetune": {"distillation": {"teacher": "masked"}}}, "gets smaller step by step"),
    ],
)
def test_wrong_requests_are_refused_before_any_work(changes, said):
    whole = settings("x").model_dump() | changes
    if "data" not in changes:
        whole["data"] = {"source": str(lesions()), "resize": 16}
    with pytest.raises(RequestError, match=said):
        StepwiseStudy(SkinLesionSettings.model_validate(whole)).check()


@pytest.mark.usefixtures("_cache")
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"finetune": {"epochs": 1, "repeat": {"melanom": 3}}}, "did you mean 'mel'"),
        (
            {"variants": {"protocols": [ProtocolSettings(name="a", criteria=("lrp",), per_class=99)]}},
            "fewer than the 99",
        ),
        ({"steps": {"step": 0.5, "of": "rest", "total": None, "count": 30}}, "at least"),
    ],
)
def test_what_data_and_network_refuse_is_refused_before_training(changes, said, monkeypatch):
    from secateur.studies.stepwise import work

    monkeypatch.setattr(work, "train_or_find", lambda prepared: pytest.fail("was trained"))
    study = StepwiseStudy(SkinLesionSettings.model_validate(settings(lesions()).model_dump() | changes))
    with pytest.raises(RequestError, match=said):
        Resources().get(study.bench)


def test_what_is_given_goes_over_the_defaults_of_the_study():
    asked = SkinLesionSettings.model_validate({"data": {"source": "x"}, "train": {"epochs": 3}})
    assert (asked.data.resize.size, asked.data.augmentation) == (224, "photo")
    assert (asked.train.epochs, asked.train.optimiser, asked.train.repeat["df"]) == (3, "adam", 50)


def test_sections_of_a_recipe_that_share_values_are_set_one_by_one():
    asked = load_settings(SkinLesionSettings, "skin-lesions", {"train.repeat.mel": 99})
    assert (asked.train.repeat["mel"], asked.finetune.repeat["mel"]) == (99, 5)


def test_criteria_of_the_same_name_stay_apart(finished):
    study, tables = finished
    steps = tables["steps"].replace({"criterion": {"lrp": "lrp:start=one", "weight": "lrp"}})
    classes = tables["classes"].replace({"criterion": {"lrp": "lrp:start=one", "weight": "lrp"}})
    other = {**tables, "steps": steps, "classes": classes}
    assert [row[1] for row in study.overview(other)[0].rows] == ["lrp:start=one", "lrp"]
    assert {row.criterion for row in study.page(other).sections[0].rows} == {"none", "lrp:start=one", "lrp"}


def test_a_class_that_is_not_there_is_not_named(finished):
    study, tables = finished
    other = {**tables, "classes": tables["classes"][tables["classes"]["class"] != "mel"]}
    assert "lowest recall, %" in render(study.page(other))
    assert "recall of mel" not in render(study.page(other))


def test_without_the_unpruned_network_it_is_said(finished):
    study, tables = finished
    steps = tables["steps"]
    with pytest.raises(SecateurError, match="the unpruned network is not measured"):
        study.overview({**tables, "steps": steps[steps["criterion"] != "none"]})


def test_data_with_one_other_image_are_other_data():
    pixels = np.zeros((40, 8, 8, 3), np.uint8)

    def digest(images):
        split = LabelledImages(images, np.arange(40) % 2, ("a", "b"), Normalisation((0.5,) * 3, (0.5,) * 3))
        return data_digest(ImageData("x", split, split, split))

    other = pixels.copy()
    other[30, 4, 4, 1] = 1
    assert digest(pixels) == digest(pixels.copy()) != digest(other)


@pytest.mark.usefixtures("_cache")
@pytest.mark.slow
def test_repetition_is_of_training_images_alone(monkeypatch):
    """Each batch of training is counted; validation sees each image once."""
    study = StepwiseStudy(settings(lesions(), criteria=("weight",), steps=(0.2, 0.2)))
    bench = Resources().get(study.bench)
    labels = bench.data.train.labels
    counts = np.bincount(labels)
    balanced = repeated(bench.data.train, "balanced", 0, 0)
    seen = np.bincount(labels[balanced.indices])
    assert (seen % counts == 0).all()
    assert seen.max() / seen.min() < 2 <= counts.max() / counts.min()
    seen_in_epoch = []
    batch = type(bench.data.val).batch
    monkeypatch.setattr(type(bench.data.val), "batch", lambda self, indices: (
        seen_in_epoch.append((len(self), len(list(indices)))), batch(self, indices))[1])  # fmt: skip
    fit(bench.model, bench.data.train, bench.data.val, TrainSettings(epochs=1, repeat="balanced", device="cpu"))
    read = {size: sum(n for total, n in seen_in_epoch if total == size) for size, _ in seen_in_epoch}
    assert read[len(bench.data.train)] == len(balanced)
    assert read[len(bench.data.val)] == len(bench.data.val)


@pytest.mark.parametrize(
    ("repeat", "said"), [({"melanoma": 2}, "unknown class 'melanoma'"), ({"mel": 0}, "give 1 or more")]
)
def test_wrong_repetition_is_refused(repeat, said):
    class Data(torch.utils.data.TensorDataset):
        class_names = ("mel", "nv")
        labels = np.array([0, 1, 1])

    assert len(repeated(Data(torch.zeros(3, 2), torch.tensor([0, 1, 1])), {"nv": 3}, 0, 0)) == 7
    data = Data(torch.zeros(3, 2), torch.tensor([0, 1, 1]))
    with pytest.raises(RequestError, match=said):
        fit(nn.Linear(2, 2), data, None, TrainSettings(epochs=1, repeat=repeat, device="cpu"))
    with pytest.raises(RequestError, match="neither labels nor targets"):
        fit(nn.Linear(2, 2), torch.utils.data.TensorDataset(torch.zeros(3, 2), torch.tensor([0, 1, 1])), None,
            TrainSettings(epochs=1, repeat="balanced", device="cpu"))  # fmt: skip


def test_weighted_epochs_show_all_classes_equally_and_differ():
    class Data(torch.utils.data.TensorDataset):
        labels = np.repeat([0, 1], [900, 100])

    data = Data(torch.zeros(1000, 1))
    first, second = (repeated(data, "weighted", 0, epoch).indices for epoch in (0, 1))
    assert first != second
    assert first == repeated(data, "weighted", 0, 0).indices
    assert 0.45 < np.mean(data.labels[first]) < 0.55


def test_the_area_under_the_curve_is_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(300, 5, generator=generator).round(decimals=1)  # with ties
    targets = torch.randint(0, 5, (300,), generator=generator)
    expected = metrics.roc_auc_score(targets, logits.double().softmax(1), multi_class="ovr")
    assert area_under_curve(logits, targets) == pytest.approx(expected)
    assert area_under_curve(logits[:3], torch.tensor([1, 1, 1])) is None


SCRIPT = """
import sys
from secateur.experiments import Store, run
from secateur.studies.skin_lesions import SkinLesionSettings
from secateur.studies.stepwise import StepwiseStudy
study = StepwiseStudy(SkinLesionSettings.model_validate_json(sys.argv[1]))
with Store(sys.argv[2], study.name, study.version, study.tables) as store:
    run(study, store, progress=False).raise_failures(store)
"""


@pytest.mark.slow
def test_ten_kills_change_no_row(tmp_path):
    """kill -9 at random moments of the first three steps; the same rows come out."""
    asked = settings(lesions(), epochs=2, steps=(0.15, 0.45), criteria=("lrp", "taylor"))
    text = asked.model_dump_json()

    def command(name):
        environment = os.environ | {"SECATEUR_CACHE": str(tmp_path / name), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT, text, str(tmp_path / f"{name}.sqlite")], env=environment,
            start_new_session=True,
        )  # fmt: skip

    begin = time.monotonic()
    assert command("whole").wait() == 0
    whole, kills, chance = time.monotonic() - begin, 0, random.Random(0)
    for _ in range(10):
        process = command("killed")
        try:
            process.wait(chance.uniform(0.45, 0.7) * whole / 2)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
    assert command("killed").wait() == 0
    assert kills >= 5
    frames = []
    study = StepwiseStudy(asked)
    for name in ("whole", "killed"):
        with Store(str(tmp_path / f"{name}.sqlite"), study.name, study.version, study.tables) as store:
            frames.append(store.frames())
    for table in ("steps", "classes", "plans", "pictures"):
        one, other = (frame[table].drop(columns="seconds", errors="ignore") for frame in frames)
        pd.testing.assert_frame_equal(one, other)
