"""Figures against small independent computations."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import secateur as sc
from networks import zoo
from secateur.evaluation import count_macs, size_on_disk
from secateur.models import save_weights


class Fixed(nn.Module):
    """Says what it is given."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(1, 1)

    def forward(self, x):
        return x


def test_accuracies_loss_and_calibration():
    logits = torch.tensor([[2.0, 0, 0], [0, 2.0, 0], [0, 2.0, 0], [0, 0, 2.0]])
    targets = torch.tensor([0, 0, 1, 2])
    found = sc.evaluate(Fixed(), [(logits[:3], targets[:3]), (logits[3:], targets[3:])], class_names=("a", "b", "c"))
    assert found.accuracy == 0.75
    assert found.per_class == {"a": 0.5, "b": 1.0, "c": 1.0}
    assert found.balanced_accuracy == pytest.approx(2.5 / 3)
    assert found.loss == pytest.approx(float(F.cross_entropy(logits, targets)))
    assert found.calibration_error == pytest.approx(abs(0.75 - float(logits.softmax(1).max())), abs=1e-6)


def test_attention_products_are_counted():
    """Fused kernels hide their products from the counter; the plain one does not."""

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(8, 24, bias=False)

        def forward(self, x):
            q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
            return F.scaled_dot_product_attention(q, k, v)

    tokens = 5
    assert count_macs(Attention(), torch.zeros(1, tokens, 8)) == tokens * 8 * 24 + 2 * 2 * tokens * tokens * 4


def test_size_is_the_size_of_the_file(tmp_path):
    model, _ = zoo("resnet20")
    assert abs(size_on_disk(model) - save_weights(model, tmp_path / "m.safetensors").stat().st_size) < 200


def test_latency_alternates_and_restores():
    model, x = zoo("resnet20")
    model.train()
    order = []
    other = nn.Sequential(nn.Flatten(), nn.Linear(768, 2))
    model.register_forward_hook(lambda *_: order.append("a"))
    other.register_forward_hook(lambda *_: order.append("b"))
    a, b = sc.measure_latency([model, other], x, repeats=4, warmup=0)
    assert "".join(order) in ("abbaabba", "baabbaab")
    assert a.quartiles_ms[0] <= a.median_ms <= a.quartiles_ms[1]
    assert b.batch_size == 2
    assert model.training
    with pytest.raises(sc.RequestError, match="repeats >= 1"):
        sc.measure_latency([model], x, repeats=0)


def test_bad_sets():
    with pytest.raises(sc.RequestError, match="no samples"):
        sc.evaluate(Fixed(), [])
    with pytest.raises(sc.RequestError, match="label 5 is beyond the network's 3 outputs"):
        sc.evaluate(Fixed(), [(torch.zeros(1, 3), torch.tensor([5]))])
    with pytest.raises(sc.SecateurError, match="not finite"):
        sc.evaluate(Fixed(), [(torch.full((1, 3), float("nan")), torch.tensor([0]))])


def test_the_shipped_network_keeps_its_promise(cifar10_path):
    """Accuracy of the shipped ResNet-20 on real test images, and of its half by the default recipe."""
    from secateur.data import DataSettings, Normalisation, loader, open_data
    from secateur.models.build import shipped_metadata

    data = open_data(DataSettings(source=str(cifar10_path), limit=1000))
    known = shipped_metadata("resnet20-cifar10")["normalisation"]
    data = data.with_normalisation(Normalisation(tuple(known["mean"]), tuple(known["std"])))
    found = sc.evaluate(sc.build("resnet20-cifar10"), loader(data.test))
    assert found.accuracy > 0.88
