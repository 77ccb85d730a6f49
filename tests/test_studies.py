"""Every registered study keeps the contract of `check_study`."""

from __future__ import annotations

import pytest

from lesions import lesions
from secateur.experiments import check_study
from secateur.experiments.checking import check_dry, check_names, check_settings
from secateur.pipeline.compare_settings import SubsetSettings
from secateur.studies import toy
from secateur.studies.catalogue import PACKAGED, study_class
from secateur.studies.compare.settings import CompareStudySettings
from secateur.studies.prototypes import PrototypeStudySettings
from secateur.studies.search import SearchStudySettings
from secateur.studies.skin_lesions import SkinLesionSettings
from secateur.studies.stepwise import published

TINY = {"name": "resnet20", "arguments": {"width": 4}, "allow_untrained": True}
ODD, LOW = SubsetSettings(name="odd", classes=(1, 3, 5)), SubsetSettings(name="low", classes=(0, 1, 2))
BRIEF = {"seed": 0, "per_class": 100, "epoch": 2000, "epochs": 1, "batch_size": 100}


def compared(subsets=(), timing=0, **variants):
    """Settings of a small comparison."""
    variants = {"criteria": ("weight", "random"), "seeds": (0,), "published": False, "subsets": subsets} | variants
    whole = {
        "data": {"source": "mnist5k", "limit": 200},
        "model": TINY,
        "prune": {"schedule": "one-shot"},
        "finetune": {"epochs": 0, "device": "cpu"},
        "compare": {
            "variants": variants,
            "targets": {"budgets": (0.6,)},
            "sampling": {"per_class": 2, "limit": 30},
            "timing": {"repeats": timing, "batch": 4},
        },
        "device": "cpu",
    }
    return CompareStudySettings.model_validate(whole)


def without_limits(settings):
    """The same, with the fields that exclude each other the other way round, and those that need others."""
    raw = settings.model_dump()
    raw["compare"]["sampling"] |= {"limit": None}
    raw["compare"]["variants"] |= {"seeds": (0, 1), "published": True}
    raw["compare"]["timing"] |= {"repeats": 1}
    raw["finetune"] |= {"patience": 2, "distillation": {}}
    raw["prune"] |= {"repair": "mean"}
    return type(settings).model_validate(raw)


COMPARE_WRONG = {
    "compare.variants.criteria": ("lrq",),
    "compare.variants.unstructured": ("magnitud",),
    "compare.targets.kind": "mac",
    "prune.strategy": "globa",
    "prune.schedule": "oneshot",
    "finetune.optimiser": "sdg",
}
COMPARE_CHANGES = {
    "prune.strategy": "global",
    "compare.variants.criteria": ("random",),
    "compare.variants.blind": ("weight",),
    "compare.timing.onnx_budgets": (0.6,),
}


def several_settings():
    """Under which fields count that those of `compared` do not use: seeds and subsets to choose from."""
    subsets = ODD, SubsetSettings(name="odd", draw=3), SubsetSettings(name="odd", spaced=3)
    return [without_limits(compared()), *(without_limits(compared((each, LOW))) for each in subsets)]


def stepwise():
    """Settings of a small study of pruning in steps, on synthetic lesions."""
    brief = {"batch_size": 32, "learning_rate": 0.02, "device": "cpu"}
    return SkinLesionSettings.model_validate(
        {
            "data": {"source": str(lesions(scale=0.01, size=(24, 18))), "resize": 12, "cache": "never"},
            "model": {"name": "resnet20", "arguments": {"width": 2}},
            "train": {"epochs": 1, **brief},
            "variants": {
                "protocols": [
                    {"name": "ours", "criteria": ("weight", "random"), "per_class": 1, "prune": {"strategy": "global"}},
                    published(criteria=("weight:p=1",)),
                ],
                "seeds": (0,),
            },
            "steps": {"step": 0.3, "total": 0.5},
            "finetune": {"epochs": 1, **brief},
            "final_epochs": 0,
            "timing": {"repeats": 0},
            "pictures": {"images": 1},
            "device": "cpu",
        }
    )


def other_stepwise():
    """Under which fields count that those of `stepwise` do not use."""
    raw = stepwise().model_dump()
    raw["steps"] |= {"total": None, "count": 2}
    raw["finetune"] |= {"patience": 2}
    raw["timing"] |= {"repeats": 1}
    for protocol in raw["variants"]["protocols"]:
        protocol["prune"] |= {"repair": "mean"}
    return [type(stepwise()).model_validate(raw)]


