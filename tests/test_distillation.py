"""Learning from a teacher beside the labels."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn
from torch.utils.data import TensorDataset

from secateur.core.errors import RequestError
from secateur.models import build
from secateur.surgery import mask_head, slice_head
from secateur.training import DistillationSettings, TrainSettings, fit

STEP = TrainSettings(
    epochs=1, batch_size=12, learning_rate=0.1, momentum=0, weight_decay=0, schedule="constant", device="cpu",
    distillation=DistillationSettings(),
)  # fmt: skip
FAST = TrainSettings(epochs=4, batch_size=16, learning_rate=0.05, device="cpu", distillation=DistillationSettings())


def points(count: int = 12, classes: int = 3, seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(count, 4, generator=generator), torch.arange(count) % classes)


def network(seed: int = 0, outputs: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, outputs))


def linear(seed: int, outputs: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Linear(4, outputs)


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights(first).values(), weights(second).values(), strict=True))


def with_distillation(settings: TrainSettings, **values) -> TrainSettings:
    return settings.model_copy(update={"distillation": DistillationSettings(**values)})


def softmax(values, temperature):
    powers = np.exp(values / temperature - (values / temperature).max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


@given(temperature=st.floats(0.5, 20), weight=st.floats(0, 1), seed=st.integers(0, 100))
@settings(deadline=None, max_examples=15)
def test_the_loss_is_hintons(temperature, weight, seed):
    student, teacher, data = linear(seed), linear(seed + 1), points(seed=seed)
    inputs, targets = (tensor.double().numpy() for tensor in data[:])
    said, heard = (
        inputs @ m.weight.detach().double().numpy().T + m.bias.detach().double().numpy() for m in (teacher, student)
    )
    labels = np.eye(3)[targets.astype(int)]
    p, q, plain = softmax(said, temperature), softmax(heard, temperature), softmax(heard, 1)
    hard = -np.log(plain[labels == 1]).mean()
    soft = (p * np.log(p / q)).sum(1).mean()
    expected = (1 - weight) * hard + weight * temperature**2 * soft
    # dL/dlogits of both parts, by hand; the temperature is squared once and divided out once
    slope = ((1 - weight) * (plain - labels) + weight * temperature * (q - p)) / len(inputs)
    wanted = student.weight.detach().double().numpy() - STEP.learning_rate * slope.T @ inputs
    history = fit(student, data, None, with_distillation(STEP, temperature=temperature, weight=weight), teacher=teacher)
    assert history.rows[0]["train_loss"] == pytest.approx(expected, rel=1e-4, abs=1e-5)
    np.testing.assert_allclose(student.weight.detach().numpy(), wanted, atol=1e-5)


def test_without_weight_it_is_plain_training_and_with_all_the_labels_do_not_matter():
    plain, distilled = network(), network()
    fit(plain, points(40), None, FAST.model_copy(update={"distillation": None}))
    fit(distilled, points(40), None, with_distillation(FAST, weight=0.0), teacher=network(1))
    assert equal(plain, distilled)
    first, second = network(), network()
    other = TensorDataset(points(40)[:][0], (points(40)[:][1] + 1) % 3)
    for student, data in ((first, points(40)), (second, other)):
        fit(student, data, None, with_distillation(FAST, weight=1.0), teacher=network(1))
    assert equal(first, second)


def test_a_student_comes_to_say_what_its_teacher_says():
    teacher, student, data = linear(0), linear(1), points(60)
    for p in teacher.parameters():
        p.data *= 3
    settings = with_distillation(TrainSettings(epochs=30, batch_size=20, device="cpu", weight_decay=0), weight=1.0)
    fit(student, data, None, settings, teacher=teacher)
    said, heard = (m(data[:][0]).softmax(1).detach() for m in (teacher, student))
    assert (said - heard).abs().max() < 0.05


def test_the_teacher_stays_as_it_is():
    torch.manual_seed(0)
    teacher, student = (build("resnet20", width=4, num_classes=3) for _ in range(2))
    teacher.train()
    teacher.bn1.eval()
    teacher.fc.weight.requires_grad_(False)
    before = copy.deepcopy(teacher)
    strides = [p.stride() for p in teacher.parameters()]
    images = TensorDataset(torch.randn(12, 3, 8, 8), torch.arange(12) % 3)
    fit(student, images, images, FAST.model_copy(update={"epochs": 1}), teacher=teacher)
    assert equal(teacher, before)
    assert [m.training for m in teacher.modules()] == [m.training for m in before.modules()]
    assert [p.requires_grad for p in teacher.parameters()] == [p.requires_grad for p in before.parameters()]
    assert [p.stride() for p in teacher.parameters()] == strides
    assert all(p.grad is None for p in teacher.parameters())


def test_a_network_teaches_itself_as_it_was():
    own, same = network(), network()
    fit(own, points(40), None, FAST, teacher=own)
    fit(same, points(40), None, FAST, teacher=network())
    assert equal(own, same)


def refused(message, student, settings, **options):
    before = weights(student)
    with pytest.raises(RequestError, match=message) as caught:
        fit(student, points(), None, settings, **options)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(student).items())


def test_teachers_that_do_not_fit_are_refused():
    refused("needs a teacher", linear(0), STEP)
    refused("needs a teacher", linear(0), STEP.model_copy(update={"epochs": 0}))
    plain = STEP.model_copy(update={"distillation": None})
    refused("distillation is not; set it", linear(0), plain, teacher=linear(1))
    refused(r"teacher gives outputs of shape \(12, 5\), the network \(12, 3\)", linear(0), STEP, teacher=linear(1, 5))
    for wrong in ({"temperature": 0}, {"temperature": float("inf")}, {"weight": 1.1}, {"heat": 1}):
        with pytest.raises(ValidationError):
            DistillationSettings(**wrong)
    assert DistillationSettings() == DistillationSettings(temperature=3.0, weight=0.7)
    assert TrainSettings.model_validate({"distillation": {"weight": 0.5}}).distillation == DistillationSettings(
        weight=0.5
    )


def test_teachers_of_more_classes_are_cut_or_masked_like_the_student():
    x = points()[:][0]
    teacher, student = linear(0, 5), linear(1, 5)
    fit(slice_head(student, [0, 2, 4], x), points(), None, STEP, teacher=slice_head(teacher, [0, 2, 4], x))
    masked = mask_head(student, [0, 1, 2])
    history = fit(masked, points(), None, STEP, teacher=mask_head(teacher, [0, 1, 2]))
    cut = slice_head(student, [0, 1, 2], x)
    assert history.rows[0]["train_loss"] == pytest.approx(
        fit(cut, points(), None, STEP, teacher=slice_head(teacher, [0, 1, 2], x)).rows[0]["train_loss"]
    )
    torch.testing.assert_close(masked.weight[:3], cut.weight)
    torch.testing.assert_close(masked.weight[3:], student.weight[3:])


class Failing(TensorDataset):
    """Stops the work after some samples."""

    left = 100

    def __getitem__(self, index):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return super().__getitem__(index)


def test_a_resumed_run_equals_an_unbroken_one(tmp_path):
    state, settings = tmp_path / "state.pt", FAST.model_copy(update={"mixed_precision": "bf16"})
    whole, resumed = network(), network(seed=3)
    expected = fit(whole, points(40), points(seed=1), settings, teacher=network(7))
    with pytest.raises(KeyboardInterrupt):
        fit(network(), Failing(*points(40).tensors), points(seed=1), settings, state, teacher=network(7))
    assert torch.load(state, weights_only=True)["epoch"] == 2
    with pytest.raises(RequestError, match="another teacher"):
        fit(network(), points(40), points(seed=1), settings, state, teacher=network(8))
    with pytest.raises(RequestError, match="other settings"):
        fit(network(), points(40), points(seed=1), settings.model_copy(update={"distillation": None}), state)
    assert fit(resumed, points(40), points(seed=1), settings, state, teacher=network(7)) == expected
    assert equal(resumed, whole)


def test_states_from_before_there_were_teachers(tmp_path):
    state, plain = tmp_path / "state.pt", FAST.model_copy(update={"distillation": None})
    whole = network()
    expected = fit(whole, points(40), None, plain, state)
    old = torch.load(state, weights_only=True)
    told = json.loads(old["settings"])
    del told["distillation"], old["teacher"]
    torch.save({**old, "settings": json.dumps(told)}, state)
    again = network(seed=4)
    assert fit(again, points(40), None, plain, state) == expected
    assert equal(again, whole)
    with pytest.raises(RequestError, match="other settings"):
        fit(network(), points(40), None, FAST, state, teacher=network(1))
