"""Figures against small independent computations."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import secateur as sc
from networks import zoo
from secateur.core import timing
from secateur.core.timing import LatencyShare
from secateur.evaluation import compare_latency, count_macs, size_on_disk
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


class Worker(nn.Module):
    """Takes a made-up time on a made-up clock."""

    def __init__(self, clock, milliseconds):
        super().__init__()
        self.fc = nn.Linear(1, 1)
        self.clock, self.milliseconds = clock, milliseconds

    def forward(self, x):
        self.clock.now += self.milliseconds(self.clock) / 1000
        return x


class Clock:
    """Time goes on while networks run, and not else."""

    def __init__(self, seed=0):
        self.now, self.generator = 0.0, np.random.default_rng(seed)

    def __call__(self):
        return self.now

    def noise(self, spread):
        return math.exp(spread * self.generator.normal())


@pytest.fixture
def clock(monkeypatch):
    made_up = Clock()
    monkeypatch.setattr(timing, "clock", made_up)
    return made_up


def test_the_share_survives_a_machine_that_slows_down(clock):
    def slows(of):
        return lambda c: of * (1 + 2 * c.now) * c.noise(0.005)

    before, after = sc.measure_latency([Worker(clock, slows(10)), Worker(clock, slows(6.7))], torch.zeros(8, 1))
    low, high = after.relative.interval
    assert low <= 0.67 <= high
    assert high - low < 0.05
    assert after.relative.faster
    assert after.median_ms / before.median_ms == pytest.approx(after.relative.share)
    assert str(after.relative).startswith("0.67 of the time [0.6")
    # and that it was slow now and then is said
    assert before.busy
    assert after.busy
    assert after.warning == before.warning == f"measured on a busy machine: spread {100 * before.spread:.0f} %"


def test_equal_networks_differ_measurably_in_few_of_many_measurements():
    claims = 0
    for seed in range(300):
        times = 1108 * np.exp(0.1 * np.random.default_rng(seed).normal(size=(15, 2)))
        _, second = timing.latencies(times, 1, 1)
        claims += second.relative.measurable
        assert second.relative.measurable != str(second.relative).startswith("no measurable difference [")
    assert claims <= 0.05 * 300


def test_a_busy_machine_that_favours_one_network_for_a_while_widens_the_interval():
    noise = np.exp(0.002 * np.random.default_rng(0).normal(size=(64, 2)))
    times = noise * [10.0, 8.0]
    times[:8, 0] *= 1.4  # another process meets the first network for a while, then both
    times[32:] *= 1.5
    _, after = timing.latencies(times, 1, 1)
    assert after.busy
    assert after.relative.interval[0] == pytest.approx(0.8 / 1.4, rel=0.01)
    assert after.relative.share == pytest.approx(0.8, rel=0.01)


def test_1108_against_1104_ms_is_no_gain(clock):
    first, second = (Worker(clock, lambda c, ms=ms: ms * c.noise(0.02)) for ms in (1108, 1104))
    _, after = sc.measure_latency([first, second], torch.zeros(1, 1))
    assert not after.relative.measurable
    assert not after.relative.faster
    assert "no measurable difference [" in str(after.relative)


def test_intervals_are_judged_as_they_are_printed():
    assert not LatencyShare(0.99, (0.98, 0.996), 15, 1.0).measurable  # reads [0.98, 1.00]
    assert LatencyShare(0.99, (0.98, 0.994), 15, 1.0).faster
    slower = LatencyShare(1.2, (1.1, 1.3), 15, 1.0)
    assert slower.measurable
    assert not slower.faster
    assert str(LatencyShare(0.0312, (0.0305, 0.0321), 15, 1.0)) == "0.031 of the time [0.030, 0.032]"


def test_few_rounds_claim_nothing(clock):
    networks = [Worker(clock, lambda _: 10.0), Worker(clock, lambda _: 1.0)]
    _, after = sc.measure_latency(networks, torch.zeros(1, 1), repeats=5)
    assert after.relative.interval is None
    assert not after.relative.faster
    assert str(after.relative) == "0.10 of the time (no interval: fewer than 6 rounds)"
    _, after = sc.measure_latency(networks, torch.zeros(1, 1), repeats=6)
    assert after.relative.faster


@pytest.mark.parametrize(("spread", "busy"), [(0.02, False), (0.05, False), (0.12, True), (0.5, True)])
def test_busy_is_a_wide_middle_half_of_the_plain_pass(clock, spread, busy):
    turn = itertools.count()
    (found,) = sc.measure_latency([Worker(clock, lambda _: 10 * (1 + spread * (next(turn) % 2)))], torch.zeros(1, 1))
    assert found.busy == busy
    assert bool(found.warning) == busy
    kept = found.to_json()
    assert kept["busy"] == busy
    assert kept["spread"] == found.spread
    assert timing.Latency.from_json(json.loads(json.dumps(kept))) == found


def test_measuring_ends_when_the_share_is_known(clock):
    def pair(noise):
        networks = (Worker(clock, lambda c, ms=ms: ms * c.noise(noise)) for ms in (10.0, 5.0))
        return compare_latency(*networks, torch.zeros(1, 1), repeats=(12, 300), seconds=(0.3, 4.0))[1].relative

    quiet, noisy, hopeless = pair(0.001), pair(0.05), pair(1.0)
    assert quiet.rounds == 22  # 0.3 s at the least, of 15 ms each
    assert quiet.rounds < noisy.rounds <= hopeless.rounds <= 300
    assert noisy.uncertainty <= 0.02 < hopeless.uncertainty
    slowed = itertools.count()  # both alike, so that the share is known at once; but the machine is busy
    networks = [Worker(clock, lambda c, ms=ms: ms * (1 + next(slowed) // 8 % 2)) for ms in (10.0, 5.0)]
    begin = clock.now
    busy = compare_latency(*networks, torch.zeros(1, 1), seconds=(0.3, 4.0))[1].relative
    assert busy.uncertainty <= 0.02
    assert clock.now - begin > 4.0


def test_each_network_is_compared_with_the_one_named():
    times = np.array([[10.0, 5.0, 8.0, 2.0]] * 7)
    found = timing.latencies(times, 1, 1, against=[0, 0, 1])
    assert [round(t.relative.share, 3) for t in found[1:]] == [0.5, 0.8, 0.4]
    assert [t.median_ms for t in found] == pytest.approx([10, 5, 8, 2])
    row = found[3].columns("onnx")
    assert LatencyShare.from_columns(row, "onnx") == found[3].relative
    assert LatencyShare.from_columns({"latency_share": 0.5}).interval is None  # of an older table


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
    from secateur.models.building import shipped_metadata

    data = open_data(DataSettings(source=str(cifar10_path), limit=1000))
    known = shipped_metadata("resnet20-cifar10")["normalisation"]
    data = data.with_normalisation(Normalisation(tuple(known["mean"]), tuple(known["std"])))
    found = sc.evaluate(sc.build("resnet20-cifar10"), loader(data.test))
    assert found.accuracy > 0.88