STEPWISE = {
    "settings": stepwise,
    "also": other_stepwise,
    "changes": {
        "variants.protocols": ({"name": "ours", "criteria": ("weight",), "per_class": 1},),
        "finetune.repeat": "balanced",
        "variants.protocols.0.prune.strategy": "per-cost",
        "tracking.trackers": ("tensorboard",),
        "device": "cuda",
        "steps.of": "rest",
        "steps.total": 0.4,
    },
    "wrong": {
        "variants.protocols": ({"name": "ours", "criteria": ("lrq",)},),
        "steps.kind": "mac",
        "measure.split": "train",
        "finetune.repeat": "often",
    },
}


def prototype_study():
    """Settings of a small study of prototype networks, on synthetic lesions."""
    epoch = {"epochs": 1, "warm_epochs": 0, "push_every": 1, "push_start": 1, "last_iterations": 1}
    return PrototypeStudySettings.model_validate(
        {
            "data": {"source": str(lesions(scale=0.01, size=(24, 18))), "resize": 12, "cache": "never"},
            "network": {
                "backbone": "resnet20",
                "backbone_arguments": {"width": 2},
                "image_size": 12,
                "per_class": 1,
                "channels": 4,
                "add_on": "plain",
            },
            "train": epoch,
            "tune": epoch,
            "prototypes": {"last_iterations": 1},
            "reference": {"per_class": 1},
            "backbone": {"schedule": "one-shot"},
            "variants": {
                "ways": (
                    {"name": "weight", "backbone": "weight"},
                    {"name": "both", "backbone": "weight", "prototypes": True},
                    {"name": "prototypes", "prototypes": True},
                ),
                "macs": (0.7,),
                "seeds": (0,),
            },
            "device": "cpu",
        }
    )


def ranked_prototypes():
    """Under which fields count that purity does not use."""
    raw = prototype_study().model_dump()
    raw["prototypes"] |= {"criterion": "usage", "budget": 0.9}
    raw["backbone"] |= {"repair": "mean"}
    return [PrototypeStudySettings.model_validate(raw)]


PROTOTYPES = {
    "settings": prototype_study,
    "also": ranked_prototypes,
    "changes": {
        "variants.ways": ({"name": "weight", "backbone": "weight"},),
        "variants.macs": (0.6,),
        "variants.ways.0.backbone": "random",
        "network.backbone": "resnet56",
        "network.backbone_arguments": {"width": 3},
        "network.size": (2, 2),
        "prototypes.budget": 0.5,
        "backbone.strategy": "global",
        "tracking.trackers": ("tensorboard",),
        "device": "cuda",
    },
    "wrong": {
        "variants.ways": ({"name": "odd", "backbone": "lrq"},),
        "variants.macs": (0.6, 0.6),
        "backbone.schedule": "iterative",
        "backbone.strategy": "globa",
        "network.backbone": "resnet21",
        "measure.split": "train",
    },
}



def search():
    """Settings of a small search."""
    return SearchStudySettings.model_validate(
        {
            "data": {"source": "mnist5k", "limit": 200},
            "model": TINY,
            "space": {"gamma": (0.25,), "per_class": (1,), "first": ("none", "flat"), "softmax": ("attnlrp",)},
            "objective": {"rates": (0.0, 0.4, 0.8)},
            "sampler": {"kind": "tpe", "together": 2, "startup": 2},
            "trials": {"count": 4},
            "search": {"limit": 20},
            "measure": {"criteria": ("weight",), "seeds": (0,)},
            "measured": {"limit": 20, "per_class": 1},
            "device": "cpu",
        }
    )


def faithful_search():
    """Under which fields count that `search` does not use."""
    raw = search().model_dump()
    raw["objective"] |= {"faithfulness": True}
    raw["measure"] |= {"samples": (1,)}
    raw["search"] |= {"split": "train"}
    return [SearchStudySettings.model_validate(raw)]


SEARCH = {
    "settings": search,
    "also": faithful_search,
    "changes": {
        "space.low": ("epsilon",),
        "space.middle": ("epsilon",),
        "space.high": ("epsilon",),
        "space.classifier": ("epsilon",),
        "space.gamma": (0.1, 0.5),
        "space.first": ("flat",),
        "space.softmax": ("cp-lrp",),
        "space.start": ("one",),
        "space.reduce": ("abs",),
        "space.normalise": ("l1",),
        "space.at": ("makers",),
        "space.order": ("most",),
        "space.per_class": (2,),
        "objective.rates": (0.0, 0.5),
        "objective.classes": 3,
        "measure.criteria": ("random",),
        "measure.seeds": (1,),
        "measure.samples": (2,),
        "measure.images": 2,
        "measure.sampled": ("lrp",),
        "search.seeds": (1,),
        "search.split": "train",
        "tracking.trackers": ("tensorboard",),
        "device": "cuda",
    },
    "wrong": {
        "space.low": ("epsilom",),
        "measure.criteria": ("lrq",),
        "sampler.kind": "gb",
        "objective.goal": "apr",
        "objective.units": "filter",
        "measured.split": "tset",
    },
}

INSTANCES = {
    "toy": {
        "settings": lambda: toy.ToySettings.model_validate(
            {
                "grid": {
                    "datasets": ("moon",),
                    "criteria": ("lrp", "weight"),
                    "samples_per_class": (1,),
                    "seeds": (0, 1),
                },
                "network": BRIEF,
                "pruning": {"noise": (0.1,)},
                "execution": {"processes": 1},
            }
        ),
        "changes": {"grid.datasets": ("circle",), "grid.criteria": ("lrp",)},
        "wrong": {"grid.datasets": ("mon",), "grid.criteria": ("lrq",), "output.render": "gif"},
    },
    "compare": {
        "settings": compared,
        "also": several_settings,
        "changes": COMPARE_CHANGES,
        "wrong": COMPARE_WRONG,
    },
    "class-aware": {
        "settings": lambda: compared((ODD,), criteria=("weight",), blind=("weight",)),
        "also": lambda: several_settings()[1:],
        "changes": COMPARE_CHANGES,
        "wrong": {**COMPARE_WRONG, "compare.variants.subsets": ()},
    },
    "stepwise": STEPWISE,
    "skin-lesions": STEPWISE,
    "prototypes": PROTOTYPES,
    "search": SEARCH,
}
"""Small settings of each study; one that is registered without its line here fails below."""


def check(name, folder, processes=1, settings=None):
    chosen = INSTANCES[name]
    study = study_class(name)(settings or chosen["settings"]())
    also = chosen.get("also", list)()
    check_study(study, folder, processes=processes, changes=chosen["changes"], also=also, wrong=chosen["wrong"])


@pytest.fixture
def _cache(tmp_path, monkeypatch):
    """A cache of its own, so that tests neither find nor leave anything."""
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path / "cache"))


QUICK = ("toy",)
"""Studies whose whole contract is checked in seconds."""


@pytest.mark.usefixtures("_cache")
@pytest.mark.parametrize("name", PACKAGED)
def test_settings_and_dry_runs_of_every_study(name, tmp_path):
    pytest.importorskip("sklearn")
    assert name in INSTANCES, f"give small settings of study '{name}' above"
    chosen = INSTANCES[name]
    study = study_class(name)(chosen["settings"]())
    check_dry(study, tmp_path, sent=True)
    check_names(study, chosen["wrong"])
    check_settings(study, chosen["changes"], chosen.get("also", list)())


@pytest.mark.usefixtures("_cache")
@pytest.mark.parametrize("name", QUICK)
def test_quick_studies_keep_the_contract(name, tmp_path):
    pytest.importorskip("sklearn")
    check(name, tmp_path / "study")


@pytest.mark.slow
@pytest.mark.usefixtures("_cache")
@pytest.mark.parametrize("name", PACKAGED)
def test_every_study_keeps_the_contract(name, tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip("mlxtend")
    check(name, tmp_path / "study", processes=2)


@pytest.mark.slow
@pytest.mark.usefixtures("_cache")
def test_comparisons_with_times_retraining_and_masks_keep_the_contract(tmp_path):
    pytest.importorskip("mlxtend")
    settings = compared(timing=1, criteria=("lrp", "random"), unstructured=("magnitude",), published=True)
    tuned = settings.finetune.model_copy(update={"epochs": 1})
    check("compare", tmp_path / "study", settings=settings.model_copy(update={"finetune": tuned}))
